"""TFLite's operators on 8-bit data, against LiteRT's reference kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selector
from selector.runtime import ModelError

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
pytest.importorskip("tflite", reason="the package tflite is not installed")

from ai_edge_litert import schema_py_generated as schema

from tests.graph.tflite_models import T, constant, expected, network

IMAGE = T((1, 6, 6, 4))
OTHER = T((1, 6, 6, 4), scale=0.03, zero=-5)
I32 = "int32"


def options(name: str, **values: Any) -> Any:
    """Options of an operator, by the schema's names."""
    made = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        assert hasattr(made, key), key
        setattr(made, key, value)
    return made


def ints(*values: int) -> T:
    """A constant of integers that are no data."""
    return constant(np.array(values, I32))


RNG = np.random.default_rng(0)
POOL = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2}
CONV = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
WEIGHT = constant(RNG.integers(-8, 9, (8, 3, 3, 4)).astype("int8"), np.full(8, 0.01))
WORDS = T((1, 6, 6, 4), "int16", 0.001, 0)
PER_CHANNEL = np.linspace(0.005, 0.02, 8)
UP = constant(RNG.integers(-8, 9, (8, 3, 2, 4)).astype("int8"), PER_CHANNEL)
DEPTH = constant(RNG.integers(-90, 91, (1, 3, 3, 4)).astype("int8"), np.full(4, 0.01), axis=3)
DENSE = constant(RNG.integers(-8, 9, (5, 144)).astype("int8"), 0.01)

