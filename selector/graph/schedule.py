"""Loops of what TVM generates for the operators that Selector has no kernel of: fused, and spread over the threads.

Vectorising is left to LLVM, which does it well once the producers are inlined into one loop nest.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import normalize_prim_func

SCHEDULED = "tirx.is_scheduled"  # attribute of functions that must stay as they are
PARALLEL_ELEMENTS = 1 << 14  # starting the threads costs some microseconds; below this many elements it does not pay


def schedule(mod: tvm.IRModule, threads: int) -> tvm.IRModule:
    """``mod`` with every unscheduled TIR function inlined, and parallel where that pays."""
    functions = {
        gvar: _scheduled(func, threads) if isinstance(func, tirx.PrimFunc) else func
        for gvar, func in mod.functions.items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _scheduled(func: tirx.PrimFunc, threads: int) -> tirx.PrimFunc:
    if func.attrs is not None and SCHEDULED in func.attrs:
        return func
    try:
        sch = s_tir.Schedule(func)
        blocks = normalize_prim_func(sch)
        if blocks is None:
            return func
        if all(block.is_injective() for block in blocks):
            for block in blocks[:-1]:
                sch.compute_inline(block.block_rv)
            blocks = blocks[-1:]
        if threads > 1:
            for block in blocks:
                _spread(sch, block)
    except (s_tir.ScheduleError, RuntimeError, ValueError):
        # a function that the primitives do not take, e.g. one with dynamic loops, is still correct as it came
        return func
    return sch.mod["main"].with_attrs(func.attrs)


def _spread(sch: Any, block: Any) -> None:
    """Run the outer spatial loops of a block in parallel, keeping the innermost one whole for vectors."""
    kind = block.dom_kind()
    spatial = len(kind) - len(kind.lstrip("S"))
    size = math.prod(int(extent) for extent in block.dom())
    if size < PARALLEL_ELEMENTS or spatial < 2:
        return
    sch.parallel(sch.fuse(*sch.get_loops(block.block_rv)[: spatial - 1]))
