"""TVM's own tuner, MetaSchedule, on the convolution inside a workload: minutes of search where Selector has templates.

It gets the form that suits it best: int16 data and weights with the zero points already subtracted, int32 sums, and
weights in whatever layout its schedule asks for.  Widening the data, subtracting, and requantizing are left out, all of
which Selector's kernels do within their time.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx

from selector.kernel_cases import KernelCase
from selector.kernel_peers import KernelPeer, PeerKernel, fastest
from selector.peers import PeerUnavailable
from selector.target import TargetLike, profile, resolve
from selector.wording import counted
from selector.workload import ConvWorkload

_BATCH = 32  # candidates that are built and timed between two updates of the cost model
_BUILD_SECONDS = 60.0  # limit of one candidate
_FINALISTS = 4  # best records that are timed again: the tuner's own timings are short
_TASK = "main"


def metaschedule(trials: int, database: Path | None = None) -> KernelPeer:
    """The tuner as a peer that measures ``trials`` candidates for every convolution.

    ``database``: folder that keeps the records; a convolution that has as many there is not tuned again.
    Raises PeerUnavailable without xgboost, which its cost model needs.
    """
    if importlib.util.find_spec("xgboost") is None:
        raise PeerUnavailable("MetaSchedule needs xgboost: pip install xgboost-cpu")
    return KernelPeer("metaschedule", functools.partial(_kernel, trials=trials, database=database))


def convolution(work: ConvWorkload) -> tvm.IRModule:
    """The convolution as one function of loops without a schedule.

    x (N, H, W, C) int16, w (KH, KW, C/groups, O) int16 -> (N, OH, OW, O) int32.  The weights of a depthwise convolution
    are (KH, KW, O).
    """
    top, left, bottom, right = work.padding
    height, width = work.in_height, work.in_width
    taps = (work.kernel_height, work.kernel_width)
    inner = work.group_in_channels
    x = te.placeholder((work.batch, height, width, work.in_channels), "int16", name="x")
    w = te.placeholder((*taps, *([inner] if inner > 1 else []), work.out_channels), "int16", name="w")
    data = x
    if any(work.padding):
        data = te.compute(
            (work.batch, height + top + bottom, width + left + right, work.in_channels),
            lambda n, i, j, c: te.if_then_else(
                te.all(i >= top, i < height + top, j >= left, j < width + left),
                x[n, i - top, j - left, c],
                tirx.const(0, "int16"),
            ),
            name="pad",
        )
    ry, rx = (te.reduce_axis((0, extent), name=name) for extent, name in zip(taps, ("ry", "rx"), strict=True))
    rc = [te.reduce_axis((0, inner), name="rc")] if inner > 1 else []
    (stride_y, stride_x), (dilation_y, dilation_x) = work.stride, work.dilation

    def product(n: Any, i: Any, j: Any, o: Any) -> Any:
        first = 0 if work.groups == 1 else o // work.group_out_channels * inner
        channel = first + rc[0] if rc else first
        pixel = data[n, i * stride_y + ry * dilation_y, j * stride_x + rx * dilation_x, channel]
        reduced = (ry, rx, *rc)
        tap = (*reduced, o)
        return te.sum(pixel.astype("int32") * w[tap].astype("int32"), axis=reduced)

    shape = (work.batch, work.out_height, work.out_width, work.out_channels)
    func = te.create_prim_func([x, w, te.compute(shape, product, name="conv")])
    # a network would have its weights packed beforehand: the schedule may choose their layout
    return tvm.IRModule({_TASK: func.with_attr({"layout_free_buffers": [1], "global_symbol": _TASK})})


def build(module: tvm.IRModule, target: tvm.target.Target, _: object = None) -> tvm.runtime.Module:
    """Machine code of a scheduled convolution that takes its weights packed; also what the tuner's workers call."""
    return tvm.compile(_packed(module), target=target).mod


def schedules(work: ConvWorkload, target: TargetLike, trials: int, database: Path) -> list[tvm.IRModule]:
    """The fastest few schedules among ``trials`` candidates, best first; they pack the weights themselves.

    A process takes half a minute to start tuning, and a hundred trials take minutes.
    Raises PeerUnavailable if no candidate could be built and timed.
    """
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    module = convolution(work)
    database.mkdir(parents=True, exist_ok=True)
    records = ms.database.JSONDatabase(work_dir=str(database))
    entry = records.commit_workload(module)
    tried = sum(record.workload.same_as(entry) for record in records.get_all_tuning_records())
    if tried < trials:
        task = ms.TuneContext(
            module,
            target=tvm.target.Target({**json.loads(str(resolve(target))), "num-cores": work.threads}),
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            task_name=_TASK,
            rand_state=1,
            num_threads=profile(target).cores,
        )
        ms.tune_tasks(
            tasks=[task.clone()],
            task_weights=[1.0],
            work_dir=str(database),
            max_trials_global=trials - tried,
            num_trials_per_iter=_BATCH,
            builder=ms.builder.LocalBuilder(f_build=build, timeout_sec=_BUILD_SECONDS),
            runner=ms.runner.LocalRunner(timeout_sec=_BUILD_SECONDS),
            database=records,
        )
    found = []
    for record in records.get_top_k(entry, _FINALISTS):
        schedule = Schedule(module)
        record.trace.apply_to_schedule(schedule, remove_postproc=False)
        found.append(schedule.mod)
    if not found:
        raise PeerUnavailable(f"MetaSchedule found no schedule for {work.describe()} in {counted(trials, 'trial')}")
    return found


def _kernel(
    case: KernelCase, data: np.ndarray, target: TargetLike, *, trials: int, database: Path | None
) -> PeerKernel:
    """The best schedule on random operands: how long integers take does not depend on their values."""
    with tempfile.TemporaryDirectory() as scratch:
        modules = schedules(case.workload, target, trials, database or Path(scratch))
    return fastest([_bound(module, resolve(target)) for module in modules])


def _bound(module: tvm.IRModule, target: tvm.target.Target) -> PeerKernel:
    function = build(module, target)[_TASK]
    rng = np.random.default_rng(0)
    arguments = []
    for buffer in _packed(module)[_TASK].params:
        shape = [int(extent) for extent in buffer.shape]
        arguments.append(tvm.runtime.tensor(rng.integers(-128, 128, shape).astype(str(buffer.dtype))))
    return PeerKernel(functools.partial(function, *arguments), None)


def _packed(module: tvm.IRModule) -> tvm.IRModule:
    """The scheduled convolution without the block that packs its weights."""
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    return RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
