"""What ``compile --verify`` compares with."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Run
from tests.models import qdq_conv_model


@pytest.mark.filterwarnings("ignore")  # LiteRT's own
def test_verify_of_tflite_takes_litert(selector_command: Run, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    pytest.importorskip("tflite", reason="the package tflite is not installed")
    from tests.graph.tflite_models import average_pool

    path = tmp_path / "net.tflite"
    path.write_bytes(average_pool())
    result = selector_command("compile", path, "--policy", "int8", "--verify", "--json").json()
    assert [row["reference"] for row in result["verification"]] == ["tvm", "litert"]
    assert all(row["passed"] for row in result["verification"])


def test_verify_in_a_given_shape(selector_command: Run, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(qdq_conv_model(), path)
    result = selector_command("compile", path, "--policy", "int8", "--batch", "2", "--verify", "--json").json()
    assert [row["reference"] for row in result["verification"]] == ["tvm", "onnxruntime"]
    assert all(row["passed"] for row in result["verification"])
