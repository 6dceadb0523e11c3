"""The examples of README.md and docs/serving.md, as they are written, on a small network."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import selector
from selector.cli import app
from selector.cross import NATIVE
from tests.models import qdq_conv_model

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/serving.md")

# How lines start that are not run here, and why.
SKIPPED = {
    "make demo": "sets up an environment, and takes a minute",
    "make test": "is all tests",
    "pip install": "installs",
    "pip download": "downloads",
    "selector export-runtime --tvm": "needs what pip downloads",
    "selector targets calibrate": "takes a minute",
    "selector collect --plan": "takes hours",
    "selector collect status": "needs what it collects",
    "selector collect --rpc": "needs boards",
    "selector train": "takes minutes",
    "selector models": "needs what is trained",
    "SELECTOR_LIBRARY=net.so uvicorn": "serves until it is stopped; tests/examples/test_server.py",
    "curl": "needs the server; tests/examples/test_server.py",
    "cmake": "builds the example; tests/examples/test_cpp.py",
    "build/run_network": "needs what cmake builds; tests/examples/test_cpp.py",
}
SHORTENED = {"selector bench": ("--rounds", "2")}  # instead of going on until the ratios are stable


def blocks(language: str) -> list[Any]:
    """Text of every block of code in a language, with the place it stands at."""
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        found += [
            pytest.param(match[1], id=f"{document}:{text[: match.start()].count(chr(10)) + 1}")
            for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        ]
    return found


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip() and not line.startswith("#")]


def why_skipped(command: str) -> str | None:
    return next((why for start, why in SKIPPED.items() if command.startswith(start)), None)


def network() -> onnx.ModelProto:
    """One convolution, with the names of input and output that the documents have."""
    model = qdq_conv_model(float_io=True)
    names = {model.graph.input[0].name: "images", model.graph.output[0].name: "scores"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for info in (*model.graph.input, *model.graph.output):
        info.name = names[info.name]
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples read."""
    if not any(shutil.which(name) for name in NATIVE):
        pytest.skip("no C++ compiler here to link a library")
    folder = tmp_path_factory.mktemp("documentation")
    model = network()
    onnx.save(model, folder / "net.onnx")
    compiled = selector.compile(model, policy="int8", threads=1)
    compiled.save(folder / "net.so")
    (spec,) = compiled.inputs
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal(spec.shape, np.float32))
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which is the one that code runs in."""
    for path in files.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block: str, folder: Path) -> None:
    names: dict[str, Any] = {}
    if re.search(r"\bexported\b", block):
        names["exported"] = exported_network()
    exec(compile(block, "example", "exec"), names)


def exported_network() -> Any:
    """What the text before an example calls ``exported``; skips the test where torch is not installed."""
    for package in ("torch", "torchao"):
        pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)
    from tests.graph import test_torch

    return test_torch.exported(test_torch.Small, test_torch.x86_quantizer())


@pytest.mark.parametrize("block", [b for b in blocks("sh") if not all(map(why_skipped, commands(b.values[0])))])
def test_commands(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS"):
        monkeypatch.setenv(name, "1" if name == "TVM_NUM_THREADS" else "0")  # the command sets both; undone afterwards
    for command in commands(block):
        if why_skipped(command):
            continue
        program, *arguments = shlex.split(command, comments=True)
        assert program == "selector", f"neither run nor skipped: {command}"
        more = [word for start, words in SHORTENED.items() if command.startswith(start) for word in words]
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, (command, result.output)


def test_every_skipped_command_is_still_there() -> None:
    written = [command for block in blocks("sh") for command in commands(block.values[0])]
    assert [start for start in SKIPPED if not any(command.startswith(start) for command in written)] == []
