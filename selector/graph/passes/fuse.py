"""QDQ fusion.

    quantize(clip(nn.conv2d(dequantize(x), dequantize(w)) + bias))  ->  relax.qnn.conv2d(x, w, bias, ...)
    quantize(clip(matmul(dequantize(x), dequantize(w)) + bias))     ->  relax.qnn.dense(x, w, bias, ...)

Bias, activation and quantize are optional; without the last the result is float32.  Each anchor (convolution or
matmul) is matched, then either refused with a sentence or rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.graph import qnn
from selector.graph.constants import QuantTensor, activation, clipped, fold, quant_tensor
from selector.graph.ir import (
    Bindings,
    Emitter,
    Expr,
    Graph,
    Var,
    constant,
    dtype_of,
    ints,
    op_name,
    rewrite,
    scalar,
    static_shape,
)
from selector.graph.ops import matmul
from selector.graph.quantization import BYTES, DEQUANTIZE, INTEGERS, QUANTIZE
from selector.workload import INT32_MAX

_ONNX_NAMES = {
    "permute_dims": "Transpose",
    "strided_slice": "Slice",
    "expand_dims": "Unsqueeze",
    "take": "Gather",
    "multiply": "Mul",
    "subtract": "Sub",
    "divide": "Div",
    "astype": "Cast",
    "max_pool2d": "MaxPool",
    "avg_pool2d": "AveragePool",
    "adaptive_avg_pool2d": "GlobalAveragePool",
    "resize2d": "Resize",
    "leakyrelu": "LeakyRelu",
    "matmul": "MatMul",
    "conv2d": "Conv",
    "conv2d_transpose": "ConvTranspose",
}
_BOTH_DATA = "both operands are data: there is one lowering"
_MANY_WEIGHTS = "its weight differs between batches: there is one lowering"
LAYER_NAMES = "selector.layer_names"  # function attribute: names of the anchors, in graph order
ANCHORS = (
    "relax.nn.conv1d",
    "relax.nn.conv2d",
    "relax.nn.conv3d",
    "relax.nn.conv1d_transpose",
    "relax.nn.conv2d_transpose",
    "relax.nn.conv3d_transpose",
    "relax.matmul",
)


@dataclass(frozen=True)
class Layer:
    """One anchor of the network."""

    name: str
    reason: str = ""  # why it is no layer that a policy decides about; empty: it is one
    macs: int = 0  # multiply-accumulates of one that is none
    integer: bool = False  # whether such a one is computed on integers all the same


@dataclass
class Match:
    """An anchor and what surrounds it."""

    anchor: Expr
    layer: str
    result: Var  # variable that the fused call defines
    data: Expr  # the dequantize call (or whatever stands in its place)
    weight: QuantTensor | None
    bias: QuantTensor | np.ndarray | None = None
    clip: tuple[float, float] = (-math.inf, math.inf)
    quantize: Expr | None = None
    absorbed: list[Var] = field(default_factory=list)  # variables between anchor and result


def fuse(mod: tvm.IRModule) -> tuple[tvm.IRModule, list[Layer]]:
    """Fuse every quantized convolution and dense layer; the layers come in graph order."""
    layers: list[Layer] = []
    names = _layer_names(mod)

    def block_pass(bindings: Bindings) -> Bindings:
        return _fuse_block(bindings, names, layers)

    return rewrite(mod, block_pass), layers


def refusal(match: Match) -> str | None:
    """Why ``match`` must be left alone; None when it may be rewritten."""
    anchor = match.anchor
    kind = (op_name(anchor) or "").removeprefix("relax.").removeprefix("nn.")
    if kind not in ("conv2d", "matmul"):
        return f"{operator(anchor)} ({kind}) has no quantized form in Selector"
    if op_name(match.data) != DEQUANTIZE:
        return f"its data is not dequantized but comes from {operator(match.data)}"
    stored = dtype_of(match.data.args[0])
    if stored not in INTEGERS:
        return f"its data is quantized as {stored}, not as 8 or 16 bits"
    if scalar(match.data.args[1]) is None or scalar(match.data.args[2]) is None:
        return "its data has scales or zero points that differ between channels or are not constants"
    if match.weight is None:
        return "its weight is not a dequantized constant"
    if str(match.weight.values.dtype) not in BYTES:
        return f"its weight is quantized as {match.weight.values.dtype}, not uint8 or int8"
    if static_shape(anchor.args[0]) is None:
        return "its data has symbolic dimensions"
    shape = match.weight.values.shape
    if kind == "matmul" and (math.prod(shape[:-2]) > 1 or not 2 <= len(shape) <= len(static_shape(match.data) or ())):
        return f"its weight has the shape {shape}, a dense layer's has 2 dimensions"
    if kind == "conv2d":
        layouts = (str(anchor.attrs.data_layout), str(anchor.attrs.kernel_layout))
        if sorted(layouts[0]) != sorted("NCHW") or sorted(layouts[1]) != sorted("OIHW"):
            return f"layouts {layouts[0]} and {layouts[1]} are packed"
        if str(anchor.attrs.out_layout or layouts[0]) != layouts[0]:
            return f"its result has another layout ({anchor.attrs.out_layout}) than its data ({layouts[0]})"
    weight = _weight_by_output(match)
    for part, what in ((weight.scale, "scales"), (weight.zero_point, "zero points")):
        rows = part.reshape(part.shape[0], -1)
        if (rows != rows[:, :1]).any():
            return f"its weight has {what} that differ within an output channel"
    return None


def rewritten(match: Match) -> Expr:
    """The call that replaces ``match``, which ``refusal`` let pass."""
    weight = _weight_by_output(match)
    channels = weight.values.shape[0]
    data_scale = np.float32(scalar(match.data.args[1]))
    weight_scale = _per_channel(weight.scale)
    params = qnn.QuantParams(
        weight=np.ascontiguousarray(weight.values),
        bias=_bias(match, data_scale, weight_scale, channels),
        data_scale=float(data_scale),
        data_zero_point=int(scalar(match.data.args[2]) or 0),
        weight_scale=weight_scale,
        weight_zero_point=_per_channel(weight.zero_point),
        out_scale=1.0 if match.quantize is None else float(scalar(match.quantize.args[1]) or 0.0),
        out_zero_point=0 if match.quantize is None else int(scalar(match.quantize.args[2]) or 0),
        out_dtype="float32" if match.quantize is None else str(dtype_of(match.quantize)),
        clip_min=match.clip[0],
        clip_max=match.clip[1],
    )
    data = match.data.args[0]
    if op_name(match.anchor) == "relax.matmul":
        return qnn.dense(data, params, layer=match.layer)
    attrs = match.anchor.attrs
    return qnn.conv2d(
        data,
        params,
        layer=match.layer,
        strides=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        groups=int(attrs.groups),
        data_layout=str(attrs.data_layout),
    )


def _fuse_block(bindings: Bindings, names: list[str], layers: list[Layer]) -> Bindings:
    """One dataflow block; takes the names of its anchors off ``names`` and adds its layers to ``layers``."""
    graph = Graph(bindings)
    replacement: dict[Var, Expr] = {}
    places = {binding.var: place for place, binding in enumerate(bindings)}
    found: dict[int, Layer] = {}  # by the place where it is computed: epilogues of neighbours may interleave
    for binding in bindings:
        kind = op_name(binding.value)
        if kind in (qnn.CONV2D, qnn.DENSE):  # as the frontend wrote it
            found[places[binding.var]] = Layer(str(binding.value.attrs["layer"]))
        if kind not in ANCHORS:
            continue
        name = names.pop(0)
        match = _match(graph, binding, name)
        reason = refusal(match)
        place = places[binding.var if reason else match.result]
        if reason and kind == "relax.matmul" and matmul.sources(graph, binding.value) is not None:
            reason = _BOTH_DATA if match.weight is None else _MANY_WEIGHTS
            found[place] = Layer(name, reason, _macs(binding.value), integer=True)
            continue
        found[place] = Layer(name, reason or "", _macs(binding.value) if reason else 0)
        if reason is None:
            replacement[match.result] = rewritten(match)
    layers += [found[place] for place in sorted(found)]
    if not replacement:
        return bindings
    out = Emitter()
    for binding in bindings:
        value = replacement.get(binding.var)
        if value is None:
            out.bindings.append(binding)
        else:
            out.bind(binding.var, out.typed(value))
    return out.bindings


def operator(expr: Expr) -> str:
    """What ONNX calls the operator that computes a tensor, or what else it is."""
    name = op_name(expr)
    if name is None:
        return "a constant" if constant(expr) is not None else "an input"
    if name == "relax.call_tir":
        return "an operator that TVM's importer has no name for"
    plain = name.removeprefix("relax.").removeprefix("nn.").removeprefix("image.")
    return _ONNX_NAMES.get(plain, plain.replace("_", " ").title().replace(" ", ""))


def _macs(anchor: Expr) -> int:
    """Multiply-accumulates of an anchor; 0 where its shapes are not known."""
    out, weight = static_shape(anchor), static_shape(anchor.args[1])
    if out is None or weight is None:
        return 0
    if op_name(anchor) == "relax.matmul":
        return math.prod(out) * (weight[-2] if len(weight) > 1 else weight[0])
    if "transpose" in str(op_name(anchor)):
        data = static_shape(anchor.args[0])
        return 0 if data is None else math.prod(data) * math.prod(weight[1:])
    layout = str(anchor.attrs.kernel_layout)
    return math.prod(out) * math.prod(weight) // weight[layout.index("O")]


def _match(graph: Graph, binding: Any, layer: str) -> Match:
    """Collect the operands of an anchor and the epilogue that only it feeds."""
    anchor = binding.value
    match = Match(
        anchor=anchor,
        layer=layer,
        result=binding.var,
        data=graph.value(anchor.args[0]),
        weight=quant_tensor(graph, anchor.args[1]),
    )
    while (user := graph.only_user(match.result)) is not None and _absorb(graph, match, user.value):
        match.result = user.var
        if match.quantize is not None:
            break
    return match


def _absorb(graph: Graph, match: Match, call: Expr) -> bool:
    """Take one operator of the epilogue into ``match``; False if it does not belong there."""
    name = op_name(call)
    if name == "relax.add" and match.bias is None and match.clip == (-math.inf, math.inf):
        other = call.args[1] if call.args[0].same_as(match.result) else call.args[0]
        shape, result = static_shape(other), static_shape(call)
        if shape is None or result is None or not _is_per_channel(shape, result, _channel_axis(match.anchor)):
            return False
        match.bias = quant_tensor(graph, other)
        if match.bias is None:
            match.bias = fold(graph, other)
        return match.bias is not None
    if name == QUANTIZE:
        if dtype_of(call) not in INTEGERS or scalar(call.args[1]) is None or scalar(call.args[2]) is None:
            return False
        match.quantize = call
        return True
    bounds = activation(graph, call)
    if bounds is None:
        return False
    match.clip = clipped(match.clip, bounds)
    return True


def _channel_axis(anchor: Expr) -> int:
    """Axis of the output channels, counted from the end."""
    if op_name(anchor) == "relax.nn.conv2d":
        layout = str(anchor.attrs.data_layout)
        return layout.index("C") - len(layout)
    return -1


def _is_per_channel(shape: Sequence[int], result: Sequence[int], axis: int) -> bool:
    """Whether an operand of ``shape`` has one value, or one for each output channel, when broadcast to ``result``."""
    if math.prod(shape) == 1:
        return len(shape) <= len(result)
    return len(shape) >= -axis and math.prod(shape) == shape[axis] == result[axis] and len(shape) <= len(result)


def _weight_by_output(match: Match) -> QuantTensor:
    """The weight with its output channels first: OHWI for a convolution, (O, C) for a dense layer."""
    assert match.weight is not None
    parts = match.weight.values, match.weight.scale, match.weight.zero_point
    if op_name(match.anchor) == "relax.matmul":
        return QuantTensor(*(part.reshape(part.shape[-2:]).T for part in parts))
    layout = str(match.anchor.attrs.kernel_layout)
    return QuantTensor(*(part.transpose([layout.index(axis) for axis in "OHWI"]) for part in parts))


def _per_channel(part: np.ndarray) -> np.ndarray:
    """First element of every output channel."""
    return np.ascontiguousarray(part.reshape(part.shape[0], -1)[:, 0])


def _bias(match: Match, data_scale: np.float32, weight_scale: np.ndarray, channels: int) -> np.ndarray:
    """The bias (O,): int32 if it is stored in units of the accumulator, else float32."""
    if match.bias is None:
        return np.zeros(channels, "int32")
    if isinstance(match.bias, np.ndarray):
        return np.array(np.broadcast_to(match.bias.reshape(-1).astype("float32"), (channels,)))
    values, scale, zero_point = (
        np.array(np.broadcast_to(part.reshape(-1), (channels,)))
        for part in (match.bias.values, match.bias.scale, match.bias.zero_point)
    )
    unit = data_scale.astype("float64") * weight_scale.astype("float64")
    # exporters multiply the two scales in float32, some in another order: one part in a million is rounding
    in_units = np.allclose(scale, unit, rtol=1e-6, atol=0) and not zero_point.any()
    if values.dtype == np.int32 and in_units:
        return values
    if values.dtype == np.int64 and in_units and np.abs(values).max() <= INT32_MAX:  # TFLite's, of 16-bit data
        return values.astype("int32")
    return ((values.astype("int64") - zero_point) * scale.astype("float64")).astype("float32")


def anchors(func: relax.Function) -> list[str]:
    """Operators of the anchors of a function, in order."""
    blocks = func.body.blocks if isinstance(func.body, relax.SeqExpr) else []
    found = [op_name(binding.value) for block in blocks for binding in block.bindings]
    return [name for name in found if name in ANCHORS]


def numbered(kinds: Sequence[str]) -> list[str]:
    """Names for anchors that have none: ``conv2d_0``, ``matmul_1``, ..."""
    return [f"{kind.removeprefix('relax.').removeprefix('nn.')}_{index}" for index, kind in enumerate(kinds)]


def _layer_names(mod: tvm.IRModule) -> list[str]:
    """Names of the anchors of all functions: the frontend's, or numbers where the graph has changed since."""
    names: list[str] = []
    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            kinds = anchors(func)
            given = func.attrs[LAYER_NAMES] if func.attrs is not None and LAYER_NAMES in func.attrs else []
            names.extend(map(str, given) if len(given) == len(kinds) else numbered(kinds))
    return names
