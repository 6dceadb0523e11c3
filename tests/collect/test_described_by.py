"""Whose kernels a data set is of: today's, or those of the sources that measured it."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from selector.collect import validate
from selector.collect.record import Measurement
from selector.collect.synthetic import synthesize
from selector.collect.table import to_table
from selector.collect.validate import described_by
from selector.lowering import build
from selector.lowering.fingerprint import code_hash, kernel_fingerprint
from selector.target import profile
from selector.workload import ConvWorkload
from tests.collect.rows import HOST, failed, measured

WORK = ConvWorkload(1, 6, 6, 8, 16, 1, 1, out_dtype="uint8")
OLD = HOST.fingerprint


def frame(*rows: Measurement) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(to_table(rows)))


def row(fingerprint: str, work: ConvWorkload = WORK, **codes: str) -> Measurement:
    """A row with the code that the present sources make, but for ``codes``, by lowering."""
    made = measured(workload=work, host=dataclasses.replace(HOST, fingerprint=fingerprint))
    constants, _ = synthesize(work, made.seed)
    samples = {}
    for name in ("int8", "int16"):
        code = codes.get(name) or code_hash(build(work, constants, profile(made.target), name))
        samples[name] = dataclasses.replace(getattr(made, name), code=code)
    return dataclasses.replace(made, **samples)


def test_rows_of_the_present_sources_are_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(validate, "_rebuild")
    assert described_by(frame(row(kernel_fingerprint(), int8="0" * 16))) == {kernel_fingerprint()}


def test_rows_that_come_out_the_same_are_of_the_present_sources() -> None:
    other = dataclasses.replace(WORK, out_channels=32)
    assert described_by(frame(row(OLD), row(kernel_fingerprint(), other))) == {kernel_fingerprint()}


def test_one_row_that_comes_out_differently_tells() -> None:
    assert described_by(frame(row(OLD, int16="0" * 16))) == {OLD}


def test_rows_without_code_tell_nothing() -> None:
    assert described_by(frame(failed())) == {OLD}
