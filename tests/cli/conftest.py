"""Running the command in process, and the networks it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from selector.cli import app
from tests.models import qdq_conv_model


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str
    error: BaseException | None = None  # what left the command, SystemExit included

    def json(self) -> dict[str, Any]:
        """Standard output as JSON, after checking that the command succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def assert_bad_input(self, *fragments: str) -> None:
        """Exit code 2, nothing on standard output, one line of error that holds the fragments."""
        assert (self.code, self.out) == (2, ""), (self.out, self.err)
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for fragment in fragments:
            assert fragment in self.err, self.err


Run = Callable[..., Outcome]


@pytest.fixture
def selector_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``selector_command("explain", path)``; what native code writes to standard error counts as well."""
    for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS"):
        monkeypatch.setenv(name, "1" if name == "TVM_NUM_THREADS" else "0")  # the command sets both; undone afterwards
    monkeypatch.delenv("COLUMNS", raising=False)  # tables are as wide as it says

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        native = capfd.readouterr()
        return Outcome(result.exit_code, result.stdout + native.out, result.stderr + native.err, result.exception)

    return run


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A quantized network of one convolution, float in and out."""
    path = tmp_path / "net.onnx"
    onnx.save(qdq_conv_model(float_io=True), path)
    return path
