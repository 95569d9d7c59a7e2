"""How the engines cut work into parts. Sums are cut by the shapes alone, so results do not depend on the threads."""

import numpy as np

from tinymnv1.kernels.blocks import Window, blocks_of, padded, shares_of_columns
from tinymnv1.kernels.fused_pointwise import ProductShape
from tinymnv1.model import KERNEL
from tinymnv1.ops.window import Array, span

NO_WINDOW = Window(0, 0, 0, 0, 0, 0, 0, 0)
"""Where a kernel asks for a window and there is no image."""

NOTHING = np.empty(0, np.float32)


def window_of(images: int, height: int, width: int, stride: int, padding: str) -> Window:
    """The shapes of a 3x3 convolution of images of this size."""
    out_h, top, _ = span(height, KERNEL, stride, padding)
    out_w, left, _ = span(width, KERNEL, stride, padding)
    return Window(images, height, width, out_h, out_w, stride, top, left)


def equal_bands(rows: int, most: int) -> int:
    """Rows of a band, if so many rows are cut into as few equal bands as possible of at most `most` rows."""
    return -(-rows // -(-rows // max(most, 1)))


def product_shape(rows: int, cin: int, cout: int, split_in: bool = False) -> ProductShape:
    """How a product of so many rows is cut.

    split_in: the columns of the input's gradient may be shared out, too.
    """
    block, blocks = blocks_of(rows)
    groups_in = shares_of_columns(blocks, padded(cin)) if split_in else 1
    groups_out = shares_of_columns(blocks, padded(cout))
    return ProductShape(rows, block, blocks, cin, padded(cin), cout, padded(cout), groups_out, groups_in)


def counts_of(rows: int, unit: int) -> Array:
    """The rows of each unit of so many: all alike but the last."""
    counts = np.full(-(-rows // unit), float(unit))
    counts[-1] = rows - unit * (len(counts) - 1)
    return counts
