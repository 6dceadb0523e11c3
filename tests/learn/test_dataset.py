"""Measurements to rows: what is left out, and how repetitions are merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selector import profiles
from selector.collect.record import DatasetError
from selector.features import NAMES
from selector.learn import dataset
from selector.target import profile
from selector.workload import ConvWorkload
from tests.learn.frames import failed, frame, measurement, measurements

WORK = ConvWorkload(1, 14, 14, 64, 64, 3, 3, padding=(1, 1, 1, 1))


def test_errors_and_emulated_rows_never_enter() -> None:
    rows = [
        measurement(WORK, "x86-64", 0.5),
        measurement(replace(WORK, threads=2), "x86-64", 0.25, emulated=True),
        failed(WORK, "x86-64-v2"),
        measurement(WORK, "x86-64-v3", 0.1, status="noisy"),
    ]
    data = dataset.from_frame(frame(rows))
    assert data.targets.tolist() == ["x86-64"]


def test_profiles_in_place_of_the_stored_ones(tmp_path: Path) -> None:
    data = dataset.from_frame(frame([measurement(WORK, "x86-64", 0.5), measurement(WORK, "x86-64-v3", 0.1)]))
    names = ("x86-64", "x86-64-v3")
    for name in names:
        found = profiles.read(profiles.modelled_folder() / f"{name}.json")
        profiles.write(replace(found, cores=77, rates=replace(found.rates, dram_gbs=found.rates.l1_gbs)), tmp_path)
    other = data.with_profiles(tmp_path)
    for (_, changed), (_, kept) in zip(other.by_profile(), data.by_profile(), strict=True):
        assert changed.rates is not None
        assert changed.rates.dram_gbs == changed.rates.l1_gbs
        assert changed.cores == kept.cores != 77
    bound = NAMES.index("int16_bound")
    assert (other.features[:, bound] <= data.features[:, bound]).all()
    np.testing.assert_array_equal(other.take(np.array([1])).features, other.features[1:])
    assert other.digest == data.digest
    (tmp_path / "x86-64.json").unlink()
    assert list(data.with_profiles(tmp_path).rates) == ["x86-64-v3"]
    (tmp_path / "x86-64-v3.json").unlink()
    with pytest.raises(profiles.ProfileError, match="no profile of x86-64, x86-64-v3 in"):
        data.with_profiles(tmp_path)


def test_rows_of_another_cpu_are_no_repetitions() -> None:
    stored = profiles.find("x86-64-v3", profile("x86-64-v3").features)
    assert stored is not None
    rows = [measurement(WORK, "x86-64-v3", 0.1), measurement(WORK, "x86-64-v3", 0.3, cpu=stored.rates.source)]
    found = dataset.from_frame(frame(rows))
    assert found.targets.tolist() == ["x86-64-v3", "x86-64-v3"]
    assert sorted(zip(found.cpus, found.log2_ratio, strict=True)) == [
        (stored.rates.source, 0.3),
        ("Imaginary CPU", 0.1),
    ]
    caches = {str(found.cpus[row]): known.l2_bytes for rows, known in found.by_profile() for row in rows}
    assert caches == {"Imaginary CPU": profile("x86-64-v3").l2_bytes, stored.rates.source: stored.l2_bytes}


def test_repetitions_become_one_row_as_wide_as_their_disagreement() -> None:
    rows = [
        measurement(WORK, "x86-64", ratio, networks=(name,)) for ratio, name in ((0.1, "a"), (0.2, "b"), (0.6, "a"))
    ]
    data = dataset.from_frame(frame(rows))
    assert len(data) == 1
    assert data.log2_ratio[0] == pytest.approx(0.2)
    assert data.width[0] == pytest.approx(0.5)
    assert data.networks == (frozenset({"a", "b"}),)


def test_order_of_files_does_not_matter() -> None:
    rows = measurements(12)
    one, other = dataset.from_frame(frame(rows)), dataset.from_frame(frame(rows[::-1]))
    assert one.digest == other.digest
    np.testing.assert_array_equal(one.log2_ratio, other.log2_ratio)
    changed = dataset.from_frame(frame([replace(rows[0], log2_ratio=3.0), *rows[1:]]))
    assert changed.digest != one.digest


def test_a_shape_leaves_out_types_and_threads() -> None:
    works = [WORK, replace(WORK, threads=2), replace(WORK, weight_bound=1), replace(WORK, in_channels=32)]
    data = dataset.from_frame(frame([measurement(work, "x86-64", 0.0) for work in works]))
    assert len(np.unique(data.shapes)) == 2


def test_take_keeps_columns_together() -> None:
    data = dataset.from_frame(frame(measurements(6)))
    rows = np.array([3, 1])
    part = data.take(rows)
    assert part.workloads == (data.workloads[3], data.workloads[1])
    np.testing.assert_array_equal(part.features, data.features[rows])
    np.testing.assert_array_equal(part.targets, data.targets[rows])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent"):
        dataset.load([tmp_path / "absent"])
