"""What pointwise and linear give under each common mistake: both are a matrix product over rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array


def candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y, dx, dw and db. The batch may be meant as images (N) or as rows (N*H*W)."""
    x, w = inputs["x"], inputs["w"]
    rows, grad = x.reshape(-1, w.shape[0]), dy.reshape(-1, w.shape[1])
    n = len(x)
    dw = rows.T @ grad
    if w.shape[0] == w.shape[1]:
        yield "y", "channels transposed", (rows @ w.T).reshape(dy.shape) + inputs.get("b", 0)
        yield "dx", "channels transposed", (grad @ w).reshape(x.shape)
    yield "dx", "upstream gradient forgotten", (np.ones_like(grad) @ w.T).reshape(x.shape)
    yield "dw", "upstream gradient forgotten", rows.T @ np.ones_like(grad)
    yield "dx", "divided by the batch", (grad @ w.T).reshape(x.shape) / n
    yield "dw", "divided by the batch", dw / n
    yield "dw", "mean instead of sum", dw / len(rows)
    for image in (0, n - 1):
        part, upstream = x[image].reshape(-1, w.shape[0]), dy[image].reshape(-1, w.shape[1])
        yield "dw", "only one image", part.T @ upstream
        if "b" in inputs:
            yield "db", "only one image", upstream.sum(axis=0)
    if "b" in inputs:
        yield "y", "bias forgotten", rows @ w
        yield "db", "divided by the batch", grad.mean(axis=0)
        yield "db", "upstream gradient forgotten", np.full(w.shape[1], float(n))
