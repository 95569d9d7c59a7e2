"""Batches and augmentation: nothing lost, nothing twice, and any batch can be made again on its own."""

import numpy as np
import pytest

from tinymnv1 import kernels, ops
from tinymnv1.data import (
    AUGMENTATIONS,
    Dataset,
    Preprocessing,
    TrainingBatches,
    channel_statistics,
    draw_changes,
    draw_colours,
    draw_holes,
    evaluation_batches,
    load_dataset,
    resize,
)
from tinymnv1.errors import ConfigError, DataError
from tinymnv1.ops import crop_flip, recolour

BACKENDS = {"numpy": ops, "numba": kernels}
RAW = Preprocessing(8, (0, 0, 0), (1, 1, 1))


def numbered(n, size=8):
    """n images; every pixel of the k-th is k."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 3)).copy()


def test_an_epoch_is_a_permutation_without_the_partial_batch():
    images = numbered(23)
    batches = TrainingBatches(images, np.arange(23), 5, RAW, seed=1)
    assert len(batches) == 4
    epochs = [[labels for _, labels in batches.epoch(e)] for e in (0, 1)]
    for epoch in epochs:
        seen = np.concatenate(epoch)
        assert len(seen) == len(set(seen.tolist())) == 20
    assert not np.array_equal(epochs[0], epochs[1])


def test_images_and_labels_stay_together():
    images = numbered(23)
    for x, labels in TrainingBatches(images, np.arange(23), 5, RAW, "crop-flip").epoch(0):
        assert x.dtype == np.float32
        np.testing.assert_allclose(255 * x.max(axis=(1, 2, 3)), labels, atol=1e-3)


def test_a_set_smaller_than_a_batch_is_one_batch():
    batches = TrainingBatches(numbered(3), np.arange(3), 10, RAW)
    assert [sorted(labels) for _, labels in batches.epoch(0)] == [[0, 1, 2]]


def test_an_epoch_can_be_entered_in_the_middle():
    rng = np.random.default_rng(0)
    batches = TrainingBatches(rng.integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40), 6, RAW, "crop-flip", 5)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=3))
    assert len(rest) == 3
    for (x, labels), (x2, labels2) in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(labels, labels2)


def test_evaluation_keeps_the_last_partial_batch_and_the_order():
    parts = list(evaluation_batches(numbered(23), np.arange(23), 5, RAW))
    assert [len(labels) for _, labels in parts] == [5, 5, 5, 5, 3]
    assert np.concatenate([labels for _, labels in parts]).tolist() == list(range(23))


def test_preprocessing_is_its_formula():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    x = Preprocessing(8, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))(images)
    np.testing.assert_allclose(x, (images / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3], atol=1e-5)
    assert Preprocessing(16, (0, 0, 0), (1, 1, 1))(images).shape == (4, 16, 16, 3)


def test_resizing_a_plain_image_keeps_its_colour():
    images = np.full((2, 8, 8, 3), 77, np.uint8)
    assert (resize(images, 224) == 77).all()
    assert resize(images, 8) is images


def test_resizing_averages():
    """Twice as many pixels as are wanted: each of the new ones is a mean of its neighbourhood, not one of them."""
    board = np.zeros((1, 16, 16, 3), np.uint8)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = 254
    assert np.abs(resize(board, 8)[0, 1:-1, 1:-1].astype(int) - 127).max() <= 2


def test_statistics_of_many_images_are_those_of_all():
    """They are counted a part at a time."""
    images = np.random.default_rng(0).integers(0, 256, (600, 3, 2, 3), np.uint8)
    images[512:] //= 4
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)))


def test_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 200, (10, 6, 6, 3), np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)))


def test_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(0).integers(0, 256, (1000, 4, 5, 3), np.uint8)
    flipped = crop_flip(images, *draw_changes(1000, np.random.default_rng(1), flip=True))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 440 < mirrored.sum() < 560


def test_crop_is_a_window_of_the_padded_image_and_reaches_all_corners():
    image = np.arange(1, 17, dtype=np.uint8).reshape(1, 4, 4, 1)
    padded = np.pad(image[0, :, :, 0], 2)
    windows = {padded[i : i + 4, j : j + 4].tobytes(): (i, j) for i in range(5) for j in range(5)}
    crops = crop_flip(np.repeat(image, 2000, axis=0), *draw_changes(2000, np.random.default_rng(0), margin=2))
    assert {windows[crop.tobytes()] for crop in crops} == set(windows.values())


def test_a_move_may_be_a_small_integer():
    """A margin of 100 and a move of 100 are more than an int8 holds."""
    image = np.random.default_rng(0).integers(0, 256, (1, 120, 120, 1), np.uint8)
    moved = [crop_flip(image, *np.array([[100], [-90]], dtype), np.array([False])) for dtype in (np.int8, np.int64)]
    np.testing.assert_array_equal(*moved)
    np.testing.assert_array_equal(moved[0][0, :20, 90:], image[0, 100:, :30])


def test_a_reflecting_crop_shows_the_neighbours_again_instead_of_black():
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1)
    padded = np.pad(image[0, :, :, 0], 2, mode="reflect")
    windows = {padded[i : i + 5, j : j + 5].tobytes() for i in range(5) for j in range(5)}
    changes = draw_changes(500, np.random.default_rng(0), margin=2, reflect=True)
    assert {crop.tobytes() for crop in crop_flip(np.repeat(image, 500, axis=0), *changes)} == windows


@pytest.mark.parametrize("side", [3, 4])
def test_a_hole_is_a_square_around_any_pixel_clipped_at_the_edges(side):
    """Each as likely as another: so a hole is whole, or half of it is outside, as often as its place says."""
    holes = draw_holes(20_000, 8, side, np.random.default_rng(0))
    assert holes.shape == (20_000, 4)
    first = np.arange(8) - side // 2
    sides = list(zip(first.clip(0), (first + side).clip(max=8), strict=True))
    found, counts = np.unique(holes, axis=0, return_counts=True)
    assert {tuple(hole) for hole in found.tolist()} == {(*rows, *columns) for rows in sides for columns in sides}
    assert counts.min() > 230  # of 312 on average
    assert counts.max() < 400


def test_alternating_flips_show_both_sides_in_any_two_epochs():
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)

    def mirrored(epoch, seed=3):
        batches = TrainingBatches(images, np.arange(200), 50, RAW, "flip", seed, alternate_flip=True)
        result = np.zeros(200, bool)
        for x, labels in batches.epoch(epoch):
            plain = RAW(images[labels])
            result[labels] = (x == plain[:, :, ::-1]).all(axis=(1, 2, 3))
            assert (result[labels] | (x == plain).all(axis=(1, 2, 3))).all()
        return result

    first = mirrored(0)
    assert 70 < first.sum() < 130
    np.testing.assert_array_equal(mirrored(1), ~first)
    np.testing.assert_array_equal(mirrored(2), first)
    assert (mirrored(0, seed=4) != first).any()


def plain_augmentation(name, images, rng):
    """Crop, then flip, each with its own draws from rng, image by image."""
    n, height, width, _ = images.shape
    result = images.copy()
    if name.endswith("crop-flip"):
        margin = height // 8
        mode = "reflect" if name.startswith("reflect") else "constant"
        top, left = rng.integers(0, 2 * margin + 1, (2, n))
        for k in range(n):
            padded = np.pad(images[k], ((margin, margin), (margin, margin), (0, 0)), mode=mode)
            result[k] = padded[top[k] : top[k] + height, left[k] : left[k] + width]
    if name.endswith("flip"):
        for k in np.flatnonzero(rng.random(n) < 0.5):
            result[k] = result[k, :, ::-1]
    return result


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("resolution", [16, 12])
@pytest.mark.parametrize("cutout", [0, 5])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_batches_are_what_the_keyed_generators_draw(name, cutout, resolution, backend):
    """To the last bit, whatever makes them: a resumed run must go on with the very batches that it would have seen.

    At 12 pixels the images are scaled after they were moved and mirrored, and get their holes then.
    """
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    preprocess = Preprocessing(resolution, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    batches = TrainingBatches(images, np.arange(40), 10, preprocess, name, 7, BACKENDS[backend], cutout)
    order = np.random.default_rng([7, 2]).permutation(40)
    for k, (x, labels) in enumerate(batches.epoch(2)):
        chosen = order[10 * k : 10 * k + 10]
        np.testing.assert_array_equal(labels, chosen)
        rng = np.random.default_rng([7, 2, k])
        plain = plain_augmentation(name, images[chosen], rng)
        std = np.array([0.2, 0.25, 0.3], np.float32)
        shift = np.array([0.4, 0.5, 0.6], np.float32) / std
        expected = resize(plain, resolution) * (1 / (255 * std)) - shift
        if cutout:
            for image, row, column in zip(expected, *rng.integers(0, resolution, (2, 10)), strict=True):
                image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 0
        np.testing.assert_array_equal(x, expected)
        assert x.dtype == np.float32


def test_colours_are_drawn_for_each_image_on_its_own():
    """Contrast and saturation around 1, brightness around 0, as far as they are told to, and independent."""
    drawn = np.array(draw_colours(20_000, 0.3, np.random.default_rng(0))) - [[1], [1], [0]]
    assert drawn.shape == (3, 20_000)
    assert (np.abs(drawn) <= 0.3).all()
    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.006)  # four standard errors
    np.testing.assert_allclose(drawn.std(axis=1), 0.3 / np.sqrt(3), rtol=0.02)
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("resolution", [16, 12])
def test_jitter_comes_last_and_draws_last(resolution):
    """With it a batch is what it would have been without, in other colours: its holes, too."""
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    preprocess = Preprocessing(resolution, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    plain, jittered = (
        TrainingBatches(images, np.arange(20), 10, preprocess, "crop-flip", 7, ops, 5, jitter=jitter)
        for jitter in (0.0, 0.4)
    )
    for k, ((x, _), (y, _)) in enumerate(zip(plain.epoch(2), jittered.epoch(2), strict=True)):
        rng = np.random.default_rng([7, 2, k])
        draw_changes(10, rng, 2, flip=True)
        draw_holes(10, resolution, 5, rng)
        contrast, saturation, brightness = draw_colours(10, 0.4, rng)
        for a, b, c, s, t in zip(x, y, contrast, saturation, brightness, strict=True):
            grey = a.mean(axis=2, keepdims=True)
            np.testing.assert_allclose(b, c * (grey + s * (a - grey)) + t, atol=1e-6)
        assert y.dtype == np.float32


def test_recolouring_is_what_its_parts_say():
    """Contrast 0 leaves one colour, saturation 0 a grey picture, and 1, 1, 0 the image; other images do not matter."""
    x = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    contrast, saturation, brightness = [0, 2, 1, 1], [3, 0, 1, 1], [0.5, 1, 0, -2]
    y = recolour(x, contrast, saturation, brightness)
    np.testing.assert_allclose(y[0], 0.5, atol=1e-12)
    np.testing.assert_allclose(y[1], 2 * x[1].mean(axis=2, keepdims=True).repeat(3, axis=2) + 1, atol=1e-12)
    np.testing.assert_allclose(y[2], x[2], atol=1e-12)
    np.testing.assert_allclose(y[3], x[3] - 2, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_leave_the_images_alone(backend):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    kept = images.copy()
    for x, _ in TrainingBatches(images, np.arange(8), 4, RAW, "crop-flip", ops=BACKENDS[backend]).epoch(0):
        x[...] = -1
    np.testing.assert_array_equal(images, kept)


def test_a_limited_set_is_a_fixed_random_choice():
    data = Dataset(
        "n", ("a", "b"), numbered(50), np.arange(50) % 2, numbered(20), np.arange(20) % 2, (0,) * 3, (1,) * 3
    )
    limited = data.limited(10, seed=0)
    assert (len(limited.train_labels), len(limited.test_labels)) == (10, 10)
    assert limited.fingerprint() == data.limited(10, seed=0).fingerprint() != data.limited(10, seed=1).fingerprint()
    chosen = limited.train_images[:, 0, 0, 0]
    np.testing.assert_array_equal(chosen % 2, limited.train_labels)
    assert data.limited(1000, 0).fingerprint() == data.fingerprint()
    with pytest.raises(ConfigError, match="count must be at least 1, got -1"):
        data.limited(-1, 0)


def test_validation_images_are_training_images_held_out():
    """Each once, in one of the two parts; each class with its share; the same ones in every run."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])[np.random.default_rng(0).permutation(100)]
    data = Dataset("n", ("a", "b", "c"), numbered(100), labels, numbered(5), labels[:5], (0,) * 3, (1,) * 3)
    for count in (1, 10, 37, 90):
        part = data.with_validation(count)
        held, kept = part.test_images[:, 0, 0, 0], part.train_images[:, 0, 0, 0]
        assert len(held) == count
        assert sorted([*held, *kept]) == list(range(100))
        np.testing.assert_array_equal(part.test_labels, labels[held])
        np.testing.assert_array_equal(part.train_labels, labels[kept])
        share = np.bincount(part.test_labels, minlength=3) - count * np.array([0.5, 0.3, 0.2])
        assert np.abs(share).max() < 1
        assert part.held_out == "validation"
        assert part.fingerprint() == data.with_validation(count).fingerprint()
    assert data.held_out == "test"
    assert set(np.diff(data.with_validation(10).test_images[:, 0, 0, 0])) != {10}, "at random, not every tenth"
    for count in (0, 100):
        with pytest.raises(ConfigError, match="from 1 to 99 of the 100 training images"):
            data.with_validation(count)
    with pytest.raises(ConfigError, match="--validation 99 leaves no training image of class 'a'"):
        data.with_validation(99)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="batch_size"):
        TrainingBatches(numbered(3), np.arange(3), 0, RAW)
    with pytest.raises(ConfigError, match="augment"):
        TrainingBatches(numbered(3), np.arange(3), 1, RAW, "rotate")
    with pytest.raises(ConfigError, match="cutout"):
        TrainingBatches(numbered(3), np.arange(3), 1, RAW, cutout=-1)
    for jitter in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="jitter"):
            TrainingBatches(numbered(3), np.arange(3), 1, RAW, jitter=jitter)
    with pytest.raises(ConfigError, match="resolution"):
        Preprocessing(0, (0,), (1,))
    with pytest.raises(ConfigError, match="std"):
        Preprocessing(8, (0,), (0,))
    with pytest.raises(ConfigError, match="margin"):
        draw_changes(1, np.random.default_rng(0), margin=-1)
    with pytest.raises(ConfigError, match="data must be"):
        load_dataset("mnist")
    with pytest.raises(DataError, match="labels"):
        Dataset("n", ("a",), numbered(2), np.array([0, 1]), numbered(1), np.array([0]), (0,) * 3, (1,) * 3)
