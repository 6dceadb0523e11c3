"""Coverage, validation and agreement of datasets, on rows made up for the purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selector.collect import parts
from selector.collect.quality import diff, status
from selector.collect.record import Measurement, Samples
from selector.collect.row import to_row
from selector.collect.store import Store
from selector.collect.synthetic import synthesize
from selector.collect.table import rows_to_table, to_table
from selector.collect.validate import Validation, validate
from selector.lowering import build
from selector.lowering.version import KERNEL_VERSION, code_hash
from selector.target import profile
from selector.workload import ConvWorkload
from tests.collect.rows import HOST, WORKLOAD, failed, measured

SMALL = ConvWorkload(1, 6, 6, 8, 16, 1, 1, out_dtype="uint8")


def frame(rows: Iterable[Measurement]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(to_table(rows)))


def dataset(folder: Path, rows: Iterable[Measurement]) -> Path:
    with Store.open(folder) as store:
        for row in rows:
            store.add(row)
    return folder


def test_status() -> None:
    two_threads = dataclasses.replace(WORKLOAD, threads=2)
    rows = [
        measured(0.5, channels=16, timestamp=1.0),
        measured(-0.25, channels=16, timestamp=2.0),  # with the one before: 0.125, 0.75 wide
        measured(0.75, channels=32),
        measured(3.0, channels=48, status="noisy"),
        failed(channels=64),
        failed(workload=two_threads),
        measured(target="x86-64-v2"),
    ]
    assert status(frame(rows)).to_dicts() == [
        _stratum("x86-64-v2", 1, rows=1, ok=1, used=1, pairs=1, int8_wins=1.0, median_abs_log2=0.5),
        _stratum(
            "x86-64-v3",
            1,
            rows=5,
            ok=3,
            noisy=1,
            error=1,
            used=3,
            pairs=2,
            int8_wins=1.0,
            median_abs_log2=(0.125 + 0.75) / 2,
            median_width=pytest.approx((0.04 + 0.75) / 2),
        ),
        _stratum("x86-64-v3", 2, rows=1, error=1, median_width=None),
    ]


def _stratum(target: str, threads: int, **changes: Any) -> dict[str, Any]:
    nothing = {"ok": 0, "noisy": 0, "error": 0, "used": 0, "pairs": 0, "int8_wins": None, "median_abs_log2": None}
    key = {"target": target, "kind": "dense", "threads": threads, "rows": 0}
    return {**key, **nothing, "median_width": pytest.approx(0.04), **changes}


def test_diff() -> None:
    first = [(1, 1.0), (2, -0.5), (3, 0.05), (4, 0.3), (5, 0.3)]
    second = [(1, 0.5), (2, 0.25), (3, -0.05), (4, 0.3), (6, 0.3)]
    other = measured(0.05, target="x86-64-v2")
    found = diff(
        frame([*(measured(ratio, channels=16 * n) for n, ratio in first), other]),
        frame([*(measured(ratio, channels=16 * n) for n, ratio in second), other]),
    )
    same = {"target": "x86-64-v2", "pairs": 1, "decided": 0, "winner_agreement": None, "efficiency": 1.0}
    lost = (1 - 2**-0.5) + (1 - 2**-0.05)  # in the first run, where the second has another winner
    differ = {"target": "x86-64-v3", "pairs": 4, "decided": 3, "winner_agreement": pytest.approx(2 / 3)}
    over_all = {**differ, "target": "all", "pairs": 5, "efficiency": pytest.approx(1 - lost / 5)}
    differ["efficiency"] = pytest.approx(1 - lost / 4)
    # differences 0.5, 0.75, 0.1 and 0
    assert found.groups.to_dicts() == [
        {**same, "kind": "dense", "median_difference": 0.0, "worst_difference": 0.0},
        {**same, "kind": "all", "median_difference": 0.0, "worst_difference": 0.0},
        {**differ, "kind": "dense", "median_difference": pytest.approx(0.3), "worst_difference": 0.75},
        {**differ, "kind": "all", "median_difference": pytest.approx(0.3), "worst_difference": 0.75},
        {**over_all, "kind": "all", "median_difference": pytest.approx(0.1), "worst_difference": 0.75},
    ]
    assert found.pairs.row(0) == (measured(channels=32).key, "x86-64-v3", "dense", -0.5, 0.25, 0.75)
    assert (found.only_first, found.only_second) == (1, 1)


def test_nothing_in_common() -> None:
    found = diff(frame([measured(channels=1)]), frame([measured(channels=2), failed(channels=1)]))
    assert found.groups.is_empty()
    assert (found.only_first, found.only_second) == (1, 1)


def test_valid_dataset(tmp_path: Path) -> None:
    rows = [measured(ratio, channels=n) for n, ratio in ((16, 0.5), (32, -0.3))]
    found = validate(dataset(tmp_path, rows))
    assert (found.files, found.rows, found.findings, found.valid) == (1, 2, (), True)


def test_remarks_on_a_valid_dataset(tmp_path: Path) -> None:
    rows = [
        measured(channels=1, host=dataclasses.replace(HOST, kernels=KERNEL_VERSION - 1)),
        measured(channels=2, status="noisy"),
        measured(channels=3, host=dataclasses.replace(HOST, emulated=True)),
        failed(channels=4),
        failed(channels=5),
        failed(channels=6, error="another"),
        measured(channels=7, reference_us=(5.0, 6.0)),
        measured(channels=7),
    ]
    found = validate(dataset(tmp_path, rows))
    assert found.valid
    assert _summary(found) == [
        ("note", "repeated keys", 1),
        ("warning", "errors", 3),
        ("warning", "noise", 1),
        ("warning", "drift", 1),
        ("warning", "emulated", 1),
        ("warning", "kernels", 1),
    ]
    assert "3 of 8 rows (37.5%) failed; most often (2): it broke" in found.findings[1].text


def test_rows_of_unknown_kernels(tmp_path: Path) -> None:
    found = validate(dataset(tmp_path, [measured(host=dataclasses.replace(HOST, kernels=KERNEL_VERSION + 1))]))
    assert not found.valid
    assert _summary(found) == [("error", "kernels", 1)]
    assert f"this version (kernels {KERNEL_VERSION}) does not know" in found.findings[0].text


def test_reference_that_wanders_during_a_run(tmp_path: Path) -> None:
    rows = [measured(channels=n, reference_us=(n, n)) for n in range(5, 11)]
    assert _summary(validate(dataset(tmp_path, rows))) == [("note", "drift", 6)]


def test_broken_rows(tmp_path: Path) -> None:
    good = [to_row(measured(channels=n)) for n in range(1, 10)]
    changes: list[dict[str, Any]] = [
        {"key": "0" * 16},
        {"kind": "1x1"},
        {"in_channels": 0},
        {"log2_ratio": 0.51},
        {"log2_low": 0.6},
        {"int8_warm_us": None},
        {"int16_warm_us": [1.0]},
        {"int8_warm_us": [8.0, 0.0, 8.0]},
    ]
    broken = [{**row, **change} for row, change in zip(good, changes, strict=False)]
    parts.write_parts(tmp_path, rows_to_table([*broken, good[-1]]))
    found = validate(tmp_path)
    assert _summary(found) == [("error", "identity", 3), ("error", "samples", 5)]
    assert not found.valid
    assert "in_channels must be at least 1, got 0" in found.findings[0].text
    assert "log2 ratio 0.5100, but 0.5000 by the samples" in found.findings[1].text
    assert "and 2 more" in found.findings[1].text


def test_broken_files(tmp_path: Path) -> None:
    for channels in (1, 2, 3):
        dataset(tmp_path, [measured(channels=channels)])
    cut, copied, kept = parts.part_paths(tmp_path)
    elsewhere = tmp_path / "target=elsewhere" / copied.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(copied.read_bytes())
    cut.write_bytes(b"PAR1")
    found = validate(tmp_path)
    assert _summary(found) == [("error", "place", 1), ("error", "readable", 1), ("warning", "duplicate ids", 1)]
    assert f"cannot read {cut}" in found.findings[1].text
    assert (found.files, found.rows) == (4, 2)
    assert kept.exists()


def test_kernels_built_again(tmp_path: Path) -> None:
    def row(workload: ConvWorkload, **codes: str) -> Measurement:
        constants, _ = synthesize(workload, seed=3)
        samples = {}
        for name in ("int8", "int16"):
            kernel = build(workload, constants, profile("x86-64-v3"), name)
            samples[name] = Samples(kernel.name, codes.get(name, code_hash(kernel)), 1, (8.0,), ())
        return measured(0.0, workload=workload, seed=3, **samples)

    rows = [row(dataclasses.replace(SMALL, in_channels=channels)) for channels in (8, 16, 24)]
    same = validate(dataset(tmp_path / "same", rows), rebuild=2)
    assert (same.rebuilt, _summary(same)) == (2, [])
    changed = validate(dataset(tmp_path / "changed", [*rows, row(SMALL, int16="0" * 16)]), rebuild=9)
    assert (changed.rebuilt, _summary(changed)[-1]) == (4, ("error", "rebuild", 1))
    assert "int16 of 1x6x6x8 -> 16, 1x1 s1 is " in changed.findings[-1].text
    assert "was 0000000000000000" in changed.findings[-1].text


def _summary(found: Validation) -> list[tuple[str, str, int]]:
    return [(finding.severity, finding.check, finding.count) for finding in found.findings]
