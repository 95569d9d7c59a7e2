"""One call of every op, for the tests that hold for all of them: inputs stay, outputs are new, dtypes are kept."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# name -> inputs for a batch of shape (n, h, w, c), and the op's other arguments
Case = tuple[list[Array], tuple[Any, ...]]


def make_case(name: str, n: int, h: int, w: int, c: int, rng: np.random.Generator, dtype: Any) -> Case:
    """Random inputs for the op `name`, of the given dtype."""

    def normal(*shape: int) -> Array:
        return (2 * rng.normal(size=shape)).astype(dtype)

    x = normal(n, h, w, c)
    cases: dict[str, Callable[[], Case]] = {
        "conv2d": lambda: ([x, normal(3, 3, c, 4)], (2, "tf")),
        "depthwise": lambda: ([x, normal(3, 3, c)], (1, "symmetric")),
        "pointwise": lambda: ([x, normal(c, 5)], ()),
        "batchnorm": lambda: ([x, normal(c), normal(c)], ()),
        "relu6": lambda: ([x], ()),
        "relu": lambda: ([x], ()),
        "avgpool": lambda: ([x], (1,)),
        "maxpool": lambda: ([x], (1,)),
        "global_avgpool": lambda: ([x], ()),
        "linear": lambda: ([normal(n, c), normal(c, 5), normal(5)], ()),
        "dropout": lambda: ([x], (0.0, np.random.default_rng(0))),
    }
    return cases[name]()


NAMES = (
    "conv2d",
    "depthwise",
    "pointwise",
    "batchnorm",
    "relu6",
    "relu",
    "avgpool",
    "maxpool",
    "global_avgpool",
    "linear",
    "dropout",
)


def forward_and_backward(ops: ModuleType, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The pair of functions of an op."""
    return getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")
