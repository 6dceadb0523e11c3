"""The dataset of measurements: a folder of Parquet files, and a journal that keeps every finished row.

A row goes into an SQLite journal first and is durable from then on; batches of rows move on to Parquet files, one for
each target (see ``selector.collect.parts``).  A crash at any instant loses no finished row: rows that were written to a
file and not yet deleted from the journal are read once.  One process has a store open at a time, held off by a lock
file; any number may read meanwhile, or add rows to the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pyarrow as pa

from selector.collect import journal, parts
from selector.collect.journal import Journal, clear_errors
from selector.collect.parts import SchemaMismatch
from selector.collect.record import DatasetError, Measurement, Status
from selector.collect.row import Row, to_row
from selector.collect.table import SCHEMA, from_table, rows_to_table

if TYPE_CHECKING:
    import polars

JOURNAL = journal.NAME
LOCK = ".journal.lock"

_STATUSES: tuple[Status, ...] = ("ok", "noisy", "error")
_READ_ATTEMPTS = 5


class StoreLocked(DatasetError):
    """Another process writes to the folder."""


class Store:
    """A dataset open for writing; ``with Store.open(folder) as store: store.add(measurement)``."""

    def __init__(self, folder: Path, batch: int, lock: int, pending: Journal) -> None:
        self.folder = folder
        self.batch = batch  # rows in the journal at which they are written to files
        self._lock = lock
        self._journal = pending

    @classmethod
    def open(cls, folder: Path | str, *, batch: int = 200) -> Store:
        """Open a folder, made if it is missing, and finish what a killed writer left in its journal.

        Raises StoreLocked, StoreFull, and DatasetError where the folder cannot be written or its rows are of another
        schema version.
        """
        folder = Path(folder)
        with clear_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                lock = _acquire(folder)
                undo.callback(os.close, lock)
                store = cls(folder, batch, lock, undo.enter_context(Journal(folder)))
                parts.remove_temporary(folder)
                store.flush()
                undo.pop_all()
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, measurement: Measurement) -> None:
        """Keep a row for good: at return it survives a crash.  Adding an id again changes nothing.

        Raises StoreFull; the row is then kept if only writing the batch to files failed.
        """
        rows_to_table([to_row(measurement)])  # what could not be written later is refused now
        self._journal.add(measurement)
        if len(self._journal) >= self.batch:
            self.flush()

    def flush(self) -> None:
        """Move the rows of the journal to files.  Raises StoreFull, which leaves them in the journal."""
        with clear_errors(self.folder):
            table = _journal_table(self.folder, self._journal.rows())
            if len(table):
                parts.write_parts(self.folder, table)
                self._journal.remove(table["id"].to_pylist())

    def finished(self, statuses: Container[Status] = _STATUSES, cpu: str | None = None) -> set[str]:
        """Keys whose latest row has one of the statuses; by default any: a noisy row is one that was given up.

        ``cpu``: model name of the one whose rows count; None: those of all.
        """
        table = _load(self.folder, ["key", "status", "timestamp", "cpu"])
        columns = (table[name].to_pylist() for name in ("timestamp", "key", "status", "cpu"))
        rows = sorted(row for row in zip(*columns, strict=True) if cpu in (None, row[-1]))
        latest = {key: status for _, key, status, _ in rows}
        return {key for key, status in latest.items() if status in statuses}

    def rows(self) -> polars.DataFrame:
        """Every row, those of the journal too; see ``read``."""
        return read(self.folder)

    def close(self) -> None:
        """Write what is pending and let others write.  Raises StoreFull, after letting go all the same."""
        try:
            self.flush()
        finally:
            self._journal.close()
            os.close(self._lock)


def read(
    folder: Path | str,
    columns: Sequence[str] | None = None,
    examine: Callable[[Path, pa.Table], None] = lambda path, table: None,
) -> polars.DataFrame:
    """All rows of a dataset, or some of their columns, each id once, oldest first; also while another process writes.

    ``examine`` gets each file with its rows, and may raise, as ``selector.collect.check.require_sound`` does.
    Raises DatasetError where there is no such folder, UnreadablePart, SchemaMismatch.
    """
    import polars as pl

    table = _load(Path(folder), columns, examine)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def measurements(folder: Path | str) -> list[Measurement]:
    """All rows of a dataset as records, as ``read`` gives them."""
    return from_table(_load(Path(folder)))


def compact(folder: Path | str) -> int:
    """Merge the files of each target into one; returns how many files are gone.

    The new file is complete before the old ones go, and rows that are in both for a moment are read once.
    """
    with Store.open(existing_folder(Path(folder))) as store, clear_errors(store.folder):
        before = parts.part_paths(store.folder)
        for target in sorted({path.parent for path in before}):
            old = [path for path in before if path.parent == target]
            if len(old) == 1:
                continue
            rows = pa.concat_tables(map(parts.read_part, old))
            new = parts.write_parts(store.folder, _oldest_first(parts.drop_duplicates(rows)))
            for path in set(old).difference(new):
                path.unlink()
        return len(before) - len(parts.part_paths(store.folder))


@dataclass(frozen=True, slots=True)
class Merged:
    """What ``merge`` did."""

    added: int  # rows
    duplicates: int  # rows that were there already, by id
    repeated: int  # added rows whose key was there already for their CPU: kept, as repetitions


def merge(sources: Sequence[Path | str], into: Path | str) -> Merged:
    """Copy the rows of several datasets into one.

    Raises what ``read`` raises and DatasetError for a file with a row that ``selector.collect.check`` refuses, before
    anything is written, and StoreFull.  Merging again adds nothing.
    """
    from selector.collect.check import require_sound  # it loads TVM, which writing rows does without

    tables = [_load(Path(source), examine=require_sound) for source in sources]
    with Store.open(into) as store:
        there = _load(store.folder, ["key", "cpu"])
        known, keys = set(there["id"].to_pylist()), _keys(there)
        given = pa.concat_tables([SCHEMA.empty_table(), *tables])
        unique = parts.drop_duplicates(given)
        new = unique.filter(pa.array([row not in known for row in unique["id"].to_pylist()], pa.bool_()))
        with clear_errors(store.folder):
            parts.write_parts(store.folder, _oldest_first(new))
    fresh = _keys(new) - keys
    return Merged(added=len(new), duplicates=len(given) - len(new), repeated=len(new) - len(fresh))


def _keys(table: pa.Table) -> set[tuple[str, str]]:
    """What was measured, and on which CPU."""
    return set(zip(table["key"].to_pylist(), table["cpu"].to_pylist(), strict=True))


def _load(
    folder: Path,
    columns: Sequence[str] | None = None,
    examine: Callable[[Path, pa.Table], None] = lambda path, table: None,
) -> pa.Table:
    """Rows of files and journal, each id once, oldest first; ``columns`` adds ``id`` and ``timestamp`` at the end."""
    existing_folder(folder)
    names = None if columns is None else list(dict.fromkeys([*columns, "id", "timestamp"]))
    for attempt in range(_READ_ATTEMPTS):
        try:
            pending = pending_table(folder)  # first: rows move from the journal to files, not the other way
            paths = parts.part_paths(folder)
            tables = [parts.read_part(path, names) for path in paths]
        except FileNotFoundError:  # a compaction has put the rows elsewhere
            if attempt == _READ_ATTEMPTS - 1:
                raise
        else:
            break
    tables.append(pending if names is None else pending.select(names))
    for path, table in zip([*paths, folder / JOURNAL], tables, strict=True):
        examine(path, table)
    return _oldest_first(parts.drop_duplicates(pa.concat_tables(tables)))


def pending_table(folder: Path) -> pa.Table:
    """Rows of the journal alone, in the order in which they were added.  Raises DatasetError, SchemaMismatch."""
    return _journal_table(folder, journal.read(folder))


def _journal_table(folder: Path, rows: Sequence[Row]) -> pa.Table:
    for row in rows:
        parts.check_version(folder / JOURNAL, row.get("schema_version"))
    try:
        return rows_to_table(rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise SchemaMismatch(f"{folder / JOURNAL} holds rows that are not Selector's: {reason:.300}") from None


def _oldest_first(table: pa.Table) -> pa.Table:
    return table.sort_by([("timestamp", "ascending"), ("id", "ascending")])


def existing_folder(folder: Path) -> Path:
    """The folder; raises DatasetError where there is none."""
    if not folder.is_dir():
        raise DatasetError(f"there is no dataset folder {folder}: give the folder that 'selector collect' wrote")
    return folder


def _acquire(folder: Path) -> int:
    """File descriptor that holds the lock; the kernel lets go of it when the process dies, however it dies."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise StoreLocked(
            f"{folder} is being written by process {holder}: wait for it, or collect into another folder and merge"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock
