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
    assert all(decision.lowering == "int8" for decision in compiled.decisions)
    other = selector.compile(path, policy="int16", threads=1).run(*feeds)
    for found, again, reference in zip(compiled.run(*feeds), other, wanted, strict=True):
        np.testing.assert_array_equal(found, again)
        assert (found.shape, found.dtype) == (reference.shape, reference.dtype)
        assert np.abs(found.astype(int) - reference.astype(int)).max() <= largest


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
