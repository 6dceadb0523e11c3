"""``--policy learned`` on the command line: with a model, without one, with a damaged one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from selector.lowering.dot import DOTS as ROWS
from selector.policy import learned, release
from selector.policy.model import BOUNDED
from tests.cli.conftest import Run
from tests.models import qdq_block_model
from tests.policy import released

DOTS = frozenset(row.name for row in ROWS)
TARGET = ("--policy", "learned", "--target", "x86-64-v3")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A released model that is the champion and follows every prediction."""
    folder = released.write(tmp_path / "model", ranges=dict.fromkeys(BOUNDED, (-99.0, 99.0)), dots=DOTS)
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
    answer = selector_command("explain", block, *TARGET, "--json").json()
    layers = answer["layers"]
    assert answer["deciders"] == {"layers": len(layers), "trees": len(layers), "trust": [1.0, 1.0], "fallbacks": []}
    assert layers
    for layer in layers:
        assert layer["source"] == "learned"
        assert layer["lowering"] == ("int8" if layer["log2_ratio"] > 0 else "int16")
        assert layer["time_ratio"] == 2 ** layer["log2_ratio"]
        assert layer["interval"][0] < layer["log2_ratio"] < layer["interval"][1]
        assert (layer["trust"], layer["fallback"]) == (1.0, "")
        assert layer["certainty"] in ("", "tie", "unsure")
        assert len(layer["movers"]) == 3
        assert [abs(change) for _, change in layer["movers"]] == sorted(
            (abs(change) for _, change in layer["movers"]), reverse=True
        )


def test_explain_for_people(selector_command: Run, block: Path, model: Path) -> None:
    outcome = selector_command("explain", block, *TARGET)
    assert (outcome.code, outcome.err) == (0, "")
    layers = selector_command("explain", block, *TARGET, "--json").json()["layers"]
    for text in ("ratio", "above 1 int8 is faster", f"{len(layers)} of {len(layers)} layers decided by the trees\n"):
        assert text in outcome.out
    detailed = selector_command("explain", block, *TARGET, "--details").out
    assert detailed.startswith(outcome.out.partition("--details: ")[0])
    for text in ("  learned: int", "80 % of measurements within", " is bound by "):
        assert text in detailed
    for layer in layers:
        name, change = layer["movers"][0]
        assert f"  for {'int8' if change > 0 else 'int16'}, ×{2 ** abs(change):.2f}: " in detailed
        assert name not in detailed


def test_who_decided_elsewhere(
    selector_command: Run, block: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that nobody measured, and where an instruction was never trained on."""
    shown = selector_command("explain", block, "--policy", "learned", "--target", "haswell").out.replace("\n", " ")
    assert "layers decided by the trees (they count 10% and the roofline the rest, since no CPU like it" in shown
    narrow = released.write(model.with_name("narrow"), dots=frozenset({"avx2_pmaddwd"}))
    monkeypatch.setenv(release.ENVIRONMENT, str(narrow))
    found = selector_command("explain", block, *TARGET, "--json").json()["deciders"]
    assert found["trees"] == 0
    assert sum(item["layers"] for item in found["fallbacks"]) == found["layers"]
    assert {item["source"] for item in found["fallbacks"]} == {"roofline"}
    assert all(item["reason"].endswith("was never trained on") for item in found["fallbacks"])
    assert selector_command("compile", block, *TARGET, "--json").json()["deciders"] == found
    for command in ("explain", "compile"):
        text = selector_command(command, block, *TARGET).out.replace("\n", " ")
        assert f"0 of {found['layers']} layers decided by the trees, " in text
        assert "by the roofline: avx2_" in text


def test_explain_roofline(selector_command: Run, block: Path) -> None:
    layers = selector_command("explain", block, "--policy", "roofline", "--json").json()["layers"]
    assert {layer["source"] for layer in layers} == {"roofline"}
    assert all(layer["time_ratio"] > 0 and layer["movers"] == [] for layer in layers)


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize(
    ("file", "problem"), [("trees.txt", "is not the file that was released"), (".", "no such folder")]
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
