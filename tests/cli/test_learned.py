"""``--policy learned`` on the command line: with a model, without one, with a damaged one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from selector.policy import learned, release
from tests.cli.conftest import Run
from tests.models import qdq_block_model
from tests.policy import released

TARGET = ("--policy", "learned", "--target", "x86-64-v3")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A released model that is the champion and follows every prediction."""
    folder = released.write(tmp_path / "model", thresholds={"margin": 1e3})
    monkeypatch.setenv(release.ENVIRONMENT, str(folder))
    learned._loaded.cache_clear()
    return folder


@pytest.fixture
def block(tmp_path: Path) -> Path:
    """A small network of several layers."""
    path = tmp_path / "block.onnx"
    onnx.save(qdq_block_model(), path)
    return path


def test_explain(selector_command: Run, block: Path, model: Path) -> None:
    layers = selector_command("explain", block, *TARGET, "--json").json()["layers"]
    assert layers
    for layer in layers:
        assert layer["source"] == "learned"
        assert layer["lowering"] == ("int8" if layer["log2_ratio"] > 0 else "int16")
        assert layer["time_ratio"] == 2 ** layer["log2_ratio"]
        assert layer["uncertainty"] >= 0
        assert len(layer["movers"]) == 3
        assert [abs(change) for _, change in layer["movers"]] == sorted(
            (abs(change) for _, change in layer["movers"]), reverse=True
        )


def test_explain_for_people(selector_command: Run, block: Path, model: Path) -> None:
    outcome = selector_command("explain", block, *TARGET)
    assert (outcome.code, outcome.err) == (0, "")
    for text in ("learned: int", "predicted", "above 1 int8 is faster", "moved most by"):
        assert text in outcome.out
    for layer in selector_command("explain", block, *TARGET, "--json").json()["layers"]:
        name, change = layer["movers"][0]
        assert f"{name} {2**change:.2f}" in outcome.out


def test_explain_roofline(selector_command: Run, block: Path) -> None:
    layers = selector_command("explain", block, "--policy", "roofline", "--json").json()["layers"]
    assert {layer["source"] for layer in layers} == {"roofline"}
    assert all(layer["time_ratio"] > 0 and layer["movers"] == [] for layer in layers)


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize(
    ("file", "problem"), [("model-0.txt", "is not the file that was released"), (".", "no such folder")]
)
def test_unusable_model(selector_command: Run, block: Path, model: Path, file: str, problem: str) -> None:
    if file == ".":
        model.rename(model.with_name("elsewhere"))
    else:
        (model / file).write_text("tree\n")
    outcome = selector_command("explain", block, *TARGET, "--json")
    assert {layer["source"] for layer in outcome.json()["layers"]} == {"rule"}
    assert outcome.err.startswith("warning: policy 'learned' decides by the rule: ")
    assert problem in outcome.err
    assert outcome.err.count("\n") == 1
