"""The journal alone: rows by key, two writers at once, and no package that compiling lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from selector.collect import journal
from selector.collect.journal import Journal
from selector.collect.record import DatasetError
from selector.collect.row import from_row
from tests.collect.rows import measured


def test_rows_by_key(tmp_path: Path) -> None:
    rows = [measured(channels=n, id=name) for n, name in ((1, "a"), (2, "b"), (1, "c"))]
    with Journal(tmp_path / "new") as pending:
        for row in (*rows, rows[0]):
            pending.add(row)
        assert len(pending) == 3
        assert [from_row(row) for row in pending.find(rows[0].key)] == [rows[0], rows[2]]
        assert pending.find("none") == []
        pending.remove(["b", "unknown"])
        assert [row["id"] for row in pending.rows()] == ["a", "c"]
    assert [row["id"] for row in journal.read(tmp_path / "new")] == ["a", "c"]
    assert journal.read(tmp_path) == []


def test_two_writers(tmp_path: Path) -> None:
    with Journal(tmp_path) as first, Journal(tmp_path) as second:
        first.add(measured(id="a"))
        second.add(measured(id="b"))
        assert [row["id"] for row in first.rows()] == [row["id"] for row in second.rows()] == ["a", "b"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot write .*file: File exists"):
        Journal(tmp_path / "file")
