"""Every way of giving the command something it cannot use: exit code 2 and one line that says why."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from selector.cli import common
from tests.cli.conftest import Run
from tests.models import GraphBuilder, qdq_conv_model


def float_conv(shape: tuple[int | str, ...] = (1, 3, 8, 8)) -> onnx.ModelProto:
    """A float32 convolution, nothing quantized."""
    b = GraphBuilder()
    x = b.input("x", shape)
    return b.model({b.node("Conv", [x, b.const(b.rng.normal(0, 1, (4, 3, 3, 3)).astype("float32"))]): "float32"})


def dynamic(*axes: int) -> onnx.ModelProto:
    """A quantized convolution some of whose dimensions are names."""
    model = qdq_conv_model()
    for value in (*model.graph.input, *model.graph.output):
        for axis in axes:
            value.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    return model


def dynamic_weights() -> onnx.ModelProto:
    """A convolution whose weights are quantized at run time."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantize"),
        helper.make_node("ConvInteger", ["q", "q", "z", "z"], ["y"], name="conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 4, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def zero_sized() -> onnx.ModelProto:
    """A quantized network over an image without rows."""
    b = GraphBuilder()
    x = b.input("x", (1, 3, 0, 8), "uint8")
    return b.model({b.node("Relu", [b.dequantize(x, 0.1, 0)]): "float32"})


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_missing_file(selector_command: Run, tmp_path: Path, command: str) -> None:
    selector_command(command, tmp_path / "absent.onnx").assert_bad_input("absent.onnx", "No such file")


def test_folder(selector_command: Run, tmp_path: Path) -> None:
    selector_command("explain", tmp_path).assert_bad_input("is a folder")


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_not_onnx(selector_command: Run, tmp_path: Path, command: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("this is no model\n")
    selector_command(command, path).assert_bad_input("net.onnx")


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated(selector_command: Run, network: Path, kept: float) -> None:
    data = network.read_bytes()
    network.write_bytes(data[: int(kept * len(data))])
    selector_command("compile", network).assert_bad_input("net.onnx")


def test_dynamic_image(selector_command: Run, network: Path) -> None:
    onnx.save(dynamic(0, 2), network)
    selector_command("compile", network).assert_bad_input("is dynamic ('d2')", "--shape x=1x")


@pytest.mark.filterwarnings("always::selector.graph.frontends.shapes.BatchWarning")
def test_dynamic_batch_is_one_and_said(selector_command: Run, network: Path) -> None:
    onnx.save(dynamic(0), network)
    run = selector_command("explain", network, "--policy", "int8")
    assert run.code == 0, run.err
    assert "the batch of input 'x' is dynamic ('d0'): it is compiled for 1 (--batch: for another)" in run.err


@pytest.mark.parametrize("shape", ["1x3x8x8", "x=", "x=1x", "x=1x3x0x8", "x=1,3,8,8"])
@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_bad_shape(selector_command: Run, network: Path, command: str, shape: str) -> None:
    selector_command(command, network, "--shape", shape).assert_bad_input("--shape is an input and its sizes", shape)


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--shape", "x=2x8x7x6", "--shape", "x=2x8x7x6"], "the same shapes are given twice: x=2x8x7x6"),
        (["--batch", 2, "--batch", 2], "the same shapes are given twice: x=2x8x7x6"),
        (["--shape", "x=1x8x7x6", "--batch", 1, "--batch", 4], "the same shapes are given twice: x=1x8x7x6"),
        (["--shape", "x=2x8x7x6", "--shape", "z=2x8x7x6"], "has no input 'z': it has 'x'"),
        (["--batch", 1, "--batch", 2, *["--shape", "x=1x8x7x6"] * 3], "not 3 shapes of 'x' and 2 batches"),
    ],
)
def test_bad_variants(selector_command: Run, network: Path, command: str, options: list[object], text: str) -> None:
    selector_command(command, network, *options).assert_bad_input(text)


def test_weights_that_are_computed_at_run_time(selector_command: Run, network: Path) -> None:
    onnx.save(dynamic_weights(), network)
    selector_command("compile", network).assert_bad_input("ConvInteger 'conv'", "weights are computed at run time")


