"""The stem's rows: what each output pixel of a 3x3 convolution sees, so that the convolution becomes a product."""

from tinymnv1.kernels.compile import serial
from tinymnv1.kernels.simd import LANES, vload, vload_tail, vstore, vzero


def line_floats(width: int, cin: int) -> int:
    """Room for one padded row of an image, as `gather_rows` needs it."""
    return (width + 2) * cin + 4 * LANES


@serial
def _padded_line(x, height, width, cin, n, h, first, columns, line, il):
    """Pixels first, first + 1 ... of row h of image n, zeros where there are none: columns * cin floats."""
    length = columns * cin
    if h < 0 or h >= height:
        for k in range(0, length, LANES):
            vstore(line, il + k, vzero())
        return
    before = max(-first, 0) * cin
    place = ((n * height + h) * width + max(first, 0)) * cin
    count = (min(width, first + columns) - max(first, 0)) * cin
    for k in range(0, before, LANES):
        vstore(line, il + k, vzero())
    whole = count // LANES * LANES
    for k in range(0, whole, LANES):
        vstore(line, il + before + k, vload(x, place + k))
    if whole < count:
        vstore(line, il + before + whole, vload_tail(x, place + whole, count - whole))
    for k in range(before + count, length):
        line[il + k] = 0


@serial
def gather_rows(window, cin, x, start, rows, a, lda, il):
    """What so many output pixels see of the image, from pixel `start` on: 3 * 3 * cin numbers a row, lda apart.

    a[il:] is room for one padded row of the image. The three pixels of a row are neighbours in memory: they are copied
    as vectors, the first ones of all output pixels, then the second ones. The last one's rest is overwritten by what
    comes next, or falls into the gap between the rows.
    """
    _, height, width, out_h, out_w, stride, top, left = window
    run, r = 3 * cin, 0
    while r < rows:
        n, oh, ow = (start + r) // (out_h * out_w), (start + r) // out_w % out_h, (start + r) % out_w
        count = min(out_w - ow, rows - r)  # pixels of one row of the output
        for i in range(3):
            first = ow * stride - left
            _padded_line(x, height, width, cin, n, oh * stride - top + i, first, (count - 1) * stride + 3, a, il)
            for k in range(0, run, LANES):
                source, target = il + k, r * lda + i * run + k
                for _ in range(count):
                    vstore(a, target, vload(a, source))
                    source += stride * cin
                    target += lda
        r += count
