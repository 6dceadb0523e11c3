"""How the direct template divides a convolution, and what that costs: steps, register tile, bands, tasks."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import NamedTuple

from selector.lowering.dot import Dot
from selector.lowering.register_tile import tile_shapes
from selector.target import TargetProfile
from selector.weights import is_merged
from selector.workload import ConvWorkload


class Tile(NamedTuple):
    """Shape of the register tile and of the work of one task."""

    pixels: int  # largest number of pixels of a tile
    vectors: int  # vectors of output channels of a block
    rows: int  # output rows of a band
    channel_tasks: int  # tasks that share the blocks of one band
    cycles: float  # modelled, of one core and all of the work


@functools.lru_cache(maxsize=64)
def flatten(workload: ConvWorkload) -> ConvWorkload:
    """A 1×1 convolution without stride and padding sees pixels only: one column of them."""
    pointwise = workload.kernel_height == workload.kernel_width == 1 and workload.stride == (1, 1)
    if pointwise and not any(workload.padding):
        pixels = workload.batch * workload.in_height * workload.in_width
        return replace(workload, batch=1, in_height=pixels, in_width=1)
    return workload


def reduction(workload: ConvWorkload, row: Dot) -> tuple[int, int]:
    """(runs, steps of a run) of the reduction."""
    merged = merges(workload)
    length = workload.group_in_channels * (workload.kernel_width if merged else 1)
    return workload.kernel_height * (1 if merged else workload.kernel_width), math.ceil(length / row.step)


def reads_in_place(workload: ConvWorkload, row: Dot, *, term2: bool) -> bool:
    """Whether the tensor itself can be read: nothing to convert or pad, and no step past the end of a run."""
    length = workload.group_in_channels * (workload.kernel_width if merges(workload) else 1)
    return not (row.data_dtype != workload.data_dtype or any(workload.padding) or length % row.step or term2)


def merges(workload: ConvWorkload) -> bool:
    """Whether a row of the kernel is one run of the reduction, over its columns and channels."""
    return is_merged(workload.groups, workload.dilation[1])


def cost(workload: ConvWorkload, row: Dot, target: TargetProfile) -> float:
    """Modelled cycles of one core with the best register tile."""
    return min(_costs(workload, row, target).values())


def _costs(workload: ConvWorkload, row: Dot, target: TargetProfile) -> dict[tuple[int, int], float]:
    """Modelled cycles with each register tile (pixels, vectors); edges are counted at their full cost.

    A step takes the longer of its vector instructions at four a cycle, two with AVX-512, and its loads at two a cycle
    (Zen 3 and Golden Cove, and close to Neoverse V1).
    """
    steps = math.prod(reduction(workload, row))
    out_channels, total = workload.group_out_channels, workload.out_height * workload.out_width

    def cycles(pixels: int, vectors: int) -> float:
        blocks = workload.groups * math.ceil(out_channels / (vectors * row.lanes))
        tiles = math.ceil(total / pixels)
        width = row.whole(total / tiles)
        vector_ops = width * (vectors * row.uops + row.setup_uops * row.groups)
        loads = row.loads(width, vectors)
        step = max(vector_ops / row.issue, loads / 2, row.uops + 1) + loads / (2 * row.issue)  # never quite free
        return workload.batch * blocks * tiles * (steps * step + width * vectors * 3 + 10)  # the last: epilogue

    return {shape: cycles(*shape) for shape in tile_shapes(row, target.vector_registers)}


def _rounded_up(count: int, unit: int) -> int:
    return math.ceil(count / unit) * unit


def divide(workload: ConvWorkload, row: Dot, target: TargetProfile) -> Dot:
    """The row with as many groups as suit the length of the reduction's runs."""
    if not row.by_lane:
        return row
    fewer = [some for some in map(row.at_most, (4, 2, 1)) if some is not None]
    return min(fewer, key=lambda some: cost(workload, some, target))


_FEW_PIXELS = 64  # with more, no core reads weights as slowly as it multiplies them
_NEAR = 48  # bytes of weights a cycle from L2
# From L3 and from memory, by the vector instructions a cycle of a row: measured on Zen 3 and on Emerald Rapids.
_FAR = {4: (16, 6), 2: (8, 6)}


def far_pace(weight_bytes: float, row: Dot, target: TargetProfile) -> int:
    """Bytes a cycle at which a core reads so many bytes of weights, more than its L2 holds beside its data."""
    from_l3, from_memory = _FAR[row.issue]
    # a core has its part of L3 only: of 32 MB less than 8 (Zen 3)
    return from_l3 if weight_bytes <= (target.l3_bytes or target.l2_bytes) / 5 else from_memory


