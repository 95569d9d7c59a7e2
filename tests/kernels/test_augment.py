"""The compiled batch against the NumPy one: the same bits, for any moves, sizes and channels."""

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
    margin=st.integers(0, 12),
    seed=st.integers(0, 2**16),
)
def test_a_batch_is_the_ops_batch_bit_for_bit(count, h, w, c, margin, seed):
    """Moves may exceed the image: then it is black."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, h, w, c), np.uint8)
    top, left = rng.integers(-margin, margin + 1, (2, count))
    arguments = (rng.integers(0, 5, count), top, left, rng.random(count) < 0.5, rng.random(c), rng.uniform(0.1, 1, c))
    ours, judge = (module.augment_batch(images, *arguments) for module in (kernels, ops))
    assert ours.dtype == judge.dtype == np.float32
    np.testing.assert_array_equal(ours, judge)


def test_the_move_and_the_mirror_are_their_definition():
    """One image of 2 x 3, written out."""
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint8).reshape(1, 2, 3, 1)
    down_and_left = [[0, 4, 5], [0, 0, 0]]  # the window moves down by 1 and left by 1
    for flip in (False, True):
        changes = np.array([1]), np.array([-1]), np.array([flip])
        moved = np.flip(down_and_left, 1) if flip else down_and_left
        np.testing.assert_array_equal(ops.crop_flip(image, *changes)[0, :, :, 0], moved)
        x = kernels.augment_batch(image, np.array([0]), *changes, [0.0], [1 / 255])
        np.testing.assert_allclose(x[0, :, :, 0], moved, rtol=1e-6)


@pytest.mark.parametrize("module", [ops, kernels])
def test_what_does_not_fit_is_refused(module):
    images, none = np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, int)
    flip, scale = np.zeros(2, bool), ([0.0], [1.0])
    for chosen in ([0, 3], [-1, 0]):  # compiled code would read memory that is not the images'
        with pytest.raises(ConfigError, match="3 images"):
            module.augment_batch(images, np.array(chosen), none, none, flip, *scale)
    with pytest.raises(ConfigError, match="one number an image"):
        module.augment_batch(images, none, none[:1], none, flip, *scale)
    with pytest.raises(ConfigError, match="uint8"):
        module.augment_batch(images.astype(np.float32), none, none, none, flip, *scale)
