"""The pass pipeline from a QDQ network to TVM's VM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_generic

from selector import policy as policies
from selector.graph import legalize
from selector.graph.checks import mark_internal
from selector.graph.legalize import Session
from selector.graph.passes import fuse
from selector.graph.passes.canonical import canonicalize
from selector.graph.passes.fused import fuse_kernels
from selector.graph.passes.hoist import quantize_early
from selector.graph.passes.integer import keep_integer
from selector.graph.passes.layout import to_channels_last
from selector.graph.passes.padding import fold_padding
from selector.graph.schedule import schedule
from selector.graph.variants import function_name, inputs_of, outputs_of
from selector.mapped_weights import StoredWeight
from selector.policy import Policy
from selector.profiles import INSTRUCTION_SETS
from selector.runtime import METADATA
from selector.target import TargetLike, profile, resolve
from selector.threads import host_cores


def pipeline(target: TargetLike = "native", policy: str | Policy | None = None, threads: int | None = None) -> Any:
    """A Relax pipeline for ``tvm.compile(mod, target, relax_pipeline=...)``.

    tvm.compile takes no name of a CPU: give both ``selector.resolve_target(name)``.
    ``threads`` is what the kernels are laid out for and what the policy is told; None: all cores.
    Raises UnknownTarget and UnknownPolicy.
    """
    resolved = resolve(target)
    session = Session(policies.resolve(policy), profile(resolved), threads or host_cores())
    return session_pipeline(resolved, session)


def session_pipeline(target: tvm.target.Target, session: Session) -> Any:
    """The pipeline of one compilation; ``session.decisions`` is filled when it has run."""

    @tvm.transform.module_pass(opt_level=0, name="selector")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        current = tvm.target.Target.current(allow_none=True)
        if current is not None and str(resolve(current)) != str(target):
            # LLVM ends the process when it meets an instruction that its target lacks
            raise ValueError(f"the pipeline was made for the target {target}, the compilation is for {current}")
        return finished(legalized(mod, session, target), [session], target)

    return run


def legalized(mod: tvm.IRModule, session: Session, target: tvm.target.Target) -> tvm.IRModule:
    """The first half: calls of kernels alone are left, and ``session`` knows the inputs and the decisions."""
    session.reset()
    session.inputs.extend(inputs_of(mod))
    session.outputs.extend(outputs_of(mod))
    with target, legalize.active(session):
        mod = quantized(mod, session)
        mod = tvm.transform.Sequential(cpu_generic.library_dispatch_passes(target))(mod)
        mod = tvm.transform.Sequential(cpu_generic.legalize_passes(target))(mod)
        return mark_internal(schedule(mod, session.threads))


def finished(
    mod: tvm.IRModule, sessions: Sequence[Session], target: tvm.target.Target, weights: Sequence[StoredWeight] = ()
) -> tvm.IRModule:
    """The second half: memory planned, calls in the form that the VM takes; ``sessions``: one for each variant.

    ``weights``: those that the functions take as parameters.
    """
    with target:
        mod = with_metadata(mod, sessions, weights)
        mod = tvm.transform.Sequential(cpu_generic.dataflow_lower_passes(target))(mod)
        return tvm.transform.Sequential(cpu_generic.finalize_passes(target))(mod)


def quantized(mod: tvm.IRModule, session: Session) -> tvm.IRModule:
    """Graph-level part: QDQ fusion, 8-bit data and NHWC around it, and a decision for every layer."""
    # a module need not have dataflow blocks, the passes look at nothing else
    mod = relax.transform.ConvertToDataflow()(mod)
    mod = quantize_early(keep_integer(canonicalize(mod)))
    mod, layers = fuse.fuse(fold_padding(mod))
    mod = relax.transform.CanonicalizeBindings()(keep_integer(mod))
    mod = fuse_kernels(to_channels_last(fold_padding(mod)))
    session.plan(mod, layers)
    return mod


def with_metadata(mod: tvm.IRModule, sessions: Sequence[Session], weights: Sequence[StoredWeight]) -> tvm.IRModule:
    """Add the VM function that tells a saved library's functions with their inputs, its weights, decisions, threads."""
    first = sessions[0]
    named = [(function_name(index), session) for index, session in enumerate(sessions)]
    text = json.dumps(
        {
            "threads": first.threads,
            "target": first.target.name,
            "instructions": sorted(first.target.features & INSTRUCTION_SETS),
            "functions": {name: [asdict(spec) for spec in session.inputs] for name, session in named},
            "outputs": {name: [asdict(spec) for spec in session.outputs] for name, session in named},
            "weights": [asdict(weight) for weight in weights],
            "decisions": [decision.to_dict() for session in sessions for decision in session.decisions],
        }
    )
    builder = relax.BlockBuilder()
    with builder.function(METADATA, []):
        builder.emit_func_output(relax.const(np.frombuffer(text.encode(), "uint8").copy()))
    out = tvm.IRModule(dict(mod.functions.items()), attrs=mod.attrs, global_infos=mod.global_infos)
    out.update_func(tvm.ir.GlobalVar(METADATA), builder.get()[METADATA])
    return out


legalize.register()
