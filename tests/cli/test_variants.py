"""The commands on several shapes of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import selector
from selector.cli.common import BadInput, parse_variants
from tests.cli.conftest import Run
from tests.cli.test_commands import needs_linker

BATCHES = ("--batch", 1, "--batch", 3)


@needs_linker
def test_compile_and_run(selector_command: Run, network: Path, tmp_path: Path) -> None:
    library, values, result = tmp_path / "net.so", tmp_path / "x.npy", tmp_path / "y.npy"
    answer = selector_command("compile", network, *BATCHES, "-o", library, "--verify", "--json").json()
    assert answer["shapes"] == ["x=1x8x7x6", "x=3x8x7x6"]
    assert {(row["reference"], row["variant"]) for row in answer["verification"]} == {
        (name, variant) for name in ("tvm", "onnxruntime") for variant in (0, 1)
    }
    for batch in (3, 1):
        x = np.random.default_rng(batch).standard_normal((batch, 8, 7, 6), np.float32)
        np.save(values, x)
        selector_command("run", library, "--input", values, "-o", result, "--json").json()
        alone = selector.compile(selector.load(network, batch=batch), threads=1)
        np.testing.assert_array_equal(np.load(result), alone.run(x)[0], strict=True)
    assert selector_command("run", library, "--json").json()["inputs"][0]["shape"] == [1, 8, 7, 6]
    np.save(values, np.zeros((2, 8, 7, 6), "float32"))
    outcome = selector_command("run", library, "--input", values)
    outcome.assert_bad_input("x.npy: the network is compiled for x=1x8x7x6, x=3x8x7x6; got 2x8x7x6")
    np.save(values, np.zeros((3, 8, 7, 6)))
    selector_command("run", library, "--input", values).assert_bad_input(
        "input 'x' is float32 (3, 8, 7, 6), got float64"
    )


def test_compile_for_people(selector_command: Run, network: Path) -> None:
    shapes = ("--shape", "x=1x8x7x6", "--shape", "x=1x8x9x12")
    outcome = selector_command("compile", network, *shapes, "--policy", "int8", "--verify")
    assert outcome.code == 0, outcome.err
    assert "x=1x8x9x12: 1 quantized layer: 1 as int8" in outcome.out
    assert "independent references, x=1x8x9x12" in outcome.out


def test_explain(selector_command: Run, network: Path) -> None:
    answer = selector_command("explain", network, *BATCHES, "--policy", "int8", "--json").json()
    assert [item["shapes"] for item in answer["variants"]] == ["x=1x8x7x6", "x=3x8x7x6"]
    assert [item["layers"][0]["shape"] for item in answer["variants"]] == [
        "1x7x6x8 -> 12, 3x3 s1",
        "3x7x6x8 -> 12, 3x3 s1",
    ]
    assert [item["layers"][0]["variant"] for item in answer["variants"]] == [0, 1]
    assert "x=3x8x7x6:" in selector_command("explain", network, *BATCHES).out


def test_bench(selector_command: Run, network: Path) -> None:
    options = (*BATCHES, "--policy", "int8", "--against", "onnxruntime", "--rounds", 2, "--threads", 1, "--profile")
    answer = selector_command("bench", network, *options, "--json").json()
    assert [item["shapes"] for item in answer["variants"]] == ["x=1x8x7x6", "x=3x8x7x6"]
    for item, batch in zip(answer["variants"], (1, 3), strict=True):
        assert [row["name"] for row in item["contenders"]] == ["onnxruntime", "selector int8"]
        layers = [kernel["shape"] for kernel in item["contenders"][1]["profile"]["kernels"] if kernel["lowering"]]
        assert layers == [f"{batch}x7x6x8 -> 12, 3x3 s1"]
    assert "net.onnx, x=3x8x7x6, target native, 1 thread" in selector_command("bench", network, *options).out


def test_shapes_and_batches_pair_up() -> None:
    assert parse_variants(None, None) == [{"shapes": {}, "batch": None}]
    assert parse_variants(["a=1x2", "b=3"], [4]) == [{"shapes": {"a": (1, 2), "b": (3,)}, "batch": 4}]
    assert parse_variants(["a=1x2", "b=3", "a=4x5"], [6, 7]) == [
        {"shapes": {"a": (1, 2), "b": (3,)}, "batch": 6},
        {"shapes": {"a": (4, 5), "b": (3,)}, "batch": 7},
    ]
    with pytest.raises(BadInput, match="not 2 shapes of 'a' and 3 shapes of 'b'"):
        parse_variants(["a=1", "a=2", "b=1", "b=2", "b=3"], None)
