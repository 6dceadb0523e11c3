"""Preparing data: a band of input rows copied into scratch memory in the form that the dot instruction wants.

One pass does all of it: padding with the zero point, the shift between signed and unsigned bytes, or the int16
lowering's subtraction and widening.  The band is small enough to stay in the cache of the core that reads it next.
"""

from __future__ import annotations

from typing import NamedTuple

from selector.lowering.tir import Expr, T, branch, cast, const, load, loop, otherwise, store, vector
from selector.workload import ConvWorkload


class Band(NamedTuple):
    """Geometry of the input rows under ``out_rows`` output rows, in elements of the stored data."""

    workload: ConvWorkload
    out_rows: int
    dtype: str  # of the stored data
    offset: int  # stored = Qa + offset
    pad_value: int

    @property
    def rows(self) -> int:
        """Stored input rows."""
        load_ = self.workload
        return (self.out_rows - 1) * self.row_stride + (load_.kernel_height - 1) * load_.dilation[0] + 1

    @property
    def row_stride(self) -> int:
        """Stored rows from one output row to the next; 1×1 kernels store only the rows they read."""
        return 1 if self.workload.kernel_height == 1 else self.workload.stride[0]

    @property
    def pitch(self) -> int:
        """Elements of one stored row, left and right padding included."""
        _, left, _, right = self.workload.padding
        return (self.workload.in_width + left + right) * self.workload.in_channels

    @property
    def elements(self) -> int:
        """Elements of the band, without slack."""
        return self.rows * self.pitch

    def emit(self, data: Expr, scratch: Expr, image: Expr, first_out_row: Expr, vector_elements: int) -> None:
        """Fill ``scratch`` with the band of ``image`` that starts at output row ``first_out_row``."""
        work = self.workload
        top, left, bottom, right = work.padding
        row_elements = work.in_width * work.in_channels
        image_base = image * (work.in_height * row_elements)
        source_stride = work.stride[0] if work.kernel_height == 1 else 1
        first = first_out_row * work.stride[0] - top

        if not (top or bottom or left or right) and source_stride == 1:
            self._copy(data, image_base + first * row_elements, scratch, 0, self.elements, vector_elements)
            return

        def row(r: Expr) -> None:
            source = T.Bind(first + r * source_stride)
            target = T.Bind(r * self.pitch)

            def inside() -> None:
                self._fill(scratch, target, left * work.in_channels, vector_elements)
                start = target + left * work.in_channels
                self._copy(data, image_base + source * row_elements, scratch, start, row_elements, vector_elements)
                self._fill(scratch, start + row_elements, right * work.in_channels, vector_elements)

            if not (top or bottom):
                inside()
                return
            valid = T.And(source >= 0, source < work.in_height)
            with branch(valid):
                inside()
            with otherwise(valid):
                self._fill(scratch, target, self.pitch, vector_elements)

        loop(self.rows, row)

    def _copy(self, data: Expr, source: Expr, scratch: Expr, target: Expr, count: int, width: int) -> None:
        def piece(start: Expr, lanes: int) -> None:
            value = load(data, source + start, lanes)
            store(scratch, target + start, convert(value, lanes, self.dtype, self.offset), lanes)

        _in_vectors(count, width, piece)

    def _fill(self, scratch: Expr, target: Expr, count: int, width: int) -> None:
        def piece(start: Expr, lanes: int) -> None:
            store(scratch, target + start, const(self.pad_value, self.dtype, lanes), lanes)

        _in_vectors(count, width, piece)


def convert(value: Expr, lanes: int, dtype: str, offset: int) -> Expr:
    """Qa -> Qa + offset in the stored dtype: widened to int16, or the top bit flipped, or as it is."""
    if dtype == "int16":
        widened = cast(value, "int16", lanes)  # sums wrap around: -32768 flips the top bit of what was a uint16
        return widened if offset == 0 else widened + const(offset, "int16", lanes)
    if offset:
        assert abs(offset) == 128
        flipped = T.reinterpret(value, dtype=vector("uint8", lanes)) ^ const(128, "uint8", lanes)
        return T.reinterpret(flipped, dtype=vector(dtype, lanes))
    return value


def _in_vectors(count: int, width: int, piece) -> None:  # type: ignore[no-untyped-def]
    """Cover ``count`` elements with vectors of ``width``; the last one overlaps, short runs use narrower vectors."""
    if count <= 0:
        return
    while width > count:
        width //= 2
    whole = count // width
    loop(whole, lambda i: piece(i * width, width))
    if count % width:
        piece(count - width, width)
