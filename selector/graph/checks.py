"""Leaving out the checks of arguments that only the network's own code can pass.

TVM gives every TIR function a check of each argument's rank, shape, type, strides and device.  In a network of small
kernels these are larger than the kernels, and only what a caller passes into the network can be wrong.
"""

from __future__ import annotations

import tvm
from tvm import relax, tirx

from selector.graph.ir import op_name, used_vars
from selector.lowering import pipeline as kernel_pipeline

NAME = "selector_network"  # for ``tvm.compile(..., tir_pipeline=NAME)``
_INTERNAL = "selector.internal"  # on TIR functions that read no input of the network


def mark_internal(mod: tvm.IRModule) -> tvm.IRModule:
    """``mod`` with a mark on every TIR function that is called with intermediate results and constants only."""
    exposed = set()
    called = set()
    for func in mod.functions.values():
        if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
            continue
        inputs = set(func.params)
        for block in func.body.blocks:
            for binding in block.bindings:
                call = binding.value
                reads_input = any(var in inputs for var in used_vars(call))
                if op_name(call) == "relax.call_tir":
                    called.add(call.args[0])
                    if reads_input:
                        exposed.add(call.args[0])
                elif reads_input:
                    inputs.add(binding.var)  # perhaps the same memory, seen otherwise
    functions = {
        gvar: func.with_attr(_INTERNAL, True) if gvar in called - exposed else func
        for gvar, func in mod.functions.items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    lower, finalize_host, finalize_device = tirx.compilation_pipeline.get_tir_pipeline(kernel_pipeline.NAME)

    @tvm.transform.module_pass(opt_level=0)
    def pipeline(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        mod = lower(mod)
        internal = {var: func for var, func in mod.functions.items() if func.attrs and _INTERNAL in func.attrs}
        result = tvm.IRModule(dict(mod.functions.items()), attrs=mod.attrs)
        result.update(tirx.transform.SkipAssert()(tvm.IRModule(internal, attrs=mod.attrs)))
        return result

    return pipeline, finalize_host, finalize_device


tirx.compilation_pipeline.register_tir_pipeline(NAME, _pipeline)
