"""The hook: legalization of ``relax.qnn.conv2d`` and ``relax.qnn.dense`` by the lowering that a policy chooses.

A compilation runs inside a ``Session``, which knows policy, target and threads and collects the decisions.  Outside of
one (a plain ``LegalizeOps``) the default policy decides for the target in scope.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import relax

from selector import lowering, policy
from selector.graph import qnn
from selector.graph.ir import Expr, op_name, static_shape
from selector.graph.ops import BY_NAME
from selector.graph.ops.parts import shaped
from selector.graph.passes.fuse import Layer
from selector.graph.stored import constants_of, digest, nbytes
from selector.lowering.kernel import Recipe
from selector.policy import Decision, Policy, budget
from selector.policy.base import ONLY, checked, only_choice
from selector.target import TargetProfile, profile
from selector.tensors import TensorSpec
from selector.workload import ConvConstants, ConvWorkload, UnsupportedWorkload

_NHWC = "NHWC"
_CODE_BYTES = 128 << 10  # of a library: its own, and that of kernels beside the layers
_LAYER_BYTES = 10 << 10  # of a layer: code, and what is written down about it


@dataclass
class Session:
    """One compilation: who decides, for what, and what was decided."""

    policy: Policy
    target: TargetProfile
    threads: int = 1
    variant: int = 0  # which of the shapes of one library
    variants: int = 1  # how many there are, which the first is told
    first: Session | None = None  # that of the first shapes, whose packed weights this one shares; None: this is it
    lazy_weights: bool = False  # whether a library stores weights small
    max_bytes: int | None = None  # of a library; None: any number
    decisions: list[Decision] = field(default_factory=list)  # in graph order
    inputs: list[TensorSpec] = field(default_factory=list)  # of the network, in order
    outputs: list[TensorSpec] = field(default_factory=list)  # likewise
    recipes: dict[bytes, Recipe] = field(default_factory=dict)  # by ``stored.digest`` of the weights they make
    _by_layer: dict[str, int] = field(default_factory=dict)  # layer name -> index in decisions

    def reset(self) -> None:
        """Forget every decision, as at the start of a compilation."""
        self.decisions.clear()
        self.inputs.clear()
        self.outputs.clear()
        self.recipes.clear()
        self._by_layer.clear()

    def plan(self, mod: tvm.IRModule, layers: Sequence[Layer]) -> None:
        """Decide for every layer of the fused module ``mod``; ``layers`` says which were left as TVM has them.

        Raises SizeError if no decisions make a library of ``max_bytes``.
        """
        described = {str(call.attrs["layer"]): _describe(call, self.threads) for call in qnn_calls(mod)}
        workloads = [item for item in described.values() if isinstance(item, ConvWorkload)]
        answers = dict(zip(map(id, workloads), self._ask(workloads), strict=True))
        decisions = []
        for layer in layers:
            found: ConvWorkload | str = layer.reason or described[layer.name]
            if isinstance(found, str):
                decisions.append(replace(_left(layer.name, found, integer=layer.integer), macs=layer.macs))
            else:
                answer = self._shared(layer.name, answers[id(found)])
                decisions.append(replace(answer, layer=layer.name, workload=found))
        if self.max_bytes is not None and self.first is None:
            other = other_bytes(mod, workloads, len(decisions) * self.variants)
            decisions = budget.fit(decisions, self.target, self.max_bytes, other, lazy_weights=self.lazy_weights)
        for decision in decisions:
            self._record(decision)

    def lower(self, layer: str, workload: ConvWorkload, constants: ConvConstants) -> lowering.Kernel:
        """Kernel of one layer by the planned decision, deciding now if there is none.

        Raises UnsupportedWorkload, with the refusal recorded as the layer's decision, if no lowering takes it.
        """
        index = self._by_layer.get(layer)
        if index is None:
            self._record(replace(self._ask([workload])[0], layer=layer, workload=workload))
            index = self._by_layer[layer]
        decision = self.decisions[index]
        if decision.lowering == "tvm":
            raise UnsupportedWorkload(decision.reason)
        try:
            first = self._in_first(layer)
            like = first.workload if first is not None and first.lowering == decision.lowering else None
            kernel = lowering.build(workload, constants, self.target, decision.lowering, like)
        except UnsupportedWorkload as error:
            self.decisions[index] = replace(_left(layer, str(error), workload), variant=self.variant)
            raise
        if kernel.recipe is not None and self.lazy_weights:
            self.recipes[digest(kernel.constants[0])] = kernel.recipe
        return kernel

    def _ask(self, workloads: list[ConvWorkload]) -> list[Decision]:
        """One decision for each workload; the policy is asked about those that leave a choice."""
        forced = [only_choice(workload) for workload in workloads]
        free = [workload for workload, decision in zip(workloads, forced, strict=True) if decision is None]
        answers = iter(self._ask_policy(free) if free else [])
        return [next(answers) if decision is None else decision for decision in forced]

    def _ask_policy(self, workloads: list[ConvWorkload]) -> list[Decision]:
        name, decide_all = type(self.policy).__name__, getattr(self.policy, "decide_all", None)
        if decide_all is not None:
            return checked(decide_all(workloads, self.target), len(workloads), f"{name}.decide_all")
        answers = [self.policy.decide(workload, self.target) for workload in workloads]
        return checked(answers, len(workloads), f"{name}.decide")

    def _shared(self, layer: str, decision: Decision) -> Decision:
        """The decision, but with the lowering of the first shapes: each packs weights in its own way.

        Of 1,432 layers of published networks, planned for batch 1 and run at batch 8, few would take the other
        lowering: 46 with AVX-512 and VNNI, 70 with AVX2.  Dense layers and those of one pixel may lose more than a
        tenth by this or by the packing, as the predictor and the plans' models see it.  They lose more the other way
        round: what matters most comes first.
        """
        first = self._in_first(layer)
        if first is None or first.lowering in ("tvm", decision.lowering):
            return decision
        return replace(
            decision, lowering=first.lowering, source="shared", reason="weights shared with the first shapes"
        )

    def _in_first(self, layer: str) -> Decision | None:
        """What the layer got in the first shapes."""
        first = self.first
        return None if first is None or layer not in first._by_layer else first.decisions[first._by_layer[layer]]

    def _record(self, decision: Decision) -> None:
        self._by_layer[decision.layer] = len(self.decisions)
        self.decisions.append(replace(decision, variant=self.variant))


_active: contextvars.ContextVar[Session | None] = contextvars.ContextVar("selector_session", default=None)


@contextmanager
def active(session: Session) -> Iterator[None]:
    """Make ``session`` the one that the hook asks."""
    token = _active.set(session)
    try:
        yield
    finally:
        _active.reset(token)


def _session() -> Session:
    """The active one, else one of the default policy for the target in scope."""
    session = _active.get()
    if session is not None:
        return session
    return Session(policy.resolve(), profile(tvm.target.Target.current(allow_none=True) or "native"))


def qnn_calls(mod: tvm.IRModule) -> Iterator[Expr]:
    """Every call of the two operators, in graph order."""
    for func in mod.functions.values():
        if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr):
            for block in func.body.blocks:
                for binding in block.bindings:
                    if op_name(binding.value) in (qnn.CONV2D, qnn.DENSE):
                        yield binding.value


def legalize(bb: Any, call: Expr) -> Expr:
    """``FLegalize`` of both operators: the chosen kernel, or TVM's float32 operators where no lowering will do."""
    session = _session()
    try:
        workload, constants = qnn.describe(call, session.threads)
        kernel = session.lower(str(call.attrs["layer"]), workload, constants)
    except UnsupportedWorkload:
        return qnn.dequantized(call, bb.emit)
    data, out_shape = call.args[0], static_shape(call)
    layout = _NHWC if op_name(call) == qnn.DENSE else str(call.attrs["data_layout"])
    if layout != _NHWC:
        data = bb.emit(relax.op.permute_dims(data, [layout.index(axis) for axis in _NHWC]))
        out_shape = (workload.batch, workload.out_height, workload.out_width, workload.out_channels)
    func = shaped(kernel.func, [static_shape(data), *[None] * len(kernel.constants)], [out_shape or ()])
    gvar = bb.add_func(func, kernel.name)
    constant_args = [relax.const(value) for value in kernel.constants]
    out = relax.op.call_tir(gvar, [data, *constant_args], relax.TensorType(out_shape, workload.out_dtype))
    if layout != _NHWC:
        return relax.op.permute_dims(bb.emit(out), [_NHWC.index(axis) for axis in layout])
    return out


