"""The compiled batch against the NumPy one: the same bits, for any moves, sizes and channels."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymnv1 import kernels, ops
from tinymnv1.errors import ConfigError

JIT = not numba.config.DISABLE_JIT


@settings(max_examples=40 if JIT else 10, deadline=None)
@given(
    count=st.integers(0, 6),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    c=st.integers(1, 4),
    margin=st.integers(0, 25),
    reflect=st.booleans(),
    holes=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_batch_is_the_ops_batch_bit_for_bit(count, h, w, c, margin, reflect, holes, seed):
    """Moves may exceed the image: then it is black, or mirrored more than once. Holes may be empty, or the image."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, h, w, c), np.uint8)
    top, left = rng.integers(-margin, margin + 1, (2, count))
    changes = rng.integers(0, 5, count), top, left, rng.random(count) < 0.5, reflect
    cut = rng.integers(0, (h + 1, h + 1, w + 1, w + 1), (count, 4)) if holes else None
    arguments = (*changes, rng.random(c), rng.uniform(0.1, 1, c), cut)
    ours, judge = (module.augment_batch(images, *arguments) for module in (kernels, ops))
    assert ours.dtype == judge.dtype == np.float32
    np.testing.assert_array_equal(ours, judge)


def test_the_move_and_the_mirror_are_their_definition():
    """One image of 2 x 3, written out."""
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8).reshape(1, 2, 3, 1)
    down_and_left = {False: [[0, 4, 5], [0, 0, 0]], True: [[5, 4, 5], [2, 1, 2]]}  # the window moves by 1 and by 1
    for reflect, flip in itertools.product((False, True), repeat=2):
        changes = np.array([1]), np.array([-1]), np.array([flip]), reflect
        moved = np.flip(down_and_left[reflect], 1) if flip else down_and_left[reflect]
        np.testing.assert_array_equal(ops.crop_flip(image, *changes)[0, :, :, 0], moved)
        x = kernels.augment_batch(image, np.array([0]), *changes, [0.0], [1 / 255])
        np.testing.assert_allclose(x[0, :, :, 0], moved, rtol=1e-6)


@pytest.mark.parametrize("module", [ops, kernels])
def test_a_hole_is_zero_after_normalising_and_the_rest_stays(module):
    """A hole made before would be black, which is far from the mean colour."""
    image = np.full((1, 4, 5, 3), 200, np.uint8)
    none = np.zeros(2, int)
    holes = np.array([[1, 3, 2, 5], [2, 2, 0, 5]])  # rows 1 and 2 of columns 2 to 4; and an empty one
    x = module.augment_batch(image, none, none, none, none > 0, False, [0.1, 0.2, 0.3], [0.2, 0.2, 0.2], holes)
    expected = np.broadcast_to((200 / 255 - np.array([0.1, 0.2, 0.3])) / 0.2, (2, 4, 5, 3)).copy()
    expected[0, 1:3, 2:5] = 0
    np.testing.assert_allclose(x, expected, rtol=1e-6)


@pytest.mark.parametrize("module", [ops, kernels])
def test_what_does_not_fit_is_refused(module):
    images, none = np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, int)
    flip, scale = np.zeros(2, bool), (False, [0.0], [1.0])
    for chosen in ([0, 3], [-1, 0]):  # compiled code would read memory that is not the images'
        with pytest.raises(ConfigError, match="3 images"):
            module.augment_batch(images, np.array(chosen), none, none, flip, *scale)
    with pytest.raises(ConfigError, match="one number an image"):
        module.augment_batch(images, none, none[:1], none, flip, *scale)
    with pytest.raises(ConfigError, match=r"mean and std must be \(1,\)"):
        module.augment_batch(images, none, none, none, flip, False, [0.5] * 3, [0.5] * 3)
    with pytest.raises(ConfigError, match="uint8"):
        module.augment_batch(images.astype(np.float32), none, none, none, flip, *scale)
    for hole in ((0, 5, 0, 1), (0, 1, 0, 5), (-1, 1, 0, 1)):  # compiled code would write outside the batch
        with pytest.raises(ConfigError, match="within the image"):
            module.augment_batch(images, none, none, none, flip, *scale, np.array([hole, hole]))
    with pytest.raises(ConfigError, match=r"holes must be \(2, 4\)"):
        module.augment_batch(images, none, none, none, flip, *scale, np.zeros((1, 4), int))
