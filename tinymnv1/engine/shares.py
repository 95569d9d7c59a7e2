"""How the engines cut work into parts: from the shapes alone, so that results do not depend on the threads."""

import numpy as np

from tinymnv1.kernels.blocks import BLOCK_ROWS, whole_tiles
from tinymnv1.kernels.compile import CHUNKS
from tinymnv1.kernels.simd import LANES
from tinymnv1.ops.window import Array


def blocks_of(rows: int) -> tuple[int, int]:
    """(rows of a block, number of blocks): equal blocks of at most BLOCK_ROWS rows, whole tiles."""
    block = whole_tiles(-(-rows // -(-rows // BLOCK_ROWS)))
    return block, -(-rows // block)


def shares_of_columns(blocks: int, width: int) -> int:
    """Into how many shares the `width` columns of a product are split: several if there are few blocks of rows."""
    return 1 if blocks >= 4 * CHUNKS else max(width // LANES // 8, 1)


def equal_bands(rows: int, most: int) -> int:
    """Rows of a band, if so many rows are cut into as few equal bands as possible of at most `most` rows."""
    return -(-rows // -(-rows // max(most, 1)))


def counts_of(rows: int, unit: int) -> Array:
    """The rows of each unit of so many: all alike but the last."""
    counts = np.full(-(-rows // unit), float(unit))
    counts[-1] = rows - unit * (len(counts) - 1)
    return counts
