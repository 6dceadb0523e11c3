"""Rows of older kernels: told by building them again, and carried over where the code is the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from selector.collect import rebuild
from selector.collect.record import DatasetError, Measurement
from selector.collect.store import Store, read
from selector.collect.synthetic import synthesize
from selector.collect.table import to_table
from selector.lowering import build
from selector.lowering.version import KERNEL_VERSION, code_hash
from selector.target import profile
from selector.workload import ConvWorkload
from tests.collect.rows import HOST, failed, measured

WORK = ConvWorkload(1, 6, 6, 8, 16, 1, 1, out_dtype="uint8")
OLD = dataclasses.replace(HOST, kernels=KERNEL_VERSION - 1)


def frame(*rows: Measurement) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(to_table(rows)))


def row(work: ConvWorkload = WORK, *, old: bool = False, id: str = "", **codes: str) -> Measurement:
    """A row with the code that the present sources make, but for ``codes``, by lowering."""
    made = measured(workload=work, host=OLD if old else HOST)
    constants, _ = synthesize(work, made.seed)
    samples = {}
    for name in ("int8", "int16"):
        code = codes.get(name) or code_hash(build(work, constants, profile(made.target), name))
        samples[name] = dataclasses.replace(getattr(made, name), code=code)
    return dataclasses.replace(made, **samples, **({"id": id} if id else {}))


def test_rows_of_todays_kernels_pass() -> None:
    rebuild.require_todays(frame(row(), row(dataclasses.replace(WORK, out_channels=32)), failed()))


def test_one_row_that_comes_out_differently_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"int16 of 1x6x6x8 -> 16, 1x1 s1 is .*, was 0{16}.*raise KERNEL_VERSION"):
        rebuild.require_todays(frame(row(int16="0" * 16)))


def test_rows_that_do_not_count_are_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(rebuild, "build")
    rebuild.require_todays(frame(row(old=True, int8="0" * 16), failed()))


def test_renumber(tmp_path: Path) -> None:
    other = dataclasses.replace(WORK, out_channels=32)
    rows = [
        row(id="today"),
        row(old=True, id="same"),
        row(old=True, id="same again"),
        row(old=True, id="changed", int8="0" * 16),
        row(other, old=True, id="another"),
        failed(host=OLD, id="failed"),
    ]
    with Store.open(tmp_path) as store:
        for each in rows:
            store.add(each)
    before = read(tmp_path)
    seen: list[float] = []
    done = rebuild.renumber(tmp_path, seen.append)
    assert (done.kept, done.renumbered, done.changed) == (1, 3, 1)
    assert seen[-1] == 1
    after = read(tmp_path)
    kernels = dict(after.select("id", "kernels").iter_rows())
    todays = {name for name, number in kernels.items() if number == KERNEL_VERSION}
    assert todays == {"today", "same", "same again", "another"}
    assert after.drop("kernels").equals(before.drop("kernels"))
    again = rebuild.renumber(tmp_path)
    assert (again.kept, again.renumbered, again.changed) == (4, 0, 1)


def test_renumber_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset folder"):
        rebuild.renumber(tmp_path / "absent")
