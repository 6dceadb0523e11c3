"""Random small quantized networks, as exporters might write them.

Scales are powers of two and numbers small, so that float32 computes most of it exactly: a difference to the reference
is a mistake and no rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass
class Tensor:
    """A float tensor of the network: its name, its shape, and the step of the quantized tensor behind it."""

    name: str
    shape: tuple[int, ...]
    step: float


@dataclass
class Maker:
    """A network in the making."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)  # float tensors that may be read
    count: int = 0

    def name(self, hint: str) -> str:
        """A new name."""
        self.count += 1
        return f"{hint}{self.count}"

    def constant(self, value: np.ndarray, hint: str = "c") -> str:
        """A new constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), self.name(hint)))
        return self.constants[-1].name

    def node(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        """A new node; the names of its outputs."""
        names = [self.name(op_type.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=self.name("n"), **attributes))
        return names

    def choice(self, *values):
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def pick(self, rank: int | None = 4) -> Tensor:
        """A tensor that exists, a late one rather than an early one."""
        fitting = [tensor for tensor in self.tensors if rank is None or len(tensor.shape) == rank]
        return fitting[max(int(self.rng.integers(len(fitting))), int(self.rng.integers(len(fitting))))]

    def quantized(self, name: str, shape: tuple[int, ...], step: float | None = None) -> Tensor:
        """The tensor quantized and dequantized again."""
        step = step or float(2.0 ** self.rng.integers(-4, -1))
        dtype = self.choice(np.uint8, np.int8)
        zero = int(self.choice(0, 128, 100)) if dtype == np.uint8 else int(self.choice(0, -128, 5))
        scale, zero_point = self.constant(np.float32(step), "scale"), self.constant(np.array(zero, dtype), "zero")
        (q,) = self.node("QuantizeLinear", name, scale, zero_point)
        (back,) = self.node("DequantizeLinear", q, scale, zero_point)
        made = Tensor(back, shape, step)
        self.tensors.append(made)
        return made


def convolution(m: Maker) -> None:
    """Any kernel, stride, padding, groups and dilation; now and then without bias or with an activation."""
    x = m.pick()
    channels, height, width = x.shape[1:]
    groups = int(m.choice(1, 1, channels)) if channels > 1 else 1
    outputs = channels * int(m.choice(1, 2)) if groups > 1 else int(m.choice(3, 8, 12))
    size = int(m.choice(1, 3)) if min(height, width) >= 3 else 1
    dilation = 2 if size == 3 and min(height, width) >= 5 and m.rng.random() < 0.2 else 1
    stride = int(m.choice(1, 1, 2))
    attributes: dict[str, object] = {"strides": [stride] * 2, "dilations": [dilation] * 2, "group": groups}
    if m.rng.random() < 0.3 and dilation == 1:
        attributes["auto_pad"] = m.choice("SAME_UPPER", "SAME_LOWER", "VALID")
        same = attributes["auto_pad"] != "VALID"
        out = [-(-side // stride) if same else (side - size) // stride + 1 for side in (height, width)]
    else:
        pads = [int(m.rng.integers(0, 2)) for _ in range(4)]
        attributes["pads"] = pads
        extent = (size - 1) * dilation + 1
        out = [(side + pads[i] + pads[i + 2] - extent) // stride + 1 for i, side in enumerate((height, width))]
    weight = m.rng.integers(-8, 9, (outputs, channels // groups, size, size)).astype("int8")
    if m.rng.random() < 0.5:
        scales, axis = np.float32(2.0 ** m.rng.integers(-4, -2)), {}
    else:
        scales, axis = (2.0 ** m.rng.integers(-5, -2, outputs)).astype("float32"), {"axis": 0}
    scale = m.constant(scales, "scale")
    zero = m.constant(np.zeros(scales.shape, "int8"), "zero")
    (w,) = m.node("DequantizeLinear", m.constant(weight, "w"), scale, zero, **axis)
    inputs = [x.name, w]
    if m.rng.random() < 0.7:
        bias = m.rng.integers(-60, 61, outputs).astype("int32")
        unit = m.constant((np.float32(x.step) * scales).astype("float32"))
        (b,) = m.node("DequantizeLinear", m.constant(bias, "b"), unit, **axis)
        inputs.append(b)
    (y,) = m.node("Conv", *inputs, **attributes)
    shape = (x.shape[0], outputs, *out)
    y = activated(m, y)
    if m.rng.random() < 0.2:
        y, shape = moved(m, y, shape)
    m.quantized(y, shape)


def activated(m: Maker, name: str) -> str:
    """An activation now and then."""
    kind = m.choice("none", "none", "relu", "clip")
    if kind == "relu":
        return m.node("Relu", name)[0]
    if kind == "clip":
        return m.node("Clip", name, m.constant(np.float32(0)), m.constant(np.float32(6)))[0]
    return name


def moved(m: Maker, name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """A float tensor moved in some way that keeps its rank."""
    kind = m.choice("transpose", "slice", "flip", "reshape")
    if kind == "transpose":
        return m.node("Transpose", name, perm=[0, 1, 3, 2])[0], (*shape[:2], shape[3], shape[2])
    if kind == "slice" and shape[2] > 2:
        bounds = [m.constant(np.array([value], np.int64)) for value in (1, shape[2], 2)]
        return m.node("Slice", name, *bounds)[0], (shape[0], shape[1], shape[2] - 1, shape[3])
    if kind == "reshape":
        new = (shape[0], shape[1], shape[3] * shape[2], 1)
        return m.node("Reshape", name, m.constant(np.array(new, np.int64)))[0], new
    return name, shape


def transposed_convolution(m: Maker) -> None:
    """A ConvTranspose of stride 2 or 1."""
    x = m.pick()
    channels, height, width = x.shape[1:]
    if height * width > 200:
        return
    outputs, size, stride = int(m.choice(2, 4)), int(m.choice(2, 3, 4)), int(m.choice(1, 2))
    pad = int(m.rng.integers(0, 2)) if size > 2 else 0
    extra = int(m.rng.integers(0, stride))
    weight = m.rng.integers(-8, 9, (channels, outputs, size, size)).astype("int8")
    scale, zero = m.constant(np.float32(0.125)), m.constant(np.int8(m.choice(0, 3)))
    (w,) = m.node("DequantizeLinear", m.constant(weight, "w"), scale, zero)
    (y,) = m.node("ConvTranspose", x.name, w, strides=[stride] * 2, pads=[pad] * 4, output_padding=[extra] * 2)
    out = [(side - 1) * stride + size - 2 * pad + extra for side in (height, width)]
    if min(out) < 1:
        raise ValueError("nothing is left")
    m.quantized(activated(m, y), (x.shape[0], outputs, *out))


def binary(m: Maker) -> None:
    """Add or multiply two tensors of one shape, or by one value a channel."""
    x = m.pick()
    others = [tensor for tensor in m.tensors if tensor.shape == x.shape]
    other = others[int(m.rng.integers(len(others)))]
    kind = m.choice("Add", "Mul", "Add", "Sub")
    (y,) = m.node(kind, x.name, other.name)
    m.quantized(activated(m, y), x.shape)


def product(m: Maker) -> None:
    """A matrix product of two tensors for each channel."""
    x = m.pick()
    others = [tensor for tensor in m.tensors if tensor.shape == x.shape]
    (turned,) = m.node("Transpose", others[int(m.rng.integers(len(others)))].name, perm=[0, 1, 3, 2])
    (y,) = m.node("MatMul", x.name, turned)
    if m.rng.random() < 0.5:
        (y,) = m.node("Mul", y, m.constant(np.float32(0.25)))
    m.quantized(activated(m, y), (*x.shape[:3], x.shape[2]))


def pooled(m: Maker) -> None:
    """A pool of any padding."""
    x = m.pick()
    if min(x.shape[2:]) < 3:
        return
    kind = m.choice("MaxPool", "MaxPool", "AveragePool", "GlobalAveragePool")
    if kind == "GlobalAveragePool":
        (y,) = m.node(kind, x.name)
        m.quantized(y, (*x.shape[:2], 1, 1))
        return
    stride = int(m.choice(1, 2))
    if m.rng.random() < 0.4:
        mode = {"auto_pad": m.choice("SAME_UPPER", "SAME_LOWER")}
        out = [-(-side // stride) for side in x.shape[2:]]
    else:
        mode, out = {}, [(side - 2) // stride + 1 for side in x.shape[2:]]
    (y,) = m.node(kind, x.name, kernel_shape=[2, 2], strides=[stride] * 2, **mode)
    shape = (*x.shape[:2], *out)
    m.quantized(y, shape, x.step if kind == "MaxPool" and m.rng.random() < 0.5 else None)


def joined(m: Maker) -> None:
    """Concatenation along channels, with equal and with other scales."""
    x = m.pick()
    others = [t for t in m.tensors if len(t.shape) == 4 and (t.shape[0], *t.shape[2:]) == (x.shape[0], *x.shape[2:])]
    parts = [x, *(others[int(m.rng.integers(len(others)))] for _ in range(int(m.rng.integers(1, 3))))]
    channels = sum(part.shape[1] for part in parts)
    if channels > 40:
        return
    (y,) = m.node("Concat", *[part.name for part in parts], axis=1)
    m.quantized(y, (x.shape[0], channels, *x.shape[2:]), x.step if m.rng.random() < 0.5 else None)


def taken_apart(m: Maker) -> None:
    """A Split along channels; both parts may be read on, one is quantized again."""
    x = m.pick()
    if x.shape[1] < 2 or x.shape[1] % 2:
        return
    half = x.shape[1] // 2
    first, second = m.node("Split", x.name, m.constant(np.array([half, half], np.int64)), outputs=2, axis=1)
    shape = (x.shape[0], half, *x.shape[2:])
    m.tensors.append(Tensor(second, shape, x.step))
    m.quantized(first, shape, x.step if m.rng.random() < 0.5 else None)


def rearranged(m: Maker) -> None:
    """Something that only moves data, with or without a quantize behind it."""
    x = m.pick()
    name, shape = moved(m, x.name, x.shape)
    if name == x.name:
        return
    if m.rng.random() < 0.5:
        m.tensors.append(Tensor(name, shape, x.step))
    else:
        m.quantized(name, shape, x.step if m.rng.random() < 0.5 else None)


def padded(m: Maker) -> None:
    """A Pad of any mode."""
    x = m.pick()
    if min(x.shape[2:]) < 3:
        return
    mode = m.choice("constant", "reflect", "edge")
    pads = [0, 0, *m.rng.integers(0, 2, 2).tolist(), 0, 0, *m.rng.integers(0, 2, 2).tolist()]
    inputs = [m.constant(np.array(pads, np.int64))]
    if mode == "constant" and m.rng.random() < 0.5:
        inputs.append(m.constant(np.float32(m.choice(0.0, 1.0))))
    (y,) = m.node("Pad", x.name, *inputs, mode=mode)
    shape = (*x.shape[:2], x.shape[2] + pads[2] + pads[6], x.shape[3] + pads[3] + pads[7])
    m.quantized(y, shape, x.step if m.rng.random() < 0.6 else None)


def resized(m: Maker) -> None:
    """A Resize by scales of any kind."""
    x = m.pick()
    mode = m.choice("nearest", "nearest", "linear")
    several = (2.0, 0.5) if mode == "linear" else (2.0, 1.5, 1.25, 0.5)  # others interpolate with thirds and fifths
    scales = np.array([1, 1, m.choice(*several), m.choice(*several)], np.float32)
    out = [int(np.floor(side * scale)) for side, scale in zip(x.shape[2:], scales[2:], strict=True)]
    if min(out) < 1 or max(out) > 24:
        return
    where = m.choice("asymmetric", "half_pixel", "pytorch_half_pixel")
    where = "align_corners" if mode == "nearest" and m.rng.random() < 0.3 else where
    attributes = {"nearest_mode": m.choice("floor", "round_prefer_floor")} if mode == "nearest" else {}
    (y,) = m.node(
        "Resize", x.name, "", m.constant(scales), mode=mode, coordinate_transformation_mode=where, **attributes
    )
    m.quantized(y, (*x.shape[:2], *out), x.step if m.rng.random() < 0.6 else None)


def function(m: Maker) -> None:
    """An activation of its own, or a chain of float operators."""
    x = m.pick()
    kind = m.choice("Relu", "LeakyRelu", "HardSigmoid", "chain", "Clip", "Dropout", "Identity")
    if kind == "chain":
        (y,) = m.node("Add", x.name, m.constant(np.float32(3)))
        (y,) = m.node("Clip", y, m.constant(np.float32(0)), m.constant(np.float32(6)))
        (y,) = m.node("Mul", x.name, y)
        (y,) = m.node("Mul", y, m.constant(np.float32(0.125)))
    elif kind == "LeakyRelu":
        (y,) = m.node(kind, x.name, alpha=0.25)
    elif kind == "HardSigmoid":
        (y,) = m.node(kind, x.name, alpha=0.25, beta=0.5)
    elif kind == "Clip":
        (y,) = m.node(kind, x.name, m.constant(np.float32(-1)), m.constant(np.float32(2)))
    else:
        (y,) = m.node(kind, x.name)
    m.quantized(y, x.shape, x.step if m.rng.random() < 0.5 else None)


MAKERS: tuple[Callable[[Maker], None], ...] = (
    convolution, convolution, convolution, transposed_convolution, binary, binary, pooled, joined, taken_apart,
    rearranged, padded, resized, function, product,
)  # fmt: skip


def network(seed: int) -> onnx.ModelProto:
    """A network of 3 to 12 operators with one to three outputs; equal seeds give equal networks."""
    m = Maker(np.random.default_rng(seed))
    side = int(m.choice(5, 8, 9))
    shape = (int(m.choice(1, 1, 2)), int(m.choice(3, 4, 8)), side, int(m.choice(side, side + 2)))
    m.quantized("x", shape)
    wanted = int(m.rng.integers(3, 13))
    for _ in range(40):
        if sum(node.op_type not in ("QuantizeLinear", "DequantizeLinear") for node in m.nodes) >= wanted:
            break
        before = len(m.nodes), len(m.constants), len(m.tensors)
        try:
            MAKERS[int(m.rng.integers(len(MAKERS)))](m)
        except ValueError:
            del m.nodes[before[0] :], m.constants[before[1] :], m.tensors[before[2] :]
    read = {name for node in m.nodes for name in node.input}
    ends = [tensor for tensor in m.tensors if tensor.name not in read]
    inner = [tensor for tensor in m.tensors if tensor.name in read]
    outputs = ends[:3] or [m.tensors[-1]]
    if inner and m.rng.random() < 0.3:
        outputs.append(inner[int(m.rng.integers(len(inner)))])
    graph = helper.make_graph(
        m.nodes,
        f"random_{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.shape) for tensor in outputs],
        m.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def steps(model: onnx.ModelProto) -> list[float]:
    """The step of each output."""
    found = {}
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for info in model.graph.output:
        node = producers[info.name]
        while node.op_type != "DequantizeLinear":
            node = producers[node.input[0]]
        found[info.name] = float(scales[node.input[1]])
    return [found[info.name] for info in model.graph.output]
