"""A folder of one's own images: splits, formats, and everything that can be wrong with a picture file."""

import io
import os
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from tinymnv1.data import load_folder, read_image
from tinymnv1.errors import ConfigError, DataError


def paint(path, colour, size=(20, 30), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


@pytest.fixture
def pets(tmp_path):
    for name, colour in (("cat", "red"), ("dog", "blue")):
        for i in range(7):
            paint(tmp_path / "pets" / name / f"{i}.png", colour)
    paint(tmp_path / "pets" / ".hidden" / "x.png", "green")
    return tmp_path / "pets"


def test_every_fifth_image_is_a_test_image(pets):
    data = load_folder(pets, 8)
    assert data.classes == ("cat", "dog")
    assert data.train_images.shape == (12, 8, 8, 3)
    assert data.test_labels.tolist() == [0, 1]
    assert (data.train_images[data.train_labels == 0] == [255, 0, 0]).all()
    assert (data.train_images[data.train_labels == 1] == [0, 0, 255]).all()


def test_classes_without_a_test_image_are_known(pets):
    assert load_folder(pets, 8).untested() == ()
    paint(pets / "ant" / "0.png", "green")  # four images, and the fifth would be the test image
    assert load_folder(pets, 8).untested() == ("ant",)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                paint(tmp_path / part / name / f"{i}.jpg", "white")
    data = load_folder(tmp_path, 4)
    assert (len(data.train_labels), len(data.test_labels)) == (6, 4)
    assert data.std == pytest.approx([1 / 255] * 3)  # all white: a constant channel must not divide by zero
    paint(tmp_path / "test" / "unknown" / "0.jpg", "white")
    with pytest.raises(DataError, match="unknown"):
        load_folder(tmp_path, 4)


def test_an_image_is_scaled_and_cropped_in_the_middle(tmp_path):
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # the middle is white, the sides are black
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 10) == 255).all()


def test_every_pixel_of_a_large_image_counts(tmp_path):
    """Scaling averages: of a fine checkerboard it leaves grey, where single pixels would be black and white."""
    board = np.indices((32, 32)).sum(axis=0) % 2 * np.uint8(255)
    Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)).save(tmp_path / "board.png")
    small = read_image(tmp_path / "board.png", 4).astype(int)
    assert np.abs(small - 127).max() < 20


def test_modes_transparency_and_rotation(tmp_path):
    Image.new("L", (4, 4), 128).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png", 4) == 128).all()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", 4) == 255).all()
    half = Image.new("RGB", (8, 8), "black")
    half.paste("white", (0, 0, 8, 4))  # the top is white
    exif = half.getexif()
    exif[0x0112] = 3  # taken upside down
    half.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png", 8)
    assert (turned[:4] == 0).all()
    assert (turned[4:] == 255).all()


def test_sixteen_bits_become_eight(tmp_path):
    """Pillow itself would cut off at 255: nearly everything would be white."""
    ramp = (np.arange(16, dtype=np.uint16).reshape(4, 4) * 0x1111).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
    (tmp_path / "a.pgm").write_bytes(b"P5 4 4 65535\n" + ramp.astype(">u2").tobytes())  # not every Pillow writes it
    for name in ("a.png", "a.tif", "a.pgm"):
        np.testing.assert_array_equal(read_image(tmp_path / name, 4), np.repeat((ramp >> 8)[..., None], 3, axis=2))
    for name, pixels in (("f.tif", ramp / np.float32(0xFFFF)), ("i.tif", ramp.astype(np.int32) << 8)):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: has signed pixels, or of 32 bits"):
            read_image(tmp_path / name, 4)


def test_a_photo_is_turned_whatever_else_its_exif_says(tmp_path):
    """Cameras write entries that Pillow can read but not write again: here the width, as text."""
    half = Image.new("RGB", (8, 8), "black")
    half.paste("white", (0, 0, 8, 4))  # the top is white
    entries = struct.pack("<HHIH2s", 0x0100, 2, 2, 0, b"8")[:8] + b"8\0\0\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    half.save(tmp_path / "photo.jpg", exif=exif, quality=100)
    turned = read_image(tmp_path / "photo.jpg", 8)
    assert turned[:4].max() < 20
    assert turned[4:].min() > 235


