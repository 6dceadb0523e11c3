"""``selector bench kernels`` and the short form of ``selector bench network``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.test_kernel_cases import SHAPE

FAST = ("--rounds", 1, "--threads", 1)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps([SHAPE, SHAPE, SHAPE | {"in_channels": 12, "groups": 12}]))
    return path


def test_json(selector_command: Run, shapes: Path) -> None:
    options = ("--dtypes", "u8s8", "--dtypes", "u8u8", "--weights", "full", "--against", "onnxruntime")
    answer = selector_command("bench", "kernels", "--shapes", shapes, *options, *FAST, "--json").json()
    rows = answer["convolutions"]
    assert [(row["kind"], row["dtypes"], row["count"]) for row in rows] == [
        ("dense", "u8s8", 2),
        ("depthwise", "u8s8", 1),
        ("dense", "u8u8", 2),
        ("depthwise", "u8u8", 1),
    ]
    assert all(row["weights"] == "full" and row["ratio"] > 0 for row in rows)
    assert {row["kind"] for row in answer["summary"]} == {"dense", "depthwise", "3x3 stride 1", "all"}


def test_tables_of_a_network_and_a_plot(selector_command: Run, network: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "roofline.svg"
    outcome = selector_command("bench", "kernels", "--network", network, "--plot", plot, *FAST)
    assert outcome.code == 0, outcome.err
    assert "u8s8 network" in outcome.out
    assert "geometric means" in outcome.out
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to time"),
        (("--shapes", "{shapes}", "--weights", "5bit"), "unknown weights '5bit'"),
        (("--shapes", "{shapes}", "--dtypes", "f32"), "unknown dtypes 'f32'"),
        (("--shapes", "{shapes}", "--against", "abacus"), "unknown peer 'abacus'"),
        (("--shapes", "{shapes}", "--weights", "network"), "need --network"),
        (("--shapes", "missing.json"), "cannot read the shapes file"),
        (("--network", "missing.onnx"), "cannot read the network"),
        (("--shapes", "{shapes}", "--target", "pentium-9000"), "unknown target"),
    ],
)
def test_bad_input(selector_command: Run, shapes: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [argument.format(shapes=shapes) for argument in arguments]
    selector_command("bench", "kernels", *given).assert_bad_input(message)


def test_broken_shapes_file(selector_command: Run, shapes: Path) -> None:
    shapes.write_text("[")
    selector_command("bench", "kernels", "--shapes", shapes).assert_bad_input("not a table of convolutions")


def test_long_form_of_a_network(selector_command: Run, network: Path) -> None:
    answer = selector_command("bench", "network", network, "--policy", "int8", "--against", "tvm", *FAST, "--json")
    assert [row["name"] for row in answer.json()["contenders"]] == ["tvm", "selector int8"]


def test_network_in_another_format(selector_command: Run, network: Path) -> None:
    options = ("--policy", "int8", "--against", "onnxruntime", *FAST, "--json")
    answer = selector_command("bench", network, "--format", "s8s8", *options).json()
    assert (answer["model"], answer["format"]) == (str(network), "s8s8")
    selector_command("bench", network, "--format", "s4s4", *options).assert_bad_input("unknown format 's4s4'")


def test_help_names_both(selector_command: Run) -> None:
    outcome = selector_command("bench", "--help")
    assert outcome.code == 0
    assert "network" in outcome.out
    assert "kernels" in outcome.out
