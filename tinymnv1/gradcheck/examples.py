"""The library used on two ops that are not in this project: `python -m tinymnv1.gradcheck.examples` checks them.

A swish, and a grouped convolution with a stride. Each is written as this project writes its ops, forward and backward,
and then once more with a mistake.
"""

from functools import partial
from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.numeric import check_directional, check_gradient
from tinymnv1.ops.window import Array


def swish_forward(x: Array) -> tuple[Array, Any]:
    """x * sigmoid(x). x: any shape. Returns y, of the same shape, and the cache."""
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def swish_backward(dy: Array, cache: Any) -> Array:
    """dx. With s' = s (1 - s) the product rule gives s + x s (1 - s)."""
    x, s = cache
    return dy * (s + x * s * (1 - s))


def grouped_forward(x: Array, w: Array, groups: int, stride: int) -> tuple[Array, Any]:
    """A convolution whose channels are split into groups that do not see each other.

    x: (N, H, W, Cin).  w: (KH, KW, Cin / groups, Cout), group after group along Cout.  groups, stride: as said.
    Returns y: (N, OH, OW, Cout) and the cache. groups=1 is the ordinary convolution, groups=Cin the depthwise one.
    """
    parts = [
        ops.conv2d_forward(part, kernel, stride)
        for part, kernel in zip(np.split(x, groups, axis=3), np.split(w, groups, axis=3), strict=True)
    ]
    return np.concatenate([y for y, _ in parts], axis=3), [cache for _, cache in parts]


def grouped_backward(dy: Array, caches: Any) -> tuple[Array, Array]:
    """dx and dw: each group's own, side by side, as nothing passes between groups."""
    split = np.split(dy, len(caches), axis=3)
    parts = [ops.conv2d_backward(part, cache) for part, cache in zip(split, caches, strict=True)]
    return np.concatenate([dx for dx, _ in parts], axis=3), np.concatenate([dw for _, dw in parts], axis=3)


def main() -> None:
    """Check both ops, right and wrong, and a small network made of them."""
    rng = np.random.default_rng(0)
    images, kernels = rng.normal(size=(2, 5, 6, 4)), rng.normal(size=(3, 3, 2, 6))
    print("swish")
    print(check_gradient(swish_forward, swish_backward, {"x": images}))
    print("swish, its second term forgotten")
    print(check_gradient(swish_forward, lambda dy, cache: dy * cache[1], {"x": images}))
    forward = partial(grouped_forward, groups=2, stride=2)
    print("grouped convolution, 2 groups, stride 2")
    print(check_gradient(forward, grouped_backward, {"x": images, "w": kernels}))
    print("grouped convolution, the groups of dw in the wrong order")
    print(
        check_gradient(
            forward,
            lambda dy, caches: (grouped_backward(dy, caches)[0], grouped_backward(dy, caches)[1][..., ::-1]),
            {"x": images, "w": kernels},
        )
    )

    def network() -> tuple[float, dict[str, Array]]:
        """The loss of grouped convolution, swish, sum of squares, and its gradients."""
        z, conv_cache = grouped_forward(images, kernels, 2, 2)
        y, swish_cache = swish_forward(z)
        dx, dw = grouped_backward(swish_backward(y, swish_cache), conv_cache)
        return float((y * y).sum() / 2), {"images": dx, "kernels": dw}

    print("the two as a network, along 3 random directions")
    parameters = {"images": images, "kernels": kernels}
    print(check_directional(lambda: network()[0], parameters, network()[1], directions=3))


if __name__ == "__main__":
    main()
