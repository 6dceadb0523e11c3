"""The commands on good input: what they print, for people and as JSON, and what they write."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import selector
from selector.cross import NATIVE
from tests.cli.conftest import Run
from tests.cli.test_bad_input import float_conv
from tests.models import qdq_block_model

NETWORKS = sorted((Path(__file__).parents[2] / "datasets" / "networks").glob("*.onnx"))

needs_linker = pytest.mark.skipif(
    not any(shutil.which(name) for name in NATIVE), reason="no C++ compiler here to link a library"
)


@pytest.fixture
def block(tmp_path: Path) -> Path:
    """A small network with every pattern of a quantized network."""
    path = tmp_path / "block.onnx"
    onnx.save(qdq_block_model(), path)
    return path


@pytest.mark.parametrize("policy", ["int8", "int16"])
def test_explain(selector_command: Run, network: Path, policy: str) -> None:
    answer = selector_command("explain", network, "--policy", policy, "--json").json()
    assert answer["policy"] == policy
    assert answer["lowerings"] == {policy: 1}
    (layer,) = answer["layers"]
    assert layer["layer"] == "conv"
    assert layer["shape"] == "1x7x6x8 -> 12, 3x3 s1"
    assert layer["kind"] == "dense"
    assert layer["macs"] == 7 * 6 * 12 * 8 * 9
    assert layer["bytes"] == 7 * 6 * 8 + 12 * 9 * 8 + 7 * 6 * 12
    assert (layer["lowering"], layer["source"]) == (policy, policy)
    assert layer["reason"]


def test_explain_bytes(selector_command: Run, network: Path) -> None:
    answer = selector_command("explain", network, "--policy", "int16", "--json").json()
    sizes = answer["layers"][0]["stored_bytes"]
    assert 12 * 9 * 8 <= sizes["int8"] < sizes["int16"]
    assert answer["stored_bytes"] == {"chosen": sizes["int16"], **sizes}
    packed = selector_command("explain", network, "--policy", "int16", "--no-lazy-weights", "--json").json()
    assert packed["layers"][0]["stored_bytes"]["int16"] >= sizes["int16"]
    assert "if all were int8" in selector_command("explain", network, "--details").out
    assert "if all were int8" not in selector_command("explain", network, "--details", "--no-bytes").out
    assert selector_command("explain", network, "--no-bytes", "--json").json()["layers"][0]["stored_bytes"] is None


def test_max_size(selector_command: Run, network: Path) -> None:
    arguments = ("explain", network, "--policy", "int16")
    small = selector_command(*arguments, "--max-size", "1KiB")
    assert small.code == 2
    assert re.fullmatch(
        r"error: the library cannot be as small as 0\.00 MB: it takes at least \d\.\d\d MB\n", small.err
    )
    assert selector_command(*arguments, "--max-size", "20MB", "--json").json()["lowerings"] == {"int16": 1}
    wrong = selector_command(*arguments, "--max-size", "much")
    assert (wrong.code, wrong.err) == (2, "error: --max-size is a number of bytes, e.g. 20MB or 512KiB, not 'much'\n")


def test_explain_for_people(selector_command: Run, network: Path) -> None:
    options = ("explain", network, "--target", "x86-64-v2", "--policy", "rule")
    outcome = selector_command(*options)
    assert (outcome.code, outcome.err) == (0, "")
    for text in ("conv", " 7x6x8 -> 12, 3x3 s1 ", "int8", "--details: "):
        assert text in outcome.out
    assert "sse4.2" not in outcome.out
    detailed = selector_command(*options, "--details").out
    for text in ("conv: int8\n", "  1x7x6x8 -> 12, 3x3 s1, dense, 0.04 MMAC", "  rule: x86 with sse4.2\n"):
        assert text in detailed


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_explain_in_a_narrow_terminal(selector_command: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = selector_command("explain", path, "--target", "x86-64-v3").out.splitlines()
    assert max(map(len, lines)) <= 80
    layers = selector_command("explain", path, "--target", "x86-64-v3", "--json").json()["layers"]
    for line, layer in zip(lines[1:], layers, strict=False):
        name, rest = line.split(maxsplit=1)
        assert layer["layer"].endswith(name.removeprefix("…"))
        shown = [layer["lowering"], f"{layer['time_ratio']:.2f}", *layer["certainty"].split()]
        assert rest.split()[-len(shown) :] == shown
        assert f"{layer['macs'] / 1e6:.2f}" in rest
        assert layer["shape"].removeprefix("1x") in rest


def test_explain_for_a_foreign_target(selector_command: Run, network: Path) -> None:
    answer = selector_command("explain", network, "--target", "cortex-a72", "--policy", "rule", "--json").json()
    assert answer["layers"][0]["reason"] == "ARM, NHWC and not depthwise"


@needs_linker
def test_compile_verify_save_run(selector_command: Run, block: Path, tmp_path: Path) -> None:
    library, values, result = tmp_path / "net.so", tmp_path / "x.npy", tmp_path / "y.npy"
    answer = selector_command("compile", block, "-o", library, "--verify", "--threads", 1, "--json").json()
    assert answer["output"] == str(library)
    assert answer["library_bytes"] == library.stat().st_size
    assert answer["model_bytes"] == block.stat().st_size
    sizes = [row["bytes"] for row in answer["largest_layers"]]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) < answer["weights_bytes"] < answer["library_bytes"]
    assert answer["compile_seconds"] > 0
    assert {row["reference"] for row in answer["verification"]} == {"tvm", "onnxruntime"}
    assert all(row["passed"] and row["steps"] <= 1.01 for row in answer["verification"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.onnx", "net.so"]

    x = np.random.default_rng(3).standard_normal((1, 3, 16, 16), np.float32)
    np.save(values, x)
    answer = selector_command("run", library, "--input", values, "-o", result, "--json").json()
    assert answer["random_input"] is False
    assert answer["outputs"][0]["shape"] == [1, 10]
    np.testing.assert_array_equal(np.load(result), selector.compile(block, threads=1).run(x)[0])
    assert answer["outputs"][0]["top"][0] == int(np.load(result).argmax())


@needs_linker
def test_run_on_random_input(selector_command: Run, network: Path, tmp_path: Path) -> None:
    library = tmp_path / "net.so"
    compiled = selector_command("compile", network, "-o", library)
    assert (compiled.code, compiled.err) == (0, "")
    first = selector_command("run", library, "--json").json()
    assert first["random_input"] is True
    assert selector_command("run", library, "--json").json()["outputs"] == first["outputs"]
    assert selector_command("run", library, "--seed", 1, "--json").json()["outputs"] != first["outputs"]
    shown = selector_command("run", library, "-o", tmp_path / "out")
    assert shown.err == ""
    assert "largest: [" in shown.out
    assert (tmp_path / "out" / "output_0.npy").exists()
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((2, 2)))
    selector_command("run", library, "--input", wrong).assert_bad_input("wrong.npy", "float64 (2, 2)")
    selector_command("run", library, "--input", f"y={wrong}").assert_bad_input("has no input 'y'; its inputs are x")
    (spec,), values = first["inputs"], tmp_path / "x.npy"
    np.save(values, np.ones(spec["shape"], spec["dtype"]))
    named = selector_command("run", library, "--input", f"x={values}", "-o", tmp_path / "out.npz", "--json").json()
    np.savez(tmp_path / "in.npz", x=np.load(values))
    assert selector_command("run", library, "-i", tmp_path / "in.npz", "--json").json()["outputs"] == named["outputs"]
    with np.load(tmp_path / "out.npz") as written:
        assert list(written) == [item["name"] for item in named["outputs"]]
    selector_command("run", library, "--input", wrong, "--input", wrong).assert_bad_input("1 input (x), got 2 --input")


def test_float_network_compiles_and_says_so(selector_command: Run, tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(float_conv(), path)
    for command in ("compile", "explain"):
        outcome = selector_command(command, path)
        assert outcome.code == 0, outcome.err
        assert "no layer of the network is quantized" in outcome.out


def test_bench_profile(selector_command: Run, network: Path) -> None:
    options = ("--policy", "int8", "--against", "onnxruntime", "--rounds", 2, "--threads", 1, "--profile")
    answer = selector_command("bench", network, *options, "--json").json()
    profile = answer["contenders"][1]["profile"]
    assert [kernel["name"] for kernel in profile["kernels"] if kernel["lowering"] == "int8"] == ["conv"]
    assert "profile" not in answer["contenders"][0]
    table = selector_command("bench", network, *options)
    assert "GMAC/s" in table.out
    assert "template and instruction" in table.out


def test_bench(selector_command: Run, network: Path) -> None:
    options = ("--policy", "int8", "--policy", "int16", "--against", "tvm", "--rounds", 3, "--threads", 1)
    answer = selector_command("bench", network, *options, "--against", "onnxruntime", "--json").json()
    rows = {row["name"]: row for row in answer["contenders"]}
    assert list(rows) == ["tvm", "onnxruntime", "selector int8", "selector int16"]
    assert answer["rounds"] == 3
    for row in rows.values():
        assert row["median_ms"] > 0
        assert len(row["samples_ms"]) == 3
        assert set(row["ratio"]) == set(rows)
    assert rows["selector int8"]["largest_difference"] == rows["selector int16"]["largest_difference"]
    table = selector_command("bench", network, *options)
    assert "time ÷ tvm" in table.out
    assert "selector int16" in table.out


def test_without_a_linker(selector_command: Run, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(network.parent))
    outcome = selector_command("compile", network, "-o", network.with_name("net.so"))
    outcome.assert_bad_input("needs a C++ compiler")
    assert selector_command("compile", network).code == 0


@needs_linker
def test_failed_work_exits_1_and_leaves_nothing(
    selector_command: Run, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = network.with_name("kept.so")
    kept.write_bytes(b"an earlier library")

    def export(_self: object, path: str, **_options: object) -> None:
        Path(path).write_bytes(b"half of a libr")
        raise RuntimeError("the linker failed\nwith many lines")

    monkeypatch.setattr("tvm.relax.VMExecutable.export_library", export)
    before = sorted(network.parent.iterdir())
    outcome = selector_command("compile", network, "-o", kept)
    assert outcome.code == 1
    assert outcome.err == "error: RuntimeError: the linker failed (--debug shows the traceback)\n"
    assert sorted(network.parent.iterdir()) == before
    assert kept.read_bytes() == b"an earlier library"


@needs_linker
def test_failed_verification_exits_1(selector_command: Run, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selector.graph.compile import CompiledModel

    exact = CompiledModel.run
    monkeypatch.setattr(CompiledModel, "run", lambda self, *inputs: [value + 100 for value in exact(self, *inputs)])
    outcome = selector_command("compile", network, "--verify", "-o", network.with_name("net.so"))
    assert outcome.code == 1
    assert "verification: output 0 differs from" in outcome.err
    assert "too large" in outcome.out
    assert [path.name for path in network.parent.iterdir()] == ["net.onnx"]


def test_command_line_is_installed(network: Path) -> None:
    """The process itself: entry module, exit code, no traceback from native code."""
    program = [sys.executable, "-c", "from selector.cli import app; app()", "explain", str(network)]
    done = subprocess.run([*program, "--target", "pentium-9000"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown target 'pentium-9000'")
    assert done.stderr.count("\n") == 1


def test_version(selector_command: Run) -> None:
    outcome = selector_command("--version")
    assert (outcome.code, outcome.out) == (0, f"selector {selector.__version__}\n")


def test_imports_stay_light(network: Path) -> None:
    """Neither importing nor compiling takes the training stack; importing alone does not take onnx."""
    code = (
        "import sys, selector\n"
        "heavy = {'mlflow', 'sklearn', 'lightgbm', 'matplotlib', 'onnx', 'onnxruntime', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "selector.compile(sys.argv[1], policy='int8')\n"
        "print(sorted((heavy - {'onnx'}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(network)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