# name -> operator, inputs, outputs, options, largest difference in steps
CASES: dict[str, tuple[str, list[T], list[T], Any, int]] = {
    "average pool": ("AVERAGE_POOL_2D", [IMAGE], [T((1, 3, 3, 4))], options("Pool2D", padding=1, **POOL), 1),
    "average pool, SAME": (
        "AVERAGE_POOL_2D", [T((1, 5, 5, 4))], [T((1, 3, 3, 4))], options("Pool2D", padding=0, **POOL), 1,
    ),
    "max pool": ("MAX_POOL_2D", [IMAGE], [T((1, 3, 3, 4))], options("Pool2D", padding=1, **POOL), 0),
    "mean": ("MEAN", [IMAGE, ints(1, 2)], [T((1, 4))], options("Reducer", keepDims=False), 1),
    "mean of other scale": (
        "MEAN", [IMAGE, ints(1, 2)], [T((1, 1, 1, 4), scale=0.02)], options("Reducer", keepDims=True), 1,
    ),
    "fully connected, flattened": (
        "FULLY_CONNECTED", [IMAGE, DENSE, constant(np.arange(5, dtype=I32), 0.0005)], [T((1, 5), scale=0.5)],
        options("FullyConnected"), 1,
    ),
    "convolution": (
        "CONV_2D", [IMAGE, WEIGHT, constant(np.arange(8, dtype=I32), np.full(8, 0.0005))], [T((1, 6, 6, 8), scale=0.1)],
        options("Conv2D", padding=0, fusedActivationFunction=1, **CONV), 1,
    ),
    "convolution, 16 bits": (
        "CONV_2D", [WORDS, WEIGHT, constant(np.arange(-4000, 4000, 1000), np.full(8, 1e-5))],
        [T((1, 6, 6, 8), "int16", 0.0007, 0)], options("Conv2D", padding=0, fusedActivationFunction=1, **CONV), 1,
    ),
    "convolution, 16 bits, a large bias": (
        "CONV_2D", [WORDS, WEIGHT, constant(np.full(8, 1 << 33), np.full(8, 1e-5))],
        [T((1, 6, 6, 8), "int16", 3.0, 0)], options("Conv2D", padding=0, **CONV), 1,
    ),
    "depthwise convolution, 16 bits": (
        "DEPTHWISE_CONV_2D", [WORDS, DEPTH, constant(np.arange(4) * 1000, np.full(4, 1e-5))],
        [T((1, 6, 6, 4), "int16", 0.001, 0)], options("DepthwiseConv2D", padding=0, depthMultiplier=1, **CONV), 1,
    ),
    "fully connected, 16 bits": (
        "FULLY_CONNECTED", [WORDS, DENSE, constant(np.arange(5) * 1000, 1e-5)], [T((1, 5), "int16", 0.005, 0)],
        options("FullyConnected"), 1,
    ),
    "transposed convolution": (
        "TRANSPOSE_CONV", [ints(1, 12, 12, 8), UP, IMAGE], [T((1, 12, 12, 8), scale=0.1)],
        options("TransposeConv", padding=0, strideH=2, strideW=2), 1,
    ),
    "transposed convolution, VALID, with a bias": (
        "TRANSPOSE_CONV", [ints(1, 18, 12, 8), UP, IMAGE, constant(np.arange(8, dtype=I32), PER_CHANNEL * 0.05)],
        [T((1, 18, 12, 8), scale=0.1)], options("TransposeConv", padding=1, strideH=3, strideW=2), 1,
    ),
    "transposed convolution of stride 1": (
        "TRANSPOSE_CONV", [ints(1, 6, 6, 8), UP, IMAGE], [T((1, 6, 6, 8), scale=0.1)],
        options("TransposeConv", padding=0, strideH=1, strideW=1), 1,
    ),
    "transposed convolution, 16 bits": (
        "TRANSPOSE_CONV", [ints(1, 12, 12, 8), UP, WORDS, constant(np.arange(8) * 1000, PER_CHANNEL * 0.001)],
        [T((1, 12, 12, 8), "int16", 0.001, 0)], options("TransposeConv", padding=0, strideH=2, strideW=2), 1,
    ),
    "matrices and a constant": (
        "BATCH_MATMUL", [T((2, 3, 16)), constant(RNG.integers(-90, 91, (16, 5)).astype("int8"), 0.01)],
        [T((2, 3, 5), scale=0.1)], options("BatchMatMul"), 1,
    ),
    "transposed matrices and a constant of one batch": (
        "BATCH_MATMUL", [T((1, 16, 3)), constant(RNG.integers(-90, 91, (1, 5, 16)).astype("int8"), 0.01)],
        [T((1, 3, 5), scale=0.1)], options("BatchMatMul", adjX=True, adjY=True), 1,
    ),
    "gather of slices": ("GATHER_ND", [IMAGE, constant(np.array([[0, 5, 2], [0, 0, 1]], I32))], [T((2, 4))], None, 0),
    "quantize to 32 bits": ("QUANTIZE", [T((1, 8), "int16", 0.1, 0)], [T((1, 8), I32, 0.001, 0)], None, 0),
    "pad": (
        "PAD", [IMAGE, constant(np.array([[0, 0], [1, 2], [0, 1], [0, 0]], I32))], [T((1, 9, 7, 4))],
        options("Pad"), 0,
    ),
    "transpose": ("TRANSPOSE", [IMAGE, ints(0, 3, 1, 2)], [T((1, 4, 6, 6))], options("Transpose"), 0),
    "reshape": ("RESHAPE", [IMAGE, ints(1, 9, 16)], [T((1, 9, 16))], options("Reshape", newShape=[1, 9, 16]), 0),
    "split": ("SPLIT", [constant(np.array(3, I32)), IMAGE], [T((1, 6, 6, 2))] * 2, options("Split", numSplits=2), 0),
    "gather": ("GATHER", [IMAGE, ints(3, 0)], [T((1, 2, 6, 4))], options("Gather", axis=1), 0),
    "arg max": (
        "ARG_MAX", [IMAGE, constant(np.array(3, I32))], [T((1, 6, 6), I32, None)], options("ArgMax", outputType=2), 0,
    ),
    "concatenation": (
        "CONCATENATION", [IMAGE, T((1, 6, 6, 2))], [T((1, 6, 6, 6))], options("Concatenation", axis=3), 0,
    ),
    "add": ("ADD", [IMAGE, OTHER], [T((1, 6, 6, 4), scale=0.09)], options("Add"), 1),
    "multiply": ("MUL", [IMAGE, OTHER], [T((1, 6, 6, 4), scale=0.09)], options("Mul"), 1),
    "logistic": ("LOGISTIC", [IMAGE], [T((1, 6, 6, 4), scale=1 / 256, zero=-128)], None, 1),
    "resize": (
        "RESIZE_NEAREST_NEIGHBOR", [IMAGE, ints(12, 12)], [T((1, 12, 12, 4))],
        options("ResizeNearestNeighbor", halfPixelCenters=True), 0,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # LiteRT's own
@pytest.mark.parametrize("case", CASES)
def test_as_litert(case: str, tmp_path: Path) -> None:
    op, inputs, outputs, about, largest = CASES[case]
    path = tmp_path / "net.tflite"
    path.write_bytes(network(op, inputs, outputs, about))
    feeds, wanted = expected(path.read_bytes())
    compiled = selector.compile(path, policy="int8", threads=1)
    lowering = "int16" if inputs[0].dtype == "int16" or inputs[-1].dtype == "int64" else "int8"
    assert all(decision.lowering == lowering for decision in compiled.decisions)
    other = selector.compile(path, policy="int16", threads=1).run(*feeds)
    for found, again, reference in zip(compiled.run(*feeds), other, wanted, strict=True):
        np.testing.assert_array_equal(found, again)
        assert (found.shape, found.dtype) == (reference.shape, reference.dtype)
        assert np.abs(found.astype(int) - reference.astype(int)).max() <= largest


@pytest.mark.filterwarnings("ignore")  # LiteRT's own
@pytest.mark.parametrize("adjoint", [False, True])
def test_product_of_two_activations(adjoint: bool, tmp_path: Path) -> None:
    right = T((2, 5, 16) if adjoint else (2, 16, 5), scale=0.02)
    path = tmp_path / "net.tflite"
    inputs, about = [T((2, 3, 16)), right], options("BatchMatMul", adjY=adjoint)
    path.write_bytes(network("BATCH_MATMUL", inputs, [T((2, 3, 5), scale=0.3)], about))
    feeds, (wanted,) = expected(path.read_bytes())
    (found,) = selector.compile(path, threads=1).run(*feeds)
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


FLOATS = T((1, 6, 6, 4), "float32", None)
HYBRID: dict[str, tuple[str, list[T], tuple[int, ...], Any]] = {
    "CONV_2D": ("nhwc,oc->nhwo", [constant(RNG.integers(-90, 91, (8, 1, 1, 4)).astype("int8"), PER_CHANNEL)],
                (1, 6, 6, 8), options("Conv2D", padding=0, **CONV)),
    "FULLY_CONNECTED": ("nx,ox->no", [DENSE], (1, 5), options("FullyConnected")),
    "BATCH_MATMUL": ("nhwc,ca->nhwa", [constant(RNG.integers(-90, 91, (4, 3)).astype("int8"), 0.01)],
                     (1, 6, 6, 3), options("BatchMatMul")),
}  # fmt: skip


@pytest.mark.parametrize("op", HYBRID)
def test_weights_of_float_data_are_dequantized(op: str, tmp_path: Path) -> None:
    """TFLite quantizes the data as it runs; the float network has the better numbers."""
    subscripts, (weight,), shape, about = HYBRID[op]
    path = tmp_path / "net.tflite"
    path.write_bytes(network(op, [FLOATS, weight], [T(shape, "float32", None)], about))
    x = np.random.default_rng(1).standard_normal(FLOATS.shape).astype("float32")
    assert weight.data is not None
    scale = np.asarray(weight.scale).reshape(-1, *[1] * (weight.data.ndim - 1))
    rows = (weight.data * scale).astype("float32")
    rows = rows[:, 0, 0] if op == "CONV_2D" else rows
    wanted = np.einsum(subscripts, x.reshape(1, -1) if op == "FULLY_CONNECTED" else x, rows)
    np.testing.assert_allclose(selector.compile(path, threads=1).run(x)[0], wanted, rtol=1e-4, atol=1e-5)


def test_scales_without_zero_points(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    weight = constant(np.asarray(WEIGHT.data), WEIGHT.scale, None)
    about = options("Conv2D", padding=0, **CONV)
    path.write_bytes(network("CONV_2D", [IMAGE, weight], [T((1, 6, 6, 8), scale=0.1)], about))
    other = tmp_path / "zeros.tflite"
    other.write_bytes(network("CONV_2D", [IMAGE, WEIGHT], [T((1, 6, 6, 8), scale=0.1)], about))
    x = np.random.default_rng(1).integers(-128, 128, IMAGE.shape).astype("int8")
    found, wanted = (selector.compile(net, threads=1).run(x)[0] for net in (path, other))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no network", "is not a TFLite model"),
        (b"\x00\x00\x00\x00TFL3", "TFLite importer fails"),
        (network("SVDF", [IMAGE], [IMAGE]), "SVDF keeps a state between runs"),
        (
            network("MAX_POOL_2D", [IMAGE], [T((1, 4, 3, 4))], options("Pool2D", padding=1, **POOL)),
            "not \\(1, 4, 3, 4\\)",
        ),
        (network("CUMSUM", [IMAGE, ints(1)], [IMAGE]), "CUMSUM"),
    ],
)
def test_what_is_wrong_is_one_line(
    data: bytes, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        selector.load(path)
    assert "\n" not in str(caught.value)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