def test_zero_sized(selector_command: Run, network: Path) -> None:
    onnx.save(zero_sized(), network)
    selector_command("compile", network).assert_bad_input("dimension 2 of input 'x' is zero")


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_unknown_target(selector_command: Run, network: Path, command: str) -> None:
    selector_command(command, network, "--target", "pentium-9000").assert_bad_input("unknown target 'pentium-9000'")


@pytest.mark.parametrize("target", ['{"kind": "llvm"', '{"kind": "abacus"}', '{"kind": "c"}'])
def test_unusable_target(selector_command: Run, network: Path, target: str) -> None:
    selector_command("explain", network, "--target", target).assert_bad_input()


@pytest.mark.parametrize("command", ["compile", "explain", "bench"])
def test_unknown_policy(selector_command: Run, network: Path, command: str) -> None:
    selector_command(command, network, "--policy", "oracle").assert_bad_input("unknown policy 'oracle'", "int16")


def test_unknown_peer(selector_command: Run, network: Path) -> None:
    selector_command("bench", network, "--against", "abacus").assert_bad_input("unknown peer 'abacus'", "onnxruntime")


@pytest.mark.parametrize("command", ["compile", "bench"])
def test_running_foreign_code(selector_command: Run, network: Path, command: str) -> None:
    options = ["--verify"] if command == "compile" else []
    outcome = selector_command(command, network, "--target", "cortex-a72", *options)
    outcome.assert_bad_input("cortex-a72", "does not run")


@pytest.mark.parametrize("output", ["absent/net.so", "net.onnx/net.so", "folder", "net.dll"])
def test_unwritable_output(selector_command: Run, network: Path, output: str) -> None:
    folder = network.parent
    (folder / "folder").mkdir()
    before = sorted(folder.rglob("*"))
    selector_command("compile", network, "-o", folder / output).assert_bad_input(output)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_read_only_folder(selector_command: Run, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    selector_command("compile", network, "-o", folder / "net.so").assert_bad_input("Permission denied")


def test_output_is_checked_first(selector_command: Run, tmp_path: Path) -> None:
    broken = tmp_path / "net.onnx"
    broken.write_text("this is no model\n")
    selector_command("compile", broken, "-o", tmp_path / "absent/net.so").assert_bad_input("absent/net.so")


@pytest.mark.parametrize("command", ["compile", "explain", "bench", "run"])
def test_usage(selector_command: Run, network: Path, command: str) -> None:
    for arguments in (("--no-such-option", network), (network, "--threads", "0"), ()):
        outcome = selector_command(command, *arguments)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err


def test_run_needs_a_compiled_library(selector_command: Run, network: Path) -> None:
    selector_command("run", network.parent / "absent.so").assert_bad_input("absent.so")
    selector_command("run", network).assert_bad_input("net.onnx")


def test_run_input_files(selector_command: Run, network: Path, tmp_path: Path) -> None:
    text, archive, empty = tmp_path / "text.npy", tmp_path / "text.npz", tmp_path / "empty.npz"
    for path in (text, archive):
        path.write_text("1 2 3\n")
    np.savez(empty)
    for path in (tmp_path / "absent.npy", tmp_path / "absent.npz", text, archive, empty):
        selector_command("run", network, "--input", path).assert_bad_input(path.name)


def test_debug_shows_the_error_itself(selector_command: Run, network: Path) -> None:
    from selector.policy import UnknownPolicy

    assert isinstance(selector_command("explain", network, "--policy", "oracle", "--debug").error, UnknownPolicy)


def test_what_cannot_be_measured_here(selector_command: Run, network: Path) -> None:
    outcome = selector_command("explain", network, "--policy", "measure", "--target", "cortex-a72")
    outcome.assert_bad_input("policy 'measure'", "cortex-a72")


@pytest.mark.parametrize("name", common.BAD_INPUT_TYPES)
def test_errors_of_bad_input_exist_under_their_names(name: str) -> None:
    module, _, kind = name.rpartition(".")
    error = getattr(importlib.import_module(module), kind)
    assert issubclass(error, Exception)
    assert f"{error.__module__}.{error.__qualname__}" == name
