"""How the Winograd template divides a convolution, and what that costs by its model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from selector.lowering import tiling
from selector.lowering.dot import Dot
from selector.lowering.prepare import Band
from selector.lowering.register_tile import tile_shapes
from selector.lowering.scheme import Scheme
from selector.target import TargetProfile
from selector.workload import ConvWorkload


class _Pace(NamedTuple):
    """What the steps cost on a family of CPUs beside their instructions."""

    products: float  # cycles over those that the instructions take
    near: int  # bytes of weights a cycle, where they fill at most half of L2
    into: float  # the transform of the data, as ``products``: it waits for loads and stores
    back: float  # the transform of the products
    copied: float  # cycles for an element of the data under the tiles: on its way through the band


# By the vector instructions a cycle of a row: of 128 and 256 bits on Zen 3, of 512 bits on Emerald Rapids.
_PACES = {4: _Pace(1.15, 16, 1.52, 1.88, 0.0), 2: _Pace(1.2, 32, 1.55, 1.35, 0.66)}


def cost(scheme: Scheme, workload: ConvWorkload, row: Dot, target: TargetProfile) -> float:
    """Modelled cycles of one core: products, or the weights' way from memory if longer, and both transforms.

    Over 268 timings on three levels of Zen 3 the choice among the direct template and all schemes is 1.2 % from the
    best of them on average above 30 µs, 19 % at most, and 3.3 % below; over 228 with AVX-512 on Emerald Rapids, half of
    them 3×1 with few channels, 0.7 % and 23 % at most: with VNNI 8 % and 50 % where the copy is left out.
    """
    pace = _PACES[row.issue]
    tiles = math.prod(scheme.tiles(workload))
    depth_steps = workload.in_channels / row.step
    split = scheme.split(workload)
    out_vectors = math.ceil(workload.out_channels / row.lanes)
    products = tiles * split.products * depth_steps * out_vectors * row.uops / row.issue
    transforms = tiles * (
        math.ceil(workload.in_channels / transform_lanes(workload, target)) * split.parts * scheme.data_ops * pace.into
        + out_vectors * scheme.inverse_ops * pace.back
    )
    copied = tiles * scheme.outputs * math.prod(workload.stride) * workload.in_channels * pace.copied
    shares, _ = partition(scheme, workload, target)
    weight_bytes = split.products * workload.in_channels * workload.out_channels * 2
    speed = pace.near if weight_bytes <= target.l2_bytes / 2 else tiling.far_pace(weight_bytes, row, target)
    products = max(products * pace.products, shares * weight_bytes / speed)
    return workload.batch * (products + transforms / row.issue + copied)


def partition(scheme: Scheme, workload: ConvWorkload, target: TargetProfile) -> tuple[int, int]:
    """(equal shares of an image's tiles, tasks that divide the blocks of channels of a share among them).

    V and M of a share fit half of L2, M counted as if a block had 16 channels, with which the rule was fitted on Zen 3;
    with AVX-512 as many as it has, which takes .78 to 1.02 of the time.  With threads to feed, either there are as many
    shares as it takes, each of which streams all weights, or a share's channels are divided, and each part transforms
    the data again.  From six tiles on a share's products take longer than its weights need to arrive (70
    convolutions on two threads of Zen 3).
    """
    tiles = math.prod(scheme.tiles(workload))
    block = min(64, math.ceil(workload.out_channels / 16) * 16) if target.vector_bits == 512 else 16
    bytes_of_tile = scheme.points * (scheme.split(workload).parts * workload.in_channels * 2 + block * 4)
    shares = max(1, math.ceil(tiles * bytes_of_tile / (target.l2_bytes // 2)))
    if workload.batch * shares % workload.threads == 0:
        return shares, 1
    if tiles < 6 * workload.threads and workload.out_channels > 2 * tiles:
        return shares, workload.threads
    return min(tiles, math.ceil(shares / workload.threads) * workload.threads), 1


def transform_lanes(workload: ConvWorkload, target: TargetProfile) -> int:
    """Channels that the transform of the data takes at a time: a vector of words, or as large a part as they fill."""
    lanes = target.vector_bits // 16
    while lanes > workload.in_channels:
        lanes //= 2
    return lanes


def band_of(scheme: Scheme, workload: ConvWorkload, tiles: int, data_offset: int) -> Band:
    """The input under all rows of tiles that a run of so many may touch, padded to whole tiles and parts."""
    tile_rows, tile_columns = scheme.tiles(workload)
    split = scheme.split(workload)
    reach = [
        max(part.offset for part in parts) + (parts[0].taps - 1) * stride + 1
        for parts, stride in zip((split.rows, split.columns), workload.stride, strict=True)
    ]
    top, left, bottom, right = workload.padding
    bottom += (tile_rows * scheme.rows.size - workload.out_height) * workload.stride[0]
    right += (tile_columns * scheme.columns.size - workload.out_width) * workload.stride[1]
    padding = top, left, bottom + reach[0] - workload.kernel_height, right + reach[1] - workload.kernel_width
    padded = replace(workload, kernel_height=reach[0], kernel_width=reach[1], padding=padding)
    rows = min(math.ceil((tiles - 1) / tile_columns) + 1, tile_rows)
    return Band(padded, rows * scheme.rows.size, "int16", data_offset, 0)


def tile_shape(
    workload: ConvWorkload, tiles: int, row: Dot, target: TargetProfile, vectors: int | None = None
) -> tuple[int, int]:
    """Register tile (pixels, vectors) of the products: least steps for the ``tiles`` of a task.

    ``vectors``: so many, as weights are packed that another workload shares.
    """

    def price(shape: tuple[int, int]) -> float:
        pixels, across = shape
        blocks = math.ceil(workload.out_channels / (across * row.lanes))
        count = math.ceil(tiles / pixels)
        width = tiles / count
        return blocks * count * max(width * across * row.uops / row.issue, (width + across) / 2, 3)

    shapes = [shape for shape in tile_shapes(row, target.vector_registers) if shape[1] <= 4]
    return min((shape for shape in shapes if vectors in (None, shape[1])), key=price)
