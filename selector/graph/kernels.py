"""Kernels of operators other than convolution, and what it takes to call any kernel from Relax."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from selector.graph.schedule import SCHEDULED

Shape = Sequence[int]


def shaped(func: tirx.PrimFunc, shapes: Sequence[Shape | None]) -> tirx.PrimFunc:
    """``func`` with the flat buffers of its arguments seen as tensors of ``shapes`` (None: as it is).

    Kernels compute on flat buffers; Relax calls a function with tensors of the rank that it declares.
    """
    params, views = [], []
    for buffer, shape in zip(func.params, shapes, strict=True):
        if shape is None or len(shape) == 1:
            params.append(buffer)
            continue
        params.append(tirx.decl_buffer(shape, buffer.dtype, buffer.name))
        views.append(tirx.DeclBuffer(buffer, data=params[-1].data))
    body = tirx.SeqStmt([*views, func.body]) if views else func.body
    out = tirx.PrimFunc(params, body, func.ret_type, func.attrs).without_attr("global_symbol")
    return out.with_attr(SCHEDULED, True)
