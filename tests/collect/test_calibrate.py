"""Calibration: the structure of what it finds, the loops it times, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from selector import cpuinfo, profiles
from selector.collect import calibrate as module
from selector.collect.calibrate import calibrate, read_function
from selector.collect.row_kernels import usable_rows
from selector.lowering.pipeline import NAME
from selector.target import NotMeasurable, TargetProfile, profile, resolve


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows, small reads."""
    monkeypatch.setattr(module, "usable_rows", lambda target: usable_rows(target)[-2:])
    monkeypatch.setattr(module, "_read_sizes", lambda target: {"l1": 4096, "l2": 8192, "dram": 9999, "dram_all": 9999})


def test_structure(short: None) -> None:
    done: list[float] = []
    found = calibrate("native", max_seconds=0.05, progress=done.append)
    wanted = profile("native")
    assert found.matches(wanted.name, wanted.features)
    assert (found.arch, found.cores, found.l2_bytes) == (wanted.arch, wanted.cores, wanted.l2_bytes)
    rates = found.rates
    assert (rates.kind, rates.source) == ("measured", cpuinfo.model())
    assert [name for name, _ in rates.dots] == [name for name, _ in rates.loops]
    assert [name for name, _ in rates.dots] == [row.name for row in usable_rows(wanted)[-2:]]
    assert all(0 < loop <= peak for (_, loop), (_, peak) in zip(rates.loops, rates.dots, strict=True))
    assert rates.l3_gbs == rates.dram_gbs > 0, "no third level: what memory does"
    assert done[-1] == 1.0
    assert "interleaved samples" in found.note
    assert profiles.StoredProfile.from_dict(found.to_dict()) == found


def test_refuses_targets_of_other_machines() -> None:
    other = "cortex-a72" if profile("native").arch == "x86_64" else "x86-64"
    with pytest.raises(NotMeasurable, match=f"calibrate on a {other}, or describe it"):
        calibrate(other)


@pytest.mark.parametrize("tasks", [1, 2])
def test_reader_reads_every_word_as_often_as_it_says(tasks: int) -> None:
    words, lanes, repeats = 3 * 4 * 8 * tasks, 4, 5
    func = read_function(words, lanes, repeats, tasks)
    read = tvm.compile(tvm.IRModule({"read": func}), target=resolve(), tir_pipeline=NAME)["read"]
    data = np.random.default_rng(0).integers(-1000, 1000, words).astype(np.int32)
    sums = tvm.runtime.tensor(np.zeros(tasks * lanes, np.int32))
    read(tvm.runtime.tensor(data), sums)
    assert np.array_equal(sums.numpy().reshape(tasks, lanes), repeats * data.reshape(tasks, -1, lanes).sum(axis=1))


def test_buffers_fill_half_of_a_cache() -> None:
    here = profile("native")
    sizes = module._read_sizes(here)
    assert sizes["l1"] == here.l1_bytes // 2
    assert sizes["dram"] > 2 * max(here.l2_bytes, here.l3_bytes) or sizes["dram"] == 1 << 30
    assert ("l3" in sizes) == (here.l3_bytes > 0)


def test_rows_of_a_target_are_those_of_both_lowerings() -> None:
    target: TargetProfile = profile("x86-64-v3")
    assert {row.lowering for row in usable_rows(target)} == {"int8", "int16"}
    assert all(target.has(*row.features) for row in usable_rows(target))