def test_what_is_wrong_is_said(tmp_path, pets):
    with pytest.raises(ConfigError, match="resolution must be at least 1 pixel, got -3"):
        load_folder(pets, -3)
    with pytest.raises(DataError, match="no such folder"):
        load_folder(tmp_path / "nowhere", 8)
    one = tmp_path / "one"
    paint(one / "cat" / "1.png", "red")
    with pytest.raises(DataError, match="at least two"):
        load_folder(one, 8)
    paint(one / "dog" / "1.png", "red")
    with pytest.raises(DataError, match="too few images"):
        load_folder(one, 8)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "parts" / part / name).mkdir(parents=True)
    paint(tmp_path / "parts" / "train" / "cat" / "1.png", "red")
    paint(tmp_path / "parts" / "train" / "dog" / "1.png", "red")
    with pytest.raises(DataError, match="test: holds no images"):
        load_folder(tmp_path / "parts", 8)
    (tmp_path / "parts" / "test").rename(tmp_path / "parts" / "val")
    (tmp_path / "parts" / "train" / ".DS_Store").touch()
    with pytest.raises(DataError, match=r"train: holds no images itself; .* in a folder called test"):
        load_folder(tmp_path / "parts", 8)
    (pets / "dog" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"notes.txt: is not an image"):
        load_folder(pets, 8)
    (pets / "dog" / "notes.txt").unlink()
    (pets / "dog" / "more").mkdir()
    with pytest.raises(DataError, match=r"more: is a folder, not an image; move its images out"):
        load_folder(pets, 8)
    (pets / "dog" / "more").rmdir()
    (pets / "dog" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"link.png: no such file"):
        load_folder(pets, 8)
    (pets / "dog" / "link.png").unlink()
    (pets / "dog" / ".hidden").mkdir()
    load_folder(pets, 8)
    if sys.platform == "linux":  # elsewhere a file system may not have such a name
        paint(pets / os.fsdecode(b"caf\xe9") / "1.png", "red")
        with pytest.raises(DataError, match="cannot be printed; rename the folder"):
            load_folder(pets, 8)


def test_a_damaged_image_is_named_or_still_an_image(tmp_path):
    """Flipped bits and truncation in PNG and JPEG: a DataError that names the file, or a picture of the right shape."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    refused = 0
    for kind in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        good = buffer.getvalue()
        path = tmp_path / f"x.{kind.lower()}"
        for _ in range(200):
            bad = bytearray(good)
            if rng.random() < 0.5:
                bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
            else:
                bad = bad[: rng.integers(len(bad))]
            path.write_bytes(bad)
            try:
                shape, named = read_image(path, 16).shape, True
            except DataError as error:
                shape, named = (16, 16, 3), path.name in str(error)
                refused += 1
            assert shape == (16, 16, 3)
            assert named
    assert refused > 150


def test_a_texture_that_pillow_does_not_know_is_named(tmp_path):
    """A DDS file with an unknown code for its pixels: Pillow raises NotImplementedError."""
    header = struct.pack("<4s31I", b"DDS ", 124, 0x1007, 4, 4, 0, 0, 0, *[0] * 11, 32, 4, *[0] * 11)
    header = header[:84] + b"XXXX" + header[88:]
    (tmp_path / "odd.dds").write_bytes(header + bytes(64))
    with pytest.raises(DataError, match=r"odd.dds: cannot be decoded"):
        read_image(tmp_path / "odd.dds", 4)


def test_statistics_are_those_of_the_training_images(tmp_path):
    for part, colour in (("train", (51, 102, 153)), ("test", "white")):
        for name in ("cat", "dog"):
            paint(tmp_path / part / name / "0.png", colour)
    assert load_folder(tmp_path, 4).mean == pytest.approx((0.2, 0.4, 0.6))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    paint(tmp_path / "big.png", "red", (100, 100))
    with pytest.raises(DataError, match="too many pixels"):
        read_image(tmp_path / "big.png", 8)
