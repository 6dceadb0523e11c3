"""What a lowering would make of a workload on a target, without building it: the one place that decides it.

``plan`` needs no constants.  What it reads of the weights are the workload's own facts, so that a kernel built from
constants with these facts has the template, the dot instruction and the register tile of the plan.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import NamedTuple

from selector.lowering import conv, depthwise, dot, int8, int16, tiling, winograd_layout
from selector.lowering.depthwise_layout import Layout
from selector.lowering.interleave import INTERLEAVE_UOPS
from selector.lowering.prepare import Band
from selector.lowering.scheme import Scheme
from selector.target import TargetProfile
from selector.weights import WeightFacts
from selector.workload import ConvWorkload, UnsupportedWorkload

# Waking the other threads of TVM's pool and waiting for them takes 2 us (median over 3700 convolutions on Zen 3, where
# two threads beat one from 5 us on): kernels of fewer cycles, all of them together, run on the thread that calls them.
WORTH_WAKING = 10_000


class Plan(NamedTuple):
    """The code of one workload under one lowering, as its own models see it.

    Everything counts the whole work, all threads together; cycles are those of one core.
    """

    template: str  # as in Kernel.template
    row: dot.Dot
    saving: float  # times fewer multiplications by Winograd; 1: direct
    pixels: int  # register tile: so many pixels …
    vectors: int  # … times vectors of output channels
    cycles: float  # products with their loads, and Winograd's transforms; without the next two
    prepare_cycles: float  # copying, converting, padding or interleaving the data
    term2_cycles: float  # sums of the data under every output pixel
    macs: float  # multiply-accumulates that the dot instruction performs, padding and overlaps included
    scratch_bytes: float  # written to scratch memory; 0: the tensor is read in place
    weight_bytes: int  # packed
    stored_bytes: int  # what packed weights are made of when a library is loaded; as many where they are stored packed
    weight_passes: float  # how often all packed weights are streamed
    panel_bytes: int  # weights in use at a time
    band_bytes: float  # data in use at a time, as the dot instruction reads it
    tasks: int  # that threads share

    @property
    def all_cycles(self) -> float:
        """Modelled cycles of the whole work."""
        return self.cycles + self.prepare_cycles + self.term2_cycles


def plan(workload: ConvWorkload, target: TargetProfile, lowering: str) -> Plan:
    """The plan of one lowering; raises KeyError for an unknown one, UnsupportedWorkload for 16-bit data under ``int8``.

    Two lowerings' plans together take 70 to 100 µs: policies compute them for every layer.
    """
    made = _PLANS[lowering](workload, target)
    if made.tasks > 1 and made.all_cycles < WORTH_WAKING:
        return _PLANS[lowering](replace(workload, threads=1), target)
    return made


def library_bytes(workload: ConvWorkload, target: TargetProfile, *, lazy_weights: bool) -> dict[str, int]:
    """Bytes that weights take in a library under each lowering that takes the workload."""
    found = {}
    for name in _PLANS:
        with contextlib.suppress(UnsupportedWorkload):
            made = plan(workload, target, name)
            found[name] = made.stored_bytes if lazy_weights else made.weight_bytes
    return found


def employed(workload: ConvWorkload, target: TargetProfile, lowering: str) -> ConvWorkload:
    """The workload with the threads that the plan makes use of: all of them, or one."""
    return workload if plan(workload, target, lowering).tasks > 1 else replace(workload, threads=1)


def _int8(workload: ConvWorkload, target: TargetProfile) -> Plan:
    row, template = int8.choose(workload, facts(workload), target)
    if template is depthwise:
        return _depthwise(workload, row, target, term2=workload.term2)
    return _direct(workload, row, target, term2=workload.term2)


def _int16(workload: ConvWorkload, target: TargetProfile) -> Plan:
    row, template, scheme = int16.choose(workload, workload.accumulator_bound(), target, term2=workload.term2)
    if scheme is not None:
        return _winograd(workload, scheme, row, target)
    if template is depthwise:
        return _depthwise(workload, row, target, term2=False)
    return _direct(workload, row, target, term2=False)


_PLANS = {"int8": _int8, "int16": _int16}


def facts(workload: ConvWorkload) -> WeightFacts:
    """What the workload says about its weights."""
    return WeightFacts(
        workload.weight_bound, workload.pair_bound, workload.quad_bound, workload.channel_bound, workload.term2
    )


def _direct(workload: ConvWorkload, row: dot.Dot, target: TargetProfile, *, term2: bool) -> Plan:
    work = tiling.flatten(workload)
    tile = tiling.choose_tile(work, row, target)
    out_height, out_width = work.out_height, work.out_width
    runs, steps = tiling.reduction(work, row)
    block = tile.vectors * row.lanes
    blocks = work.groups * math.ceil(work.group_out_channels / block)
    panel = runs * steps * row.step * block * (2 if row.weight_dtype == "int16" else 1)
    bands = work.batch * math.ceil(out_height / tile.rows)
    pixels = work.batch * out_height * out_width
    band = Band(work, tile.rows, row.data_dtype, 0, 0).elements * row.data_bytes
    copied = 0 if tiling.reads_in_place(work, row, term2=term2) else bands * tile.channel_tasks * band
    sums = pixels * work.groups * runs * math.ceil(steps * row.step / conv.summed_at_once(row)) if term2 else 0
    return Plan(
        template=conv.NAME,
        row=row,
        saving=1.0,
        pixels=tile.pixels,
        vectors=tile.vectors,
        cycles=tile.cycles,
        prepare_cycles=_copy_cycles(copied, row, target),
        term2_cycles=sums * 3 / 4 * tile.channel_tasks,  # vectors of 256 bits at most
        macs=pixels * blocks * block * runs * steps * row.step,
        scratch_bytes=copied,
        weight_bytes=blocks * panel,
        stored_bytes=blocks * panel,
        weight_passes=bands,
        panel_bytes=panel,
        band_bytes=band,
        tasks=bands * tile.channel_tasks,
    )


def _winograd(workload: ConvWorkload, scheme: Scheme, row: dot.Dot, target: TargetProfile) -> Plan:
    work, split = workload, scheme.split(workload)
    shares, channel_tasks = winograd_layout.partition(scheme, work, target)
    tiles = math.ceil(math.prod(scheme.tiles(work)) / shares)
    pixels, vectors = winograd_layout.tile_shape(work, tiles, row, target)
    block = vectors * row.lanes
    blocks = math.ceil(work.out_channels / block)
    depth = math.ceil(work.in_channels / row.step) * row.step
    panel = depth * block * 2
    tasks = work.batch * shares * channel_tasks
    copied = tasks * winograd_layout.band_of(scheme, work, tiles, 0).elements * 2
    transformed = scheme.points * split.parts * tiles * depth * 2
    return Plan(
        template=scheme.name,
        row=row,
        saving=scheme.outputs * work.kernel_height * work.kernel_width / split.products,
        pixels=pixels,
        vectors=vectors,
        cycles=winograd_layout.cost(scheme, work, row, target),
        prepare_cycles=_copy_cycles(copied, row, target),
        term2_cycles=0.0,
        macs=work.batch * shares * tiles * split.products * depth * blocks * block,
        scratch_bytes=copied + tasks * (transformed + scheme.points * tiles * blocks * block * 4 / channel_tasks),
        weight_bytes=blocks * split.products * panel,
        stored_bytes=blocks * work.kernel_height * work.kernel_width * panel // (1 if work.term2 else 2),
        weight_passes=work.batch * shares,
        panel_bytes=panel,
        band_bytes=transformed,
        tasks=tasks,
    )


def _depthwise(workload: ConvWorkload, row: dot.Dot, target: TargetProfile, *, term2: bool) -> Plan:
    work = workload
    layout = Layout.of(work, row, target, term2=term2)
    rows = layout.plan
    padded = math.ceil(work.out_channels / layout.chunk) * layout.chunk
    columns = work.in_width + work.padding[1] + work.padding[3]
    bands = work.batch * math.ceil(work.out_height / rows.out_rows)
    dots = bands * rows.dots(work.kernel_width) * work.out_width * padded / row.lanes
    per_dot = max(row.uops / row.issue, 0.5)  # two loads a cycle: the weights are memory operands
    interleaved = rows.groups * row.depth * columns * layout.chunk * row.data_bytes
    chunks = padded // layout.chunk
    pieces = bands * rows.groups * row.depth * columns * padded / layout.piece
    taps = work.kernel_width * rows.out_rows * rows.groups * row.depth * row.data_bytes
    stores = bands * rows.out_rows * work.out_width * padded / row.lanes * 3
    return Plan(
        template=depthwise.NAME,
        row=row,
        saving=1.0,
        pixels=min(layout.columns, work.out_width) * rows.out_rows,
        vectors=layout.vectors,
        cycles=dots * per_dot + stores / row.issue,
        prepare_cycles=pieces * INTERLEAVE_UOPS / row.issue,
        term2_cycles=dots * per_dot if term2 else 0.0,
        macs=dots * row.lanes * row.depth,
        scratch_bytes=bands * chunks * interleaved,
        weight_bytes=taps * padded * (2 if term2 else 1),
        stored_bytes=taps * padded * (2 if term2 else 1),
        weight_passes=bands,
        panel_bytes=taps * layout.vectors * row.lanes,
        band_bytes=interleaved,
        tasks=bands if work.threads > 1 else 1,
    )


def _copy_cycles(stored: float, row: dot.Dot, target: TargetProfile) -> float:
    """Load, convert and store: three instructions for every vector that is stored."""
    return stored / (target.vector_bits // 8) * 3 / row.issue
