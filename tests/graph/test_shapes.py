"""Shapes that the user gives, and a dynamic batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import selector
from selector.graph.frontends.shapes import BatchWarning, fix_shapes, fixed_file
from selector.runtime import ModelError
from tests.graph.test_written_ways import WAYS, network

FIXED = (1, 4, 6, 6)


def dynamic(*names: str | int) -> onnx.ModelProto:
    """A network of one convolution; dimensions of its input are sizes or names."""
    model = network(WAYS["plain"])
    for info in (*model.graph.input, *model.graph.output):
        for dim, name in zip(info.type.tensor_type.shape.dim, names, strict=True):
            if isinstance(name, str):
                dim.dim_param = name
    return model


def outputs(model: onnx.ModelProto, x: np.ndarray, **how: object) -> np.ndarray:
    """What the network computes in these shapes."""
    return selector.compile(selector.load(model, **how), policy="int8", threads=1).run(x)[0]


@pytest.mark.parametrize(
    ("names", "how", "shape"),
    [
        (("N", 4, 6, 6), {"batch": 3}, (3, 4, 6, 6)),
        (("N", 4, 6, 6), {"shapes": {"x": (2, 4, 6, 6)}}, (2, 4, 6, 6)),
        ((1, 4, "H", "W"), {"shapes": {"x": (1, 4, 9, 7)}}, (1, 4, 9, 7)),
        (("N", 4, "H", "W"), {"shapes": {"x": (2, 4, 5, 8)}, "batch": 4}, (2, 4, 5, 8)),
        (FIXED, {"batch": 2}, (2, 4, 6, 6)),
    ],
)
def test_given(names: tuple[str | int, ...], how: dict[str, object], shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    found = outputs(dynamic(*names), x, **how)
    assert found.shape == (shape[0], 8, *shape[2:])
    alone = [outputs(dynamic(*names), image[None], shapes={"x": (1, *shape[1:])}) for image in x]
    np.testing.assert_array_equal(found, np.concatenate(alone))


def test_dynamic_batch_alone_is_one() -> None:
    with pytest.warns(BatchWarning, match=r"the batch of input 'x' is dynamic \('N'\): it is compiled for 1"):
        module = selector.load(dynamic("N", 4, 6, 6))
    x = np.ones(FIXED, "float32")
    found = selector.compile(module, policy="int8", threads=1).run(x)[0]
    np.testing.assert_array_equal(found, outputs(dynamic(*FIXED), x))


def test_name_of_a_dimension_is_one_size_everywhere() -> None:
    model = dynamic("N", 4, 6, 6)
    second = model.graph.input.add(name="y")
    second.CopyFrom(model.graph.input[0])
    second.name = "y"
    fixed = fix_shapes(model, "net", {"x": (5, 4, 6, 6)})
    assert [[dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in fixed.graph.input] == [
        [5, 4, 6, 6],
        [5, 4, 6, 6],
    ]


BAD = {
    "another input": ({"shapes": {"z": FIXED}}, "has no input 'z': it has 'x'"),
    "another rank": ({"shapes": {"x": (1, 4)}}, "input 'x' has 4 dimensions, the given shape 1x4 2"),
    "zero": ({"shapes": {"x": (1, 4, 0, 6)}}, "dimension 2 of input 'x' is zero"),
    "negative": ({"shapes": {"x": (1, 4, -6, 6)}}, "dimension 2 of input 'x' is -6"),
    "huge": ({"shapes": {"x": (1, 4, 1 << 40, 6)}}, "too large"),
    "no batch": ({"batch": 0}, "a batch is at least 1"),
    "one is missing": ({"batch": 2}, "is dynamic ('W'); Selector compiles for fixed shapes: add e.g. --shape x=2x4x"),
    "other channels": ({"shapes": {"x": (1, 5, 6, 6)}}, "fails on"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_shapes_get_one_line(name: str) -> None:
    how, text = BAD[name]
    with pytest.raises(ModelError) as caught:
        selector.load(dynamic(1, 4, "H", "W"), **how)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_onnx_networks_take_shapes(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"nothing")
    for model in (path, selector.load(network(WAYS["plain"]))):
        with pytest.raises(ModelError, match="shapes and batch can be given for ONNX networks"):
            selector.load(model, batch=2)
    with pytest.raises(ModelError, match="is not an ONNX model, and shapes"), fixed_file(path, {}, 2):
        pass


def test_file_for_other_runtimes(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(dynamic("N", 4, 6, 6), path)
    with fixed_file(path, {}, None) as same:
        assert same == path
    with fixed_file(path, {}, 2) as made:
        assert selector.load(made).functions
    assert not made.exists()
