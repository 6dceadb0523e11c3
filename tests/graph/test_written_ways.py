"""A quantized layer is found however an exporter wrote it, and computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import selector
from selector.graph.compile import _session
from selector.graph.pipeline import quantized
from selector.runtime import ModelError
from selector.target import resolve
from tests.graph.modules import operators
from tests.graph.random_networks import OPSET, Maker, Tensor
from tests.graph.reference import compare, expected, feed

CHANNELS, SIDE = 4, 6


def scaled(m: Maker, value: np.ndarray, scale: float = 0.125, **axis: int) -> str:
    """A dequantized constant."""
    zero = m.constant(np.zeros((), value.dtype), "zero")
    return m.node("DequantizeLinear", m.constant(value, "w"), m.constant(np.float32(scale)), zero, **axis)[0]


def weight(m: Maker, *shape: int) -> np.ndarray:
    """Small signed bytes."""
    return m.rng.integers(-8, 9, shape).astype("int8")


def conv(m: Maker, x: str, w: str | None = None, **attributes: object) -> str:
    """A 3×3 convolution of CHANNELS to 8, or one with the given weight."""
    w = scaled(m, weight(m, 8, CHANNELS, 3, 3)) if w is None else w
    return m.node("Conv", x, w, **({"pads": [1] * 4} | attributes))[0]


Way = Callable[[Maker, Tensor], tuple[str, tuple[int, ...]]]  # the float tensor before the last quantize, and its shape
OUT = (1, 8, SIDE, SIDE)


def through(op_type: str, *constants: object, **attributes: object) -> Way:
    """An operator between the dequantize and the layer."""

    def build(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
        inputs = ["" if value is None else m.constant(np.asarray(value)) for value in constants]
        return conv(m, m.node(op_type, x.name, *inputs, **attributes)[0]), OUT

    return build


def transposed_around(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    nhwc = m.quantized(m.node("Transpose", x.name, perm=[0, 2, 3, 1])[0], (1, SIDE, SIDE, CHANNELS), x.step)
    y = conv(m, m.node("Transpose", nhwc.name, perm=[0, 3, 1, 2])[0])
    return m.node("Transpose", y, perm=[0, 2, 3, 1])[0], (1, SIDE, SIDE, 8)


def padded_by_reflection(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    pads = m.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    return conv(m, m.node("Pad", x.name, pads, mode="reflect")[0], pads=[0] * 4), OUT


def channel_shuffle(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    shape = m.constant(np.array([1, 2, CHANNELS // 2, SIDE, SIDE], np.int64))
    y = m.node("Transpose", m.node("Reshape", x.name, shape)[0], perm=[0, 2, 1, 3, 4])[0]
    back = m.constant(np.array([1, CHANNELS, SIDE, SIDE], np.int64))
    return conv(m, m.node("Reshape", y, back)[0]), OUT


def split_before(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    half = CHANNELS // 2
    parts = m.node("Split", x.name, m.constant(np.array([half, half], np.int64)), outputs=2, axis=1)
    ys = [conv(m, part, scaled(m, weight(m, 4, half, 3, 3))) for part in parts]
    return m.node("Concat", *ys, axis=1)[0], OUT


def flattened_by_shape(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    """As torch writes it: the batch taken from the shape at run time."""
    batch = m.node("Gather", m.node("Shape", x.name)[0], m.constant(np.int64(0)), axis=0)[0]
    one = m.node("Unsqueeze", batch, m.constant(np.array([0], np.int64)))[0]
    shape = m.node("Concat", one, m.constant(np.array([-1], np.int64)), axis=0)[0]
    y = m.node("Reshape", x.name, shape)[0]
    return m.node("MatMul", y, scaled(m, weight(m, CHANNELS * SIDE * SIDE, 5)))[0], (1, 5)


def depth_to_space(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    y = m.node("DepthToSpace", x.name, blocksize=2, mode="CRD")[0]
    return conv(m, y, scaled(m, weight(m, 8, 1, 3, 3))), (1, 8, 2 * SIDE, 2 * SIDE)


def weight_quantized_in_the_graph(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    values = m.constant(weight(m, 8, CHANNELS, 3, 3).astype("float32") / 8)
    scale, zero = m.constant(np.float32(0.125)), m.constant(np.int8(0))
    q = m.node("QuantizeLinear", values, scale, zero)[0]
    return conv(m, x.name, m.node("DequantizeLinear", q, scale, zero)[0]), OUT


def weight_clipped_as_brevitas_does(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    values = m.constant(weight(m, 8, CHANNELS, 3, 3).astype("float32") / 8)
    scale, zero = m.constant(np.float32(0.125)), m.constant(np.int8(0))
    q = m.node("QuantizeLinear", values, scale, zero)[0]
    q = m.node("Clip", q, m.constant(np.int8(-7)), m.constant(np.int8(7)))[0]
    return conv(m, x.name, m.node("DequantizeLinear", q, scale, zero)[0]), OUT


def weight_transposed(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    w = m.node("Transpose", scaled(m, weight(m, 3, 3, CHANNELS, 8)), perm=[3, 2, 0, 1])[0]
    return conv(m, x.name, w), OUT


def one_dimensional(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    line = m.node("Reshape", x.name, m.constant(np.array([1, CHANNELS, SIDE * SIDE], np.int64)))[0]
    y = m.node("Conv", line, scaled(m, weight(m, 8, CHANNELS, 3)), pads=[1, 0], strides=[2])[0]
    return y, (1, 8, 18)


def three_dimensional_of_depth_one(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    deep = m.node("Unsqueeze", x.name, m.constant(np.array([2], np.int64)))[0]
    y = m.node("Conv", deep, scaled(m, weight(m, 8, CHANNELS, 1, 3, 3)), pads=[0, 1, 1, 0, 1, 1])[0]
    return y, (1, 8, 1, SIDE, SIDE)


def volume(**attributes: object) -> Way:
    """A convolution of slices; the channels of the data are its depth."""

    def build(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
        shape = m.constant(np.array([1, 2, CHANNELS, SIDE // 2, SIDE], np.int64))
        w = scaled(m, weight(m, 8, 2, 2, 3, 3))
        y = m.node("Conv", m.node("Reshape", x.name, shape)[0], w, **({"pads": [0, 1, 1, 0, 1, 1]} | attributes))[0]
        pads, strides, dilations = (attributes.get(key) for key in ("pads", "strides", "dilations"))
        pads, strides, dilations = pads or [0, 1, 1, 0, 1, 1], strides or [1] * 3, dilations or [1] * 3
        sizes = (CHANNELS, SIDE // 2, SIDE)
        kernel = (2, 3, 3)
        out = [
            (sizes[i] + pads[i] + pads[i + 3] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1  # type: ignore[index]
            for i in range(3)
        ]
        return y, (1, 8, *out)

    return build


def gemm(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    flat = m.node("Reshape", x.name, m.constant(np.array([SIDE * SIDE, CHANNELS], np.int64)))[0]
    bias = scaled(m, m.rng.integers(-60, 61, 5).astype("int32"), x.step * 0.125)
    y = m.node("Gemm", flat, scaled(m, weight(m, 5, CHANNELS)), bias, alpha=2.0, beta=0.5, transB=1)[0]
    return y, (SIDE * SIDE, 5)


def gemm_of_a_transposed_operand(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
    flat = m.node("Reshape", x.name, m.constant(np.array([CHANNELS, SIDE * SIDE], np.int64)))[0]
    return m.node("Gemm", flat, scaled(m, weight(m, CHANNELS, 5)), transA=1)[0], (SIDE * SIDE, 5)


def up(size: int, stride: int, pad: int, extra: int = 0, groups: int = 1) -> Way:
    """A ConvTranspose with an activation behind it."""

    def build(m: Maker, x: Tensor) -> tuple[str, tuple[int, ...]]:
        w = scaled(m, weight(m, CHANNELS, 6 // groups, size, size))
        bias = scaled(m, m.rng.integers(-60, 61, 6).astype("int32"), x.step * 0.125)
        attributes = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [extra] * 2, "group": groups}
        y = m.node("Relu", m.node("ConvTranspose", x.name, w, bias, **attributes)[0])[0]
        side = (SIDE - 1) * stride + size - 2 * pad + extra
        return y, (1, 6, side, side)

    return build


WAYS: dict[str, Way] = {
    "plain": lambda m, x: (conv(m, x.name), OUT),
    "Relu": through("Relu"),
    "Identity": through("Identity"),
    "Dropout": through("Dropout"),
    "Cast": through("Cast", to=TensorProto.FLOAT),
    "MaxPool": through("MaxPool", kernel_shape=[3, 3], pads=[1] * 4),
    "Pad that reflects": padded_by_reflection,
    "Slice of all": through("Slice", np.array([0]), np.array([SIDE]), np.array([2])),
    "Gather": through("Gather", np.array([5, 0, 1, 2, -2, 3]), axis=3),
    "SAME_UPPER": lambda m, x: (conv(m, x.name, pads=None, auto_pad="SAME_UPPER"), OUT),
    "SAME_LOWER of 1x1": lambda m, x: (
        m.node("Conv", x.name, scaled(m, weight(m, 8, CHANNELS, 1, 1)), auto_pad="SAME_LOWER")[0], OUT,
    ),
    "transposes around": transposed_around,
    "channel shuffle": channel_shuffle,
    "split": split_before,
    "flatten by shape": flattened_by_shape,
    "depth to space": depth_to_space,
    "weight quantized in the graph": weight_quantized_in_the_graph,
    "weight clipped": weight_clipped_as_brevitas_does,
    "weight transposed": weight_transposed,
    "Conv1d": one_dimensional,
    "Conv3d": volume(),
    "Conv3d, strided and padded": volume(pads=[1, 0, 1, 0, 1, 1], strides=[2, 1, 2]),
    "Conv3d, dilated": volume(dilations=[2, 1, 1]),
    "Conv3d of depth one": three_dimensional_of_depth_one,
    "Gemm with factors": gemm,
    "MatMul with a weight of three dimensions": lambda m, x: (
        m.node("MatMul", x.name, scaled(m, weight(m, 1, SIDE, 9)))[0],
        (1, CHANNELS, SIDE, 9),
    ),
    "MatMul with a weight for each channel": lambda m, x: (
        m.node("MatMul", x.name, scaled(m, weight(m, CHANNELS, SIDE, 9)))[0],
        (1, CHANNELS, SIDE, 9),
    ),
    "MatMul of two tensors": lambda m, x: (
        m.node("MatMul", x.name, m.node("Transpose", x.name, perm=[0, 1, 3, 2])[0])[0],
        (1, CHANNELS, SIDE, SIDE),
    ),
    "Max with a constant": through("Max", np.float32(0.25)),
    "Clip to levels": through("Clip", np.float32(-1), np.float32(2)),
    "Gemm, A transposed": gemm_of_a_transposed_operand,
    "ConvTranspose 2x2": up(2, 2, 0),
    "ConvTranspose 4x4": up(4, 2, 1),
    "ConvTranspose 3x3": up(3, 2, 1, 1),
    "ConvTranspose 3x3 of stride 1": up(3, 1, 1),
    "ConvTranspose 5x5 of stride 3, cut": up(5, 3, 2, 2),
    "ConvTranspose in groups": up(3, 2, 0, 0, 2),
}  # fmt: skip


def network(way: Way, seed: int = 0) -> onnx.ModelProto:
    """One layer, or a few, written in some way, between float input and output."""
    m = Maker(np.random.default_rng(seed))
    x = m.quantized("x", (1, CHANNELS, SIDE, SIDE), 0.125)
    return of_nodes(m, m.quantized(*way(m, x), 0.25))


def of_nodes(m: Maker, y: Tensor, opset: int = OPSET) -> onnx.ModelProto:
    """The network that was made, from ``x`` to ``y``."""
    graph = helper.make_graph(
        [node for node in m.nodes if not _drop_empty(node)],
        "written",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, SIDE, SIDE))],
        [helper.make_tensor_value_info(y.name, TensorProto.FLOAT, y.shape)],
        m.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _drop_empty(node: onnx.NodeProto) -> bool:
    """Take away attributes without a value; never the node."""
    for item in [item for item in node.attribute if item.name == "pads" and not item.ints]:
        node.attribute.remove(item)
    return False


@pytest.mark.parametrize("way", WAYS)
def test_is_found_and_right(way: str) -> None:
    decisions = compare(network(WAYS[way]))
    assert decisions
    for decision in decisions:
        assert decision.lowering != "tvm", decision.reason


def test_half_precision_around_bytes_is_computed_in_float32() -> None:
    model = network(WAYS["Relu"])
    model.opset_import[0].version, model.ir_version = 19, 9  # the first that has scales of 16 bits
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype("float16"), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    x = feed(model).astype("float16")
    compiled = selector.compile(model, policy="int8", threads=1)
    (found,), (wanted,) = compiled.run(x), expected(model, x)
    assert [decision.lowering for decision in compiled.decisions] == ["int8"]
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert np.abs(found.astype("float32") - wanted).max() <= 1.001 * 0.25


def test_small_integers_are_bytes() -> None:
    """Weights of 4 bits, as operator set 21 has them; ONNX Runtime reads them as we do."""
    model = network(WAYS["plain"])
    w = next(tensor for tensor in model.graph.initializer if tensor.dims[:] == [8, CHANNELS, 3, 3])
    values = np.clip(numpy_helper.to_array(w), -8, 7)
    (reader,) = [node for node in model.graph.node if node.input[0] == w.name]
    narrow = onnx.ModelProto()
    narrow.CopyFrom(model)
    narrow.opset_import[0].version, narrow.ir_version = 21, 10
    for tensor in narrow.graph.initializer:
        if tensor.name == w.name:
            tensor.CopyFrom(helper.make_tensor(w.name, TensorProto.INT4, w.dims, values.reshape(-1)))
        if tensor.name == reader.input[2]:
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT4, [], [0]))
    w.CopyFrom(numpy_helper.from_array(values, w.name))
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, SIDE, SIDE)).astype("float32")
    found, wanted = (selector.compile(each, policy="int8", threads=1) for each in (narrow, model))
    assert [decision.lowering for decision in found.decisions] == ["int8"]
    np.testing.assert_array_equal(found.run(x)[0], wanted.run(x)[0])


@pytest.mark.parametrize("opset", [15, OPSET, 21])  # each has another version of DequantizeLinear
def test_arithmetic_whose_constants_are_quantized_is_one_table(opset: int) -> None:
    """Hard-swish as a quantizer of every operator writes it."""
    m = Maker(np.random.default_rng(0))
    x = m.quantized(conv(m, m.quantized("x", (1, CHANNELS, SIDE, SIDE), 0.125).name), OUT, 0.0625)
    three, sixth = (scaled(m, np.array(level, "uint8"), scale) for level, scale in ((96, 2**-5), (85, 2**-9)))
    gate = m.quantized(m.node("Relu", m.node("Add", x.name, three)[0])[0], OUT, 0.0625)
    y = m.quantized(m.node("Mul", m.quantized(m.node("Mul", x.name, gate.name)[0], OUT, 0.25).name, sixth)[0], OUT)
    model = of_nodes(m, y, opset)
    assert [decision.lowering for decision in compare(model)] == ["int8"]
    mod = quantized(selector.load(model), _session(resolve("native"), "int8", 1))
    assert sorted(set(operators(mod))) == ["dequantize", "permute_dims", "qnn.conv2d", "qnn.lookup", "quantize"]
    assert operators(mod).count("qnn.lookup") == 1


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scale", [0.7, 1.5, 2.0])
def test_resize_before_operator_set_11(mode: str, scale: float) -> None:
    """It has scales as its second input, and one way to place outputs in the data."""
    side = int(SIDE * scale)
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)], "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, SIDE, SIDE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CHANNELS, side, side))],
        [numpy_helper.from_array(np.array([1, 1, scale, scale], "float32"), "scales")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    x = feed(model)
    found = selector.compile(model, policy="int8", threads=1).run(x)[0]
    np.testing.assert_allclose(found, expected(model, x)[0], rtol=1e-5, atol=1e-6)


def test_nodes_in_any_order() -> None:
    model = network(WAYS["channel shuffle"])
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [decision.lowering for decision in selector.explain(model, policy="int8")] == ["int8"]


def test_layers_that_nothing_reads_keep_no_name_from_others() -> None:
    m = Maker(np.random.default_rng(0))
    x = m.quantized("x", (1, CHANNELS, SIDE, SIDE), 0.125)
    y = m.quantized(conv(m, x.name), OUT, 0.25)
    m.node("Conv", y.name, m.constant(np.ones((2, 8, 1, 1), "float32")))  # dead
    names = {node.name for node in m.nodes if node.op_type == "Conv"}
    (decision,) = selector.explain(of_nodes(m, y), policy="int8")
    assert decision.layer in names
    assert decision.lowering == "int8"


def test_the_given_model_stays_as_it_is() -> None:
    model = network(WAYS["SAME_UPPER"])
    before = model.SerializeToString()
    selector.load(model)
    assert model.SerializeToString() == before


def broken(change: Callable[[onnx.GraphProto], object]) -> onnx.ModelProto:
    """A network with something wrong in it."""
    model = network(WAYS["plain"])
    change(model.graph)
    return model


def _constant(graph: onnx.GraphProto, node: int, index: int, value: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(value, "changed"))
    graph.node[node].input[index] = "changed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: _constant(g, 0, 1, np.float32(0)), "QuantizeLinear 'n[0-9]+' has the scale 0.0: .* positive"),
        (lambda g: _constant(g, 0, 1, np.float32(-1)), "has the scale -1.0"),
        (lambda g: _constant(g, 0, 1, np.float32("nan")), "has the scale nan"),
        (lambda g: _constant(g, 0, 1, np.float32("inf")), "has the scale inf"),
        (lambda g: _constant(g, 2, 1, np.ones(3, "float32")), "DequantizeLinear 'n[0-9]+' has scales of shape"),
        (lambda g: _constant(g, 2, 2, np.uint8(0)), "has a zero point of uint8 for data of int8"),
        (lambda g: g.node[3].input.__setitem__(0, "nothing"), "nothing defines 'nothing', an input of 'n"),
        (lambda g: g.node.append(g.node[0]), "two nodes define '"),
        (lambda g: g.node[0].input.__setitem__(0, g.node[-1].output[0]), "its nodes form a cycle through 'n"),
        (lambda g: g.output.append(g.output[0]), "is listed twice"),
        (lambda g: setattr(g.input[0].type.tensor_type.shape.dim[2], "dim_value", 1 << 40), "1099511627776: too large"),
        (lambda g: setattr(g.node[3], "op_type", "NoSuchOperator"), "NoSuchOperator"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    change: Callable[[onnx.GraphProto], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        selector.load(broken(change))
    assert "\n" not in str(caught.value)
    del caught
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
