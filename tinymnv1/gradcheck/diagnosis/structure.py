"""Where no known mistake fits: what the pattern of the wrong elements says by itself, and its picture in text."""

import numpy as np

from tinymnv1.ops.window import Array

PADDED = ("conv2d", "depthwise")
"""The ops that put zeros around an image."""


def shape_cause(op: str, argument: str, got: tuple[int, ...], want: tuple[int, ...]) -> str:
    """The likely cause of a wrong shape."""
    pads = op in PADDED
    if len(got) > len(want) and [k for k in got if k != 1] == [k for k in want if k != 1]:
        return "wrong shape"  # keepdims
    if pads and argument == "dx" and len(got) == len(want) == 4 and got[1] >= want[1] and got[2] >= want[2]:
        return "padding not cropped"
    if argument in ("mean", "var") and len(got) > 1:
        return "wrong axes"
    if argument == "db" and got[1:] == want:
        return "bias gradient not summed"
    if pads and argument == "y" and len(got) == len(want) == 4:
        if got[0] == want[0] and got[3] == want[3] and got[1] > 1.4 * want[1] and got[2] > 1.4 * want[2]:
            return "stride forgotten"
        if got[0] == want[0] and got[3] == want[3]:
            return "padding off by one"
    if sorted(got) == sorted(want) and len(got) > 1:
        return "transposed"
    return "wrong shape"


def pattern_cause(op: str, argument: str, got: Array, want: Array, wrong: Array) -> tuple[str, str] | None:
    """(cause, a detail) read off the wrong elements, or None.

    op: "conv2d", ...  argument: "y", "dx", "dw", ...  got, want: arrays of one shape.
    wrong: where they differ, boolean.
    """
    if not wrong.any():
        return None
    if not np.isfinite(got).all():
        return "not a number", ""
    if not got.any():
        return "all zero", ""
    for axes in ((-1, -2), (0, 1)):
        if got.ndim >= 2 and got.shape[axes[0]] == got.shape[axes[1]] and _close(got, want.swapaxes(*axes)):
            return "transposed", ""
    scale = np.abs(want).max()
    safe = np.abs(want) > 1e-3 * scale
    if safe.any():
        ratio = got[safe] / want[safe]
        k = float(np.median(ratio))
        if abs(k) > 1e-9 and _close(got, k * want):
            if abs(k + 1) < 1e-6:
                return "sign flipped", ""
            if abs(k - 2) < 1e-6:
                return "doubled", ""
            if got.size == 1:
                return None  # every number is a multiple of every other
            return "constant factor", f" It is {k:.6g} times what it should be."
    if argument in ("y", "dx") and got.ndim == 4:
        images = np.any(wrong, axis=(1, 2, 3))
        if len(images) > 1 and not images[0] and images[1:].all():
            return "only one image", ""
        pixels = np.any(wrong, axis=(0, 3))  # (H, W)
        if op in PADDED and min(pixels.shape) >= 3 and not pixels[1:-1, 1:-1].any():
            return "padding", ""
        for s in (2, 3):
            if min(pixels.shape) >= 2 * s:
                lattice = [pixels[i::s, j::s] for i in range(s) for j in range(s)]
                if any(not part.any() for part in lattice) and any(part.all() for part in lattice):
                    return "stride", ""
    if wrong.ndim > 1:
        channels = np.any(wrong.reshape(-1, wrong.shape[-1]), axis=0)
        if not channels.all():
            return "channel", f" Wrong: channels {np.flatnonzero(channels).tolist()} of {len(channels)}."
    return None


def _close(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= 1e-5 * np.abs(b).max())


def picture(error: Array, wrong: Array) -> str:
    """The wrong elements as text: x wrong, X the worst, . right. Of images the worst one's worst channel is shown."""
    if error.ndim == 0:
        return ""
    worst = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
    rows, columns = (1, 2) if error.ndim == 4 else (0, 1)
    if error.ndim == 4 and error.shape[0] == error.shape[1] <= 7:  # a kernel, (KH, KW, Cin, Cout)
        rows, columns = 0, 1
    if error.ndim == 1:
        flat, place, title, labels = wrong[None], (0, worst[0]), f"elements 0 to {error.size - 1}", ("", "index")
    else:
        index: tuple[int | slice, ...] = tuple(
            slice(None) if axis in (rows, columns) else worst[axis] for axis in range(error.ndim)
        )
        flat, place = wrong[index], (worst[rows], worst[columns])
        fixed = ", ".join(":" if isinstance(k, slice) else str(k) for k in index)
        title, labels = f"slice [{fixed}]", (f"axis {rows} down", f"axis {columns} across")
    lines = [f"{title}  ({', '.join(filter(None, labels))}; x wrong, X worst, . right)"]
    for r in range(min(flat.shape[0], 24)):
        marks = ["x" if bad else "." for bad in flat[r, :40]]
        if r == place[0] and place[1] < 40 and flat[place]:
            marks[place[1]] = "X"
        lines.append(f"  {r:>2}  " + " ".join(marks) + (" ..." if flat.shape[1] > 40 else ""))
    if flat.shape[0] > 24:
        lines.append("   ...")
    return "\n".join(lines)
