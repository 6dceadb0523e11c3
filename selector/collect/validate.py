"""Checking a dataset: whether every file can be read, every row says what it should, and the kernels are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from selector.collect import check, parts
from selector.collect.rebuild import sample, wrong
from selector.collect.record import DatasetError
from selector.collect.store import JOURNAL, existing_folder, pending_table
from selector.collect.table import SCHEMA
from selector.lowering.version import KERNEL_VERSION
from selector.wording import counted

Severity = Literal["error", "warning", "note"]

DRIFT = 0.1  # relative change of the reference kernel during one row, and its spread over a run, that are remarked
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: errors make the data unfit for use, warnings want a look, notes inform."""

    severity: Severity
    check: str
    text: str  # one line
    count: int  # of files or rows concerned


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of ``validate``."""

    files: int
    rows: int  # of the readable files and of the journal
    rebuilt: int  # rows whose kernels were built again
    findings: tuple[Finding, ...]

    @property
    def valid(self) -> bool:
        """Whether there is no error."""
        return all(finding.severity != "error" for finding in self.findings)


def validate(
    folder: Path | str, *, rebuild: int = 0, seed: int = 0, progress: Callable[[float], None] | None = None
) -> Validation:
    """Check every file and row of a dataset.

    ``rebuild``: build the kernels of that many rows of each target, drawn at random by ``seed``, and compare the
    hashes of their TIR with those in the rows (``selector.collect.rebuild``).  ``progress`` gets the share of the
    rebuilding that is done.

    Raises DatasetError where there is no such folder.
    """
    folder = existing_folder(Path(folder))
    paths = parts.part_paths(folder)
    tables, findings = [SCHEMA.empty_table()], []
    for path in [folder / JOURNAL, *paths]:
        try:
            table = parts.read_part(path) if path in paths else pending_table(folder)
        except DatasetError as error:
            findings.append(Finding("error", "readable", str(error), 1))
            continue
        tables.append(table)
        if path in paths:
            findings += _place(path, table)
    everything = pa.concat_tables(tables)
    frame = _frame(parts.drop_duplicates(everything))
    findings += _duplicates(len(everything) - len(frame))
    for findings_of in _CHECKS:
        findings += findings_of(frame)
    rows = sample(frame, rebuild, seed) if rebuild else frame.clear()
    what = f"kernels of {counted(len(rows), 'row')} are not the measured ones"
    findings += _examples("error", "rebuild", what, wrong(rows, progress))
    return Validation(len(paths), len(frame), len(rows), tuple(findings))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _place(path: Path, table: pa.Table) -> Iterator[Finding]:
    folders = {parts.target_folder(target) for target in table["target"].unique().to_pylist()}
    if folders - {path.parent.name}:
        yield Finding("error", "place", f"{path} holds rows that belong into {', '.join(sorted(folders))}", 1)


def _duplicates(count: int) -> Iterator[Finding]:
    if count:
        text = (
            f"{counted(count, 'row')} there twice, with the same id: each is read once, and `compact` or `merge` drops "
            "the other"
        )
        yield Finding("warning", "duplicate ids", text, count)


def _repetitions(frame: pl.DataFrame) -> Iterator[Finding]:
    repeated = len(frame) - frame["key"].n_unique()
    if repeated:
        yield Finding(
            "note",
            "repeated keys",
            f"{counted(repeated, 'row')} of a workload that others have on the same target",
            repeated,
        )


def _rows(frame: pl.DataFrame) -> Iterator[Finding]:
    """Key and kind follow from the workload, ratio and interval from the samples."""
    contradicting: dict[check.Check, list[str]] = {"identity": [], "samples": []}
    for row in frame.iter_rows(named=True):
        found = check.problem(row)
        if found:
            contradicting[found[0]].append(f"{row['id']}: {found[1]}")
    yield from _examples("error", "identity", "rows contradict their workload", contradicting["identity"])
    yield from _examples("error", "samples", "measured rows contradict their samples", contradicting["samples"])


def _errors(frame: pl.DataFrame) -> Iterator[Finding]:
    failed = frame.filter(pl.col("status") == "error")["error"].to_list()
    if failed:
        text, count = Counter(failed).most_common(1)[0]
        yield Finding("warning", "errors", f"{_share(failed, frame)} failed; most often ({count}): {text}", len(failed))


def _noise(frame: pl.DataFrame) -> Iterator[Finding]:
    noisy = frame.filter(pl.col("status") == "noisy")
    if len(noisy):
        text = f"{_share(noisy, frame)} stayed noisy and are left out of every figure"
        yield Finding("warning", "noise", text, len(noisy))


def _drift(frame: pl.DataFrame) -> Iterator[Finding]:
    """The reference kernel takes as long after a row as before it, and as long at the end of a run as at its start."""
    before, after = pl.col("reference_before_us"), pl.col("reference_after_us")
    timed = frame.filter((before > 0) & (after > 0))
    drifting = timed.filter((after / before - 1).abs() > DRIFT)
    if len(drifting):
        text = f"{_share(drifting, timed)} saw the reference kernel change by more than {DRIFT:.0%} meanwhile"
        yield Finding("warning", "drift", text, len(drifting))
    spread = (before.quantile(0.9) / before.quantile(0.1) - 1).alias("spread")
    runs = timed.group_by("run", "target").agg(spread, pl.len().alias("rows")).filter(pl.col("spread") > DRIFT)
    for run in runs.sort("run", "target").iter_rows(named=True):
        text = (
            f"run {run['run'] or '(unnamed)'} on {run['target']}: P90 of the reference is {run['spread']:.0%} above P10"
        )
        yield Finding("note", "drift", text, run["rows"])


def _emulated(frame: pl.DataFrame) -> Iterator[Finding]:
    emulated = frame.filter(pl.col("emulated"))
    if len(emulated):
        text = f"{_share(emulated, frame)} were emulated: their times mean nothing and are used for nothing"
        yield Finding("warning", "emulated", text, len(emulated))


def _kernels(frame: pl.DataFrame) -> Iterator[Finding]:
    older, newer = (
        frame.filter(chosen) for chosen in (pl.col("kernels") < KERNEL_VERSION, pl.col("kernels") > KERNEL_VERSION)
    )
    if len(older):
        text = f"{_share(older, frame)} are of older kernels and do not count: `selector collect renumber`"
        yield Finding("warning", "kernels", text, len(older))
    if len(newer):
        text = f"{_share(newer, frame)} are of kernels that this version (kernels {KERNEL_VERSION}) does not know"
        yield Finding("error", "kernels", text, len(newer))


_CHECKS = (_repetitions, _rows, _errors, _noise, _drift, _emulated, _kernels)


def _examples(severity: Severity, check: str, what: str, wrong: list[str]) -> Iterator[Finding]:
    if wrong:
        more = f"; and {len(wrong) - _EXAMPLES} more" if len(wrong) > _EXAMPLES else ""
        yield Finding(severity, check, f"{len(wrong)} {what}: {'; '.join(wrong[:_EXAMPLES])}{more}", len(wrong))


def _share(part: pl.DataFrame | list[str], whole: pl.DataFrame) -> str:
    return f"{len(part)} of {len(whole)} rows ({len(part) / len(whole):.1%})"
