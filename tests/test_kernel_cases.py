"""Where the benchmarked convolutions come from, and the ONNX models that peers get."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from selector.conv_model import conv_model
from selector.kernel_cases import (
    DTYPES,
    KernelCase,
    ShapesError,
    Weights,
    distinct,
    from_file,
    from_network,
    plan,
    random_data,
    with_dtypes,
    with_random_weights,
)
from selector.lowering.reference import convolve
from selector.workload import ConvWorkload
from tests import models
from tests.models import qdq_block_model

SHAPE = {
    "batch": 1,
    "in_height": 6,
    "in_width": 5,
    "in_channels": 8,
    "out_channels": 12,
    "kernel_height": 3,
    "kernel_width": 3,
}


@pytest.fixture
def case(tmp_path: Path) -> KernelCase:
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps([SHAPE | {"padding": [1, 0, 1, 2], "stride": 2}]))
    (found,) = from_file(path, threads=1)
    return found


def test_json_fills_in_defaults(case: KernelCase) -> None:
    expected = ConvWorkload(**SHAPE, padding=(1, 0, 1, 2), stride=(2, 2), out_dtype="uint8")
    geometry = {name: getattr(case.workload, name) for name in ("stride", "padding", "dilation", "groups", "out_dtype")}
    assert geometry == {name: getattr(expected, name) for name in geometry}
    assert case.name == "shapes:1"


def test_csv_equals_json(tmp_path: Path, case: KernelCase) -> None:
    path = tmp_path / "shapes.csv"
    path.write_text(
        ",".join([*SHAPE, "padding", "stride"]) + "\n" + ",".join(map(str, SHAPE.values())) + ",1x0x1x2,2\n"
    )
    assert from_file(path, threads=1)[0].workload == case.workload


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "not a table"),
        ("a.json", "[1]", "not a list of objects"),
        ("a.json", json.dumps([SHAPE | {"colour": 1}]), "unknown field 'colour'"),
        ("a.json", json.dumps([SHAPE | {"padding": [1, 2, 3]}]), "'padding' takes 4 numbers"),
        ("a.json", json.dumps([SHAPE | {"batch": 0}]), "row 1: batch must be at least 1"),
        ("a.csv", "batch,in_height\n1,x\n", "row 1"),
        ("a.csv", "batch\n1\n", "missing"),
    ],
)
def test_unusable_shapes(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ShapesError, match=message):
        from_file(path, threads=1)


def test_network_gives_its_own_weights(tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    onnx.save(qdq_block_model(), path)
    cases = from_network(path, threads=1)
    assert [case.workload.kind for case in cases].count("depthwise") == 1
    first = cases[0]
    assert first.constants.weight.shape == (16, 3, 3, 3)
    assert first.constants.requantize is not None
    assert sum(case.count for case in distinct(cases)) == len(cases)
    assert [kind for kind, _ in plan(cases, ["network", "full"], [])] == ["network"] * len(distinct(cases)) + [
        "full"
    ] * len(distinct(cases))


def test_distinct_ignores_weights_and_zero_points(case: KernelCase) -> None:
    other = with_random_weights(case, "full", seed=5)
    assert [(found.name, found.count) for found in distinct([case, other])] == [(case.name, 2)]
    assert len(distinct([case, with_dtypes(case, "s8s8")])) == 2


@pytest.mark.parametrize("dtypes", sorted(DTYPES))
@pytest.mark.parametrize(("weights", "term2"), [("7bit", False), ("full", True)])
def test_random_weights_have_the_promised_range(case: KernelCase, dtypes: str, weights: Weights, term2: bool) -> None:
    found = with_random_weights(with_dtypes(case, dtypes), weights)
    assert found.dtypes == dtypes
    work = found.workload
    assert work.weight_bound <= (64 if weights == "7bit" else 128)
    assert work.term2 == (term2 and work.weight_dtype == "uint8")
    assert work.accumulator_bound() < 1 << 31


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtypes", sorted(DTYPES))
def test_model_computes_the_same_convolution(case: KernelCase, dtypes: str, channels_last: bool) -> None:
    found = with_random_weights(with_dtypes(case, dtypes), "full")
    model = conv_model(found.workload, found.constants, channels_last=channels_last)
    onnx.checker.check_model(model, full_check=True)
    data = random_data(found)
    feed = data if channels_last else np.ascontiguousarray(data.transpose(0, 3, 1, 2))
    (out,) = models.reference(model, {"x": feed})
    out = out if channels_last else out.transpose(0, 2, 3, 1)
    expected = convolve(found.workload, found.constants, data)
    assert np.abs(out.astype(int) - expected).max() <= 1


def test_model_of_a_convolution_without_requantization(case: KernelCase) -> None:
    constants = replace(case.constants, requantize=None)
    workload = replace(case.workload, out_dtype="int32")
    model = conv_model(workload, constants, channels_last=True)
    data = random_data(case)
    (out,) = models.reference(model, {"x": data})
    np.testing.assert_array_equal(out, convolve(workload, constants, data).astype(np.float32), strict=True)
