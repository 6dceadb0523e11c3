"""Winograd's weights: packed at compile time, or transformed by a kernel when a network is loaded, to the same bytes.

The transform makes up to eight times as many bytes of 8-bit weights, which a library need not hold.
"""

from __future__ import annotations

import math

import numpy as np

from selector.lowering.dot import Dot
from selector.lowering.kernel import Recipe
from selector.lowering.scheme import Scheme, transform_weights
from selector.lowering.tir import Expr, T, cast, const, function, load, loop, store
from selector.workload import ConvWorkload

_LANES = 32  # weights at a time: a cache line of packed ones


def ordered(weight: np.ndarray, workload: ConvWorkload, row: Dot, vectors: int, slots: np.ndarray) -> np.ndarray:
    """int16 (O, KH, KW, C), zero points subtracted -> (KH, KW, block, panel), padded with zeros to whole blocks.

    A panel is [step][dot group][vector][lane][depth].  ``slots`` (blocks, block): the channel of each lane.
    """
    steps = math.ceil(workload.in_channels / row.step)
    taps = workload.kernel_height, workload.kernel_width
    padded = np.zeros((*taps, max(workload.out_channels, slots.shape[1]), steps * row.step), np.int16)
    padded[:, :, : workload.out_channels, : workload.in_channels] = weight.transpose(1, 2, 0, 3)
    shape = (*taps, len(slots), vectors, row.lanes, steps, row.groups, row.depth)
    in_order = padded[:, :, slots].reshape(shape).transpose(0, 1, 2, 5, 6, 3, 4, 7)
    return np.ascontiguousarray(in_order).reshape(*taps, len(slots), -1)


def pack(scheme: Scheme, workload: ConvWorkload, weight: np.ndarray) -> np.ndarray:
    """U as flat int16 [block][region][position][part][panel] of ``ordered`` weights; all of it fits."""
    zero = np.zeros_like(weight[0, 0])
    return np.stack(transform_weights(scheme, workload, list(map(list, weight)), zero), axis=1).reshape(-1)


def recipe(scheme: Scheme, workload: ConvWorkload, weight: np.ndarray) -> Recipe:
    """Makes ``pack`` of [block][tap][panel], which are int8 where all weights fit it."""
    stored = np.ascontiguousarray(np.moveaxis(weight.reshape(-1, *weight.shape[2:]), 0, 1))
    info = np.iinfo(np.int8)
    if info.min <= stored.min() and stored.max() <= info.max:
        stored = stored.astype(np.int8)
    blocks, taps, panel = stored.shape
    height, width = workload.kernel_height, workload.kernel_width
    products = scheme.split(workload).products
    lanes = math.gcd(panel, _LANES)
    pieces = math.gcd(panel // lanes, 16)  # of a panel: for more threads than there are blocks
    vectors = panel // lanes // pieces

    def emit(source: Expr, packed: Expr) -> None:
        def vector(block: Expr, index: Expr) -> None:
            start = T.Bind(block * (taps * panel) + index * lanes)
            target = T.Bind(block * (products * panel) + index * lanes)
            loaded = [T.Bind(cast(load(source, start + tap * panel, lanes), "int32", lanes)) for tap in range(taps)]
            by_row = [loaded[i * width : (i + 1) * width] for i in range(height)]
            made = transform_weights(scheme, workload, by_row, const(0, "int32", lanes), T.Bind)
            for position, value in enumerate(made):
                store(packed, target + position * panel, cast(value, "int16", lanes), lanes)

        def task(index: Expr) -> None:
            block, piece = index // pieces, index % pieces
            loop(vectors, lambda v: vector(block, piece * vectors + v))

        loop(blocks * pieces, task, parallel=workload.threads > 1)

    name = f"winograd_weights_{scheme.name}_{height}x{width}"
    arguments = [("stored", stored.size, str(stored.dtype)), ("packed", blocks * products * panel, "int16")]
    return Recipe(stored.reshape(-1), function(name, arguments, emit))
