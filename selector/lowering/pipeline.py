"""TIR lowering for Selector's kernels: TVM's own passes, less those that have nothing to do in block-free functions.

TVM's default pipeline spends most of a kernel's compile time on compacting buffers and on common subexpressions, which
LLVM does anyway.  Functions without the mark ``ATTRIBUTE`` go through TVM's default pipeline.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import transform as s
from tvm.tirx import transform as t

from selector.lowering.kernel import Kernel
from selector.target import TargetLike, resolve

NAME = "selector"  # for ``tvm.compile(..., tir_pipeline=NAME)``
ATTRIBUTE = "selector.kernel"  # on every PrimFunc that ``selector.lowering`` makes


def compile_kernel(kernel: Kernel, target: TargetLike) -> tvm.runtime.Executable:
    """One kernel as a module of its own; ``result[kernel.name](data, *constants, out)`` takes flat tensors."""
    return tvm.compile(tvm.IRModule({kernel.name: kernel.func}), target=resolve(target), tir_pipeline=NAME)


def _kernel_passes() -> tvm.transform.Pass:
    passes = [
        s.LowerInitBlock(),
        s.ConvertBlocksToOpaque(),
        s.LowerOpaqueBlock(),
        t.FlattenBuffer(),
        t.NarrowDataType(32),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        t.VerifyMemory(),
        t.AnnotateEntryFunc(),
        t.SplitHostDevice(),
        t.MakePackedAPI(),
    ]
    return tvm.transform.Sequential(passes)


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    default, finalize_host, finalize_device = s_tir.pipeline.default_s_tir_pipeline()

    @tvm.transform.module_pass(opt_level=0)
    def pipeline(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        marked = {var: func for var, func in mod.functions.items() if func.attrs and ATTRIBUTE in func.attrs}
        rest = {var: func for var, func in mod.functions.items() if var not in marked}
        result = tvm.IRModule({}, attrs=mod.attrs)
        for functions, passes in ((marked, _kernel_passes()), (rest, default)):
            if functions:
                result.update(passes(tvm.IRModule(functions, attrs=mod.attrs)))
        return result

    return pipeline, finalize_host, finalize_device


tirx.compilation_pipeline.register_tir_pipeline(NAME, _pipeline)
