"""`evaluate`: which images it takes, and that flip averaging is told beside the plain figure."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tinymnv1 import evaluate, train
from tinymnv1.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Two classes that differ in which half is the light one: a mirror image of one is the other."""
    folder = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for name, light in (("left", slice(0, 6)), ("right", slice(6, 12))):
        (folder / name).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 60, (12, 12, 3), np.uint8)
            pixels[:, light] += 150
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """A run on 38 images, evaluated on 10 others; 12 are for testing."""
    out = tmp_path_factory.mktemp("run") / "pets"
    arguments = ("--data", "folder", "--data-dir", pets, "--resolution", 12, "--out", out, "--validation", 10)
    train.main(
        [str(a) for a in (*arguments, "--epochs", 60, "--batch-size", 8, "--augment", "none", "--ema-decay", 0.8)]
    )
    return out


def printed(capsys, *arguments):
    evaluate.main([str(a) for a in arguments])
    return capsys.readouterr().out


def test_training_says_what_it_was_evaluated_on(pets, tmp_path, capsys):
    arguments = ("--data", "folder", "--data-dir", pets, "--resolution", 12, "--epochs", 2, "--batch-size", 8)
    arguments = (*arguments, "--out", tmp_path / "run", "--validation", 10, "--early-resolution", 8)
    train.main([str(a) for a in arguments])
    out = capsys.readouterr().out
    assert "38 training and 10 validation images" in out
    assert "12 pixels (8 in the first half of the epochs)" in out
    assert re.search(r"Epoch \[1/2\].*, validation accuracy", out)
    assert "Accuracy of the model on the validation images: " in out
    assert not re.search("test (images|accuracy)", out)


def test_a_runs_own_images_or_the_test_images(run, capsys):
    assert "10 validation images" in printed(capsys, run)
    assert "10 validation images" in printed(capsys, run, "--split", "validation")
    assert "12 test images" in printed(capsys, run, "--split", "test")
    with pytest.raises(ConfigError, match="held out no images of shapes"):
        evaluate.main([str(run), "--data", "shapes", "--split", "validation"])


def test_flip_averaging_stands_beside_the_plain_figure(run, capsys):
    """Where a class is the other's mirror image it leaves nothing to decide by: so it is seen to have happened.

    An image and its mirror image then have the same logits, so no network gets below ln 2 on as many of each class.
    """
    plain = printed(capsys, run, "--split", "test")
    both = printed(capsys, run, "--split", "test", "--flip")
    line = re.search(r"loss .*, accuracy (.*) %", plain)
    assert line[0] in both
    assert float(line[1]) > 90
    assert "flip" not in plain
    averaged = re.search(r"with flip averaging: loss (.*), accuracy (.*) %", both)
    assert float(averaged[1]) > 0.9 * np.log(2), "the images of the two classes are not quite mirror images"
    assert float(re.search(r"loss (.*), accuracy", plain)[1]) < 0.5 * np.log(2)


def test_data_that_has_changed_is_no_longer_the_runs_own(run, pets, tmp_path, capsys):
    """A new file moves the others on, and images that were trained on become test images."""
    evaluate.main([str(run)])
    assert capsys.readouterr().err == ""
    other = tmp_path / "pets"
    shutil.copytree(pets, other)
    evaluate.main([str(run), "--data-dir", str(other)])
    assert capsys.readouterr().err == "", "it has only moved"
    shutil.copy(other / "left" / "03.png", other / "left" / "00-new.png")
    evaluate.main([str(run), "--data-dir", str(other)])
    assert "not the validation images of the run" in capsys.readouterr().err


def test_too_little_data_to_hold_any_out(run, pets, tmp_path, capsys):
    few = tmp_path / "pets"
    shutil.copytree(pets, few)
    for image in sorted(few.glob("*/*.png")):
        if int(image.stem) >= 6:
            image.unlink()
    with pytest.raises(ConfigError, match=r"no images like the run's can be held out .*; use --split test"):
        evaluate.main([str(run), "--data-dir", str(few)])
    evaluate.main([str(run), "--data-dir", str(few), "--split", "test"])


def test_a_run_without_an_evaluation_has_no_best_checkpoint_yet(run, tmp_path):
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    (begun / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match="was not evaluated so far, or it was deleted; use --checkpoint last"):
        evaluate.main([str(begun)])
    evaluate.main([str(begun), "--checkpoint", "last"])


def test_which_checkpoint_is_a_choice_within_a_folder(run):
    with pytest.raises(CheckpointError, match=r"is one checkpoint; give its folder, .*pets, for --checkpoint last"):
        evaluate.main([str(run / "best.safetensors"), "--checkpoint", "last"])


def test_the_picture_names_the_run_from_within_its_folder_too(run, monkeypatch):
    titles = []
    drawn = evaluate.plots.confusion
    monkeypatch.setattr(evaluate.plots, "confusion", lambda *args: titles.append(args[2]) or drawn(*args))
    monkeypatch.chdir(run)
    evaluate.main(["."])
    assert titles[0].startswith("pets: validation accuracy")
