"""Your own images: one sub-folder a class, any format that Pillow reads.

pets/cat/1.jpg  pets/cat/2.png  pets/dog/a.webp ...       every fifth image of a class becomes a test image
pets/train/cat/...  pets/test/cat/...                     or say yourself which is which
"""

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tinymnv1.data.dataset import Dataset, channel_statistics
from tinymnv1.errors import ConfigError, DataError
from tinymnv1.ops.window import Array

TEST_SHARE = 5
"""One image in so many is a test image when the folder does not say."""


def read_image(path: Path, resolution: int) -> Array:
    """One image as (resolution, resolution, 3) uint8 RGB.

    The shorter side is scaled to `resolution` pixels and the middle is kept; a photo's EXIF rotation is applied.
    Transparent parts become white. Raises DataError, which names the file, if it cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.getexif()  # read here, and then taken away: exif_transpose would write it again, and cannot write
                image.info.pop("exif", None)  # all that cameras have written
                upright = _eight_bits(ImageOps.exif_transpose(image), image.format, path)
                if upright.has_transparency_data:
                    rgba = upright.convert("RGBA")
                    upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                rgb = upright.convert("RGB")
                return np.asarray(ImageOps.fit(rgb, (resolution, resolution), Image.Resampling.BILINEAR))
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: is not an image that Pillow can read; move it away") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, not an image; move its images out, or the folder away") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: has too many pixels; scale it down first") from error
    except (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, NotImplementedError, struct.error) as error:
        # what Pillow's decoders raise on a damaged file
        raise DataError(f"{path}: cannot be decoded ({str(error) or type(error).__name__})") from error


def _eight_bits(image: Image.Image, kind: str | None, path: Path) -> Image.Image:
    """An image of 16 bits a pixel scaled to 8, which Pillow would cut off at 255; kind: its file's format.

    Raises DataError if the pixels are numbers without a known range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"{path}: has signed pixels, or of 32 bits, whose black and white are not known; save it with 8 bits"
        )
    return image


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Class name -> what its folder holds, both sorted; what is hidden is left out.

    A folder in it, or a link to nothing, is not left out: `read_image` says that it is there.
    """
    return {
        entry.name: sorted(f for f in entry.iterdir() if not f.name.startswith("."))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }


def _holds_files(folder: Path) -> bool:
    return any(entry.is_file() and not entry.name.startswith(".") for entry in folder.iterdir())


def load_folder(folder: Path, resolution: int) -> Dataset:
    """Read a folder of images into memory, scaled to `resolution` pixels square.

    With `train/` and `test/` inside, those are the two parts; otherwise every fifth image of each class, by name, is a
    test image. Raises ConfigError if the resolution is below 1; DataError if there are fewer than two classes, if one
    holds what is not an image or cannot be decoded, or if a part is empty.
    """
    if resolution < 1:
        raise ConfigError(f"resolution must be at least 1 pixel, got {resolution}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --data-dir must hold one sub-folder of images for each class")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = _class_folders(folder / "train"), _class_folders(folder / "test")
        if not any(test.values()):
            raise DataError(f"{folder / 'test'}: holds no images; put some in, or leave that folder and train/ out")
        if extra := sorted(test.keys() - train.keys()):
            raise DataError(f"{folder / 'test' / extra[0]}: a class without training images in {folder / 'train'}")
    elif (folder / "train").is_dir() and not _holds_files(folder / "train"):
        raise DataError(
            f"{folder / 'train'}: holds no images itself; if it holds the classes, the test images must lie beside it"
            " in a folder called test"
        )
    else:
        found = _class_folders(folder)
        test = {name: files[TEST_SHARE - 1 :: TEST_SHARE] for name, files in found.items()}
        train = {
            name: [f for i, f in enumerate(files) if i % TEST_SHARE != TEST_SHARE - 1] for name, files in found.items()
        }
    classes = tuple(train)
    if len(classes) < 2:
        raise DataError(f"{folder}: needs at least two sub-folders of images, one a class; found {len(classes)}")
    for name, files in train.items():
        if not name.isprintable():  # bytes that are not UTF-8 come as unpaired surrogates
            raise DataError(f"{folder}: {name!r} has characters that cannot be printed; rename the folder")
        if not files:
            raise DataError(f"{folder}: class {name!r} has no training images")
    if not any(test.values()):
        raise DataError(f"{folder}: too few images to set one in {TEST_SHARE} aside for testing; add some")
    parts = []
    for part in (train, test):
        images = [read_image(file, resolution) for files in part.values() for file in files]
        labels = [classes.index(name) for name, files in part.items() for _ in files]
        parts.append((np.stack(images), np.array(labels, np.int64)))
    mean, std = channel_statistics(parts[0][0])
    return Dataset(folder.name or "folder", classes, *parts[0], *parts[1], mean, std)