_WIDENING_UOPS = 4  # instructions before SSE4.1 that widen a vector of weights, beyond those that load one of words


def compress(workload: ConvWorkload, row: Dot, target: TargetProfile) -> Dot:
    """The row, its weights in bytes if they are read and widened in less time than words are read.

    So it is where few pixels share many weights: 1×1×1×1280 -> 1000 takes .23 to .49 of the time with vectors of 256
    and 512 bits, .80 with those of 128, where 2.6 MB as words miss L2 (Emerald Rapids).  Before SSE4.1, which widens
    with one instruction, it is worth while only where words come from memory: 9216 -> 4096 takes .71 of the time.
    """
    work = flatten(workload)
    if row.arch != "x86_64" or work.batch * work.out_height * work.out_width > _FEW_PIXELS:
        return row
    tile = choose_tile(work, row, target)
    runs, steps = reduction(work, row)
    vectors = work.groups * math.ceil(work.group_out_channels / (tile.vectors * row.lanes)) * tile.vectors
    vectors *= runs * steps
    bands = work.batch * math.ceil(work.out_height / tile.rows)
    uops = 1 if target.has("sse4.1") else _WIDENING_UOPS
    widening = uops * vectors * bands * math.ceil(tile.rows * work.out_width / tile.pixels) / row.issue

    def cycles(computing: float, weight_bytes: float) -> float:
        own = weight_bytes / tile.channel_tasks
        if own <= target.l1_bytes:
            return computing
        pace = _NEAR if own <= target.l2_bytes * 3 / 4 else far_pace(own, row, target)
        return max(computing, bands * weight_bytes / pace)

    words = vectors * row.packed * 2
    return row.from_bytes() if cycles(tile.cycles + widening, words / 2) < cycles(tile.cycles, words) else row


def choose_tile(workload: ConvWorkload, row: Dot, target: TargetProfile, vectors: int | None = None) -> Tile:
    """The register tile with the least modelled work, and the partition that goes with it.

    ``vectors``: so many in a block, as weights are packed that another workload shares.
    """
    costs = _costs(workload, row, target)
    pixels, vectors = min((shape for shape in costs if vectors in (None, shape[1])), key=costs.__getitem__)
    rows, channel_tasks = _partition(workload, row, vectors * row.lanes, pixels, target)
    return Tile(pixels, vectors, rows, channel_tasks, costs[pixels, vectors])


_PIXELS_ROOM = 192 << 10  # bytes of a band of pixels that no other band reads, and of others at least

# Rows may divide so much less evenly than channels, which mean a copy of the band for each thread, and outputs next to
# each other: dividing rows takes .98 of the time in the median of 23 such convolutions on two threads of Zen 3.
_SHARING = 1.03


def _partition(
    workload: ConvWorkload, row: Dot, block: int, tile_pixels: int, target: TargetProfile
) -> tuple[int, int]:
    """(output rows of a band, tasks that share its channel blocks).

    A band's data should stay in L2 beside the weights of a block; there should be a whole number of tasks a thread.
    Bands repeat the rows that they share and the way of the weights: with 768 KB of them instead of 192, convolutions
    of stride 2 or of groups take .73 to 1.04 of the time (L2 of 2 MB), those of one pixel, which share no row, as much.
    """
    work = workload
    row_bytes = (work.in_width + work.padding[1] + work.padding[3]) * work.in_channels * row.data_bytes * work.stride[0]
    room = _PIXELS_ROOM if work.kernel_height == work.out_width == 1 else max(_PIXELS_ROOM, target.l2_bytes * 3 // 8)
    rows = max(1, min(work.out_height, room // max(row_bytes, 1)))
    if work.out_width == 1 and rows > tile_pixels:  # pixels of a flattened 1×1: whole tiles
        rows -= rows % tile_pixels
    channel_tasks = 1
    if work.threads > 1:
        blocks = work.groups * math.ceil(work.group_out_channels / block)
        bands = work.batch * math.ceil(work.out_height / rows)
        if bands % work.threads:
            by_rows = math.ceil(work.out_height / (work.threads * math.ceil(bands / work.threads)))
            waste_rows = _rounded_up(math.ceil(work.out_height / by_rows), work.threads) * by_rows / work.out_height
            waste_blocks = _rounded_up(blocks, work.threads) / blocks
            if waste_rows <= waste_blocks * _SHARING or blocks < work.threads:
                rows = by_rows
            else:
                channel_tasks = work.threads
    bands = math.ceil(work.out_height / rows)
    return math.ceil(work.out_height / bands), channel_tasks
