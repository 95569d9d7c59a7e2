"""Where windows go: output sizes and padding, against TensorFlow's documented rule and by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymnv1 import ops
from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import span


@given(size=st.integers(1, 300), kernel=st.integers(1, 9), stride=st.integers(1, 5))
def test_tf_same_is_tensorflows_rule(size, kernel, stride):
    # tf.nn's documentation: what the kernel exceeds the last step by, which is a whole stride or the remainder.
    total = max(kernel - (size % stride or stride), 0)
    assert span(size, kernel, stride, "tf") == (int(np.ceil(size / stride)), total // 2, total - total // 2)


def test_tf_same_at_stride_2_depends_on_parity():
    assert span(224, 3, 2, "tf") == (112, 0, 1)
    assert span(7, 3, 2, "tf") == (4, 1, 1)


@given(size=st.integers(1, 60), kernel=st.integers(1, 7), stride=st.integers(1, 4))
def test_symmetric_counts_every_position(size, kernel, stride):
    pad = (kernel - 1) // 2
    positions = [start for start in range(-pad, size + pad - kernel + 1) if (start + pad) % stride == 0]
    if positions:
        assert span(size, kernel, stride, "symmetric") == (len(positions), pad, pad)
    else:
        with pytest.raises(ConfigError, match="does not fit"):
            span(size, kernel, stride, "symmetric")


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(stride):
    with pytest.raises(ConfigError, match="at least 1"):
        ops.depthwise_forward(np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2)), stride)


def test_an_unknown_padding_is_refused():
    with pytest.raises(ConfigError, match='"symmetric" or "tf"'):
        ops.conv2d_forward(np.zeros((1, 4, 4, 2)), np.zeros((3, 3, 2, 2)), 1, "valid")
