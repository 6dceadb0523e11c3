"""``selector collect status | validate | renumber | merge | diff | plot``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from selector.collect import parts
from selector.collect.store import Store
from selector.lowering.version import KERNEL_VERSION
from tests.cli.conftest import Run
from tests.collect.rows import HOST, failed, measured


def rows(ratios: dict[int, float], folder: Path) -> Path:
    """A dataset of the workloads of so many channels with these log2 ratios, and one row that failed."""
    with Store.open(folder) as store:
        for channels, ratio in ratios.items():
            store.add(measured(ratio, channels=channels))
        store.add(failed(channels=999))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return rows({16: 1.0, 32: -0.5, 48: 0.25}, tmp_path / "measurements")


def test_status(selector_command: Run, folder: Path) -> None:
    shown = selector_command("collect", "status", folder, "--json").json()
    assert shown["rows"] == 4
    assert [(row["target"], row["kind"], row["ok"], row["error"]) for row in shown["coverage"]] == [
        ("x86-64-v3", "dense", 3, 1)
    ]
    assert shown["wins"][0]["int8_wins"] == pytest.approx(2 / 3)
    assert {row["policy"]: row["agreement"] for row in shown["policies"]} == {
        "int8": pytest.approx(2 / 3),
        "int16": pytest.approx(1 / 3),
        "rule": pytest.approx(2 / 3),
    }
    text = selector_command("collect", "status", folder)
    assert text.code == 0
    for part in ("int8 wins", "66.7%", "policies against the oracle", f"{folder}: 4 rows"):
        assert part in text.out


def test_status_of_an_empty_folder(selector_command: Run, tmp_path: Path) -> None:
    shown = selector_command("collect", "status", tmp_path)
    assert (shown.code, shown.out) == (0, f"{tmp_path}: 0 rows\n")


def test_validate(selector_command: Run, folder: Path) -> None:
    shown = selector_command("collect", "validate", folder, "--json").json()
    assert (shown["valid"], shown["files"], shown["rows"], shown["rebuilt"]) == (True, 1, 4, 0)
    assert [finding["check"] for finding in shown["findings"]] == ["errors"]
    text = selector_command("collect", "validate", folder, "--rebuild", 1)  # the rows' hashes are made up
    assert text.code == 1
    assert "kernels of 1 row are not the measured ones" in text.out
    assert f"{folder} is not valid: 1 file, 4 rows, kernels of 1 row built again" in text.out


def test_validate_reports_a_broken_file(selector_command: Run, folder: Path) -> None:
    (path,) = parts.part_paths(folder)
    path.write_bytes(b"")
    outcome = selector_command("collect", "validate", folder, "--json")
    assert outcome.code == 1
    shown = json.loads(outcome.out)
    assert shown["valid"] is False
    assert str(path) in shown["findings"][0]["text"]
    selector_command("collect", "status", folder).assert_bad_input(f"cannot read {path}")


def test_rows_of_other_kernels(selector_command: Run, tmp_path: Path) -> None:
    for name, change in (("older", -1), ("newer", 1)):
        with Store.open(tmp_path / name) as store:
            store.add(measured(host=dataclasses.replace(HOST, kernels=KERNEL_VERSION + change)))
    shown = selector_command("collect", "status", tmp_path / "older", "--json").json()
    assert [(row["rows"], row["used"], row["pairs"]) for row in shown["coverage"]] == [(1, 0, 0)]
    selector_command("collect", "status", tmp_path / "newer").assert_bad_input(
        f"rows of kernels {KERNEL_VERSION + 1} are unknown, this version has kernels {KERNEL_VERSION}"
    )
    done = selector_command("collect", "renumber", tmp_path / "older", "--json").json()
    assert done == {"folder": str(tmp_path / "older"), "kept": 0, "renumbered": 0, "changed": 1}
    text = selector_command("collect", "renumber", tmp_path / "older").out.replace("\n", " ")
    assert "0 rows of the same code as today, 1 of other code, no longer counted" in text


def test_merge(selector_command: Run, folder: Path, tmp_path: Path) -> None:
    other = rows({16: 0.9, 64: 0.1}, tmp_path / "other")
    into = tmp_path / "all"
    merged = selector_command("collect", "merge", folder, other, "--into", into, "--json").json()
    assert merged == {"into": str(into), "added": 7, "duplicates": 0, "repeated": 2}
    again = selector_command("collect", "merge", other, "--into", into)
    assert again.out == f"0 rows added to {into}, 3 there already\n"
    assert len(parts.part_paths(into)) == 1


def test_diff(selector_command: Run, folder: Path, tmp_path: Path) -> None:
    other = rows({16: 0.5, 32: 0.25, 64: 0.1}, tmp_path / "other")
    shown = selector_command("collect", "diff", folder, other, "--worst", 1, "--json").json()
    assert (shown["pairs"], shown["only_first"], shown["only_second"]) == (2, 1, 1)
    assert shown["groups"][-1] == {
        "target": "all",
        "kind": "all",
        "pairs": 2,
        "decided": 2,
        "winner_agreement": 0.5,
        "efficiency": pytest.approx((1 + 2**-0.5) / 2),
        "median_difference": 0.625,
        "worst_difference": 0.75,
    }
    assert [row["workload"] for row in shown["worst"]] == ["1x8x8x32 -> 16, 3x3 s1"]
    text = selector_command("collect", "diff", folder, other)
    assert text.code == 0
    assert "50.00%" in text.out
    assert f"2 in both, 1 in {folder} alone" in text.out.replace("\n", "")


def test_diff_of_nothing_in_common(selector_command: Run, folder: Path, tmp_path: Path) -> None:
    other = rows({64: 0.1}, tmp_path / "other")
    selector_command("collect", "diff", folder, other).assert_bad_input("have no pair of the same workload")


def test_plot(selector_command: Run, folder: Path, tmp_path: Path) -> None:
    files = selector_command("collect", "plot", folder, "--out", tmp_path / "plots", "--json").json()["files"]
    assert [Path(file).name for file in files] == ["log2-ratio.png", "interval-width.png", "wins-x86-64-v3.png"]
    for file in files:
        with Image.open(file) as image:
            assert image.convert("L").getextrema() == (0, 255)  # something is drawn
    empty = rows({}, tmp_path / "nothing")
    selector_command("collect", "plot", empty).assert_bad_input("no row to draw")


@pytest.mark.parametrize("command", ["status", "validate", "renumber", "plot", "diff", "merge"])
def test_missing_folder(selector_command: Run, command: str, tmp_path: Path) -> None:
    second = {"diff": [tmp_path], "merge": ["--into", tmp_path]}.get(command, [])
    outcome = selector_command("collect", command, tmp_path / "nothing", *second)
    outcome.assert_bad_input(f"there is no dataset folder {tmp_path / 'nothing'}")
