"""The journal of a dataset: an SQLite file that has finished rows as JSON until they move on to Parquet files.

Several processes may add rows at once.  Nothing here needs pyarrow: policy ``measure`` keeps its results in a journal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from selector.collect.record import DatasetError, Measurement
from selector.collect.row import Row, to_row

NAME = ".journal.sqlite"

_PATIENCE = 30.0  # seconds to wait for another process that writes
_TABLE = "CREATE TABLE IF NOT EXISTS pending (id TEXT PRIMARY KEY, row TEXT NOT NULL)"
_INDEX = "CREATE INDEX IF NOT EXISTS by_key ON pending (json_extract(row, '$.key'))"


class StoreFull(RuntimeError):
    """The disk is full; every row whose ``add`` returned is kept."""


class Journal:
    """The journal of a folder, open for writing; a context manager.

    The folder is made if it is missing.  Every method raises StoreFull, or DatasetError where the folder cannot be
    written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with clear_errors(folder), contextlib.ExitStack() as undo:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / NAME, timeout=_PATIENCE)
            undo.callback(self._database.close)
            self._database.execute("PRAGMA synchronous = EXTRA")  # a commit outlives a power failure
            self._database.execute(_TABLE)
            self._database.execute(_INDEX)
            undo.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._database.execute("SELECT count(*) FROM pending").fetchone()[0]

    def add(self, measurement: Measurement) -> None:
        """Keep a row for good: at return it survives a crash.  Adding an id again changes nothing."""
        text = json.dumps(to_row(measurement))
        with clear_errors(self._folder), self._database:
            self._database.execute("INSERT OR IGNORE INTO pending VALUES (?, ?)", (measurement.id, text))

    def rows(self) -> list[Row]:
        """All rows, in the order in which they were added."""
        with clear_errors(self._folder):
            return _rows(self._database, self._folder)

    def find(self, key: str) -> list[Row]:
        """The rows of one workload on one target, by ``Measurement.key``, in the order in which they were added."""
        with clear_errors(self._folder):
            return _rows(self._database, self._folder, "WHERE json_extract(row, '$.key') = ?", key)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget rows."""
        with clear_errors(self._folder), self._database:
            self._database.executemany("DELETE FROM pending WHERE id = ?", ((row,) for row in ids))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def read(folder: Path) -> list[Row]:
    """The rows in a folder's journal, in the order in which they were added, also while others write.

    Raises DatasetError.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return []
    if not path.is_file():  # opening a pipe would wait for ever
        raise DatasetError(f"cannot read the journal {path}: not a regular file")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as database:
            kind = database.execute("SELECT type FROM sqlite_master WHERE name = 'pending'").fetchone()
            if kind is None:
                return []  # another process is about to make it
            if kind != ("table",):  # a view computes whatever its author likes
                raise DatasetError(f"cannot read the journal {path}: it is not one of Selector's")
            return _rows(database, folder)
    except sqlite3.Error as error:
        raise DatasetError(f"cannot read the journal {path}: {error}") from error


@contextlib.contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Errors of the disk and of SQLite as StoreFull or DatasetError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error)
        if full:
            raise StoreFull(
                f"no space left for {folder}: every row that was finished is kept; free space and run the same again"
            ) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"cannot write {folder}: {reason}") from error


def _rows(database: sqlite3.Connection, folder: Path, where: str = "", *values: str) -> list[Row]:
    """Raises DatasetError for a row that is no JSON object."""
    found = database.execute(f"SELECT id, row FROM pending {where} ORDER BY rowid", values)
    rows = []
    for name, text in found:
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            raise DatasetError(
                f"row {name!r:.80} of the journal {folder / NAME} is no JSON object: delete it"
            ) from None
        rows.append(row)
    return rows