def legalize_kernel(bb: Any, call: Expr) -> Expr:
    """``FLegalize`` of the operators in ``ops``."""
    session = _session()
    func = BY_NAME[op_name(call) or ""].kernel(call, session.target, session.threads)
    types = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
    shapes = [tuple(int(dim) for dim in item.shape) for item in types]
    func = shaped(func, [static_shape(arg) for arg in call.args], shapes)
    gvar = bb.add_func(func, (op_name(call) or "").removeprefix("relax.").replace(".", "_"))
    return relax.op.call_tir(gvar, list(call.args), types if len(types) > 1 else types[0])


def register() -> None:
    """Tell TVM how Selector's operators are legalized."""
    hooks = {**dict.fromkeys(qnn.OPERATORS, legalize), **dict.fromkeys(BY_NAME, legalize_kernel)}
    for name, hook in hooks.items():
        op = tvm.ir.Op.get(name)
        if op.get_attr("FLegalize") is None:
            op.set_attr("FLegalize", hook)


def other_bytes(mod: tvm.IRModule, workloads: Sequence[ConvWorkload], layers: int) -> int:
    """Bytes of a library beside the weights of the workloads, about: constants, code, and what is written down.

    ``layers``: of all variants.  ResNet-18, MobileNetV2, SqueezeNet and ShuffleNetV2 have 0.54 to 0.98 times as many.
    """
    found = [one for func in mod.functions.values() if isinstance(func, relax.Function) for one in constants_of(func)]
    weights = sum(workload.weight_bytes() for workload in workloads)
    return _CODE_BYTES + layers * _LAYER_BYTES + max(sum(map(nbytes, found)) - weights, 0)


def _describe(call: Expr, threads: int) -> ConvWorkload | str:
    """The workload of a call, or why there is none."""
    try:
        return qnn.describe(call, threads)[0]
    except UnsupportedWorkload as error:
        return str(error)


def _left(layer: str, reason: str, workload: ConvWorkload | None = None, *, integer: bool = False) -> Decision:
    """The decision for a layer that no policy is asked about: it stays as TVM has it, or there is one lowering."""
    lowering, source = ("int16", ONLY) if integer else ("tvm", "unsupported")
    return Decision(lowering, source=source, reason=reason, layer=layer, workload=workload)  # type: ignore[arg-type]
