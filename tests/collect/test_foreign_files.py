"""Datasets from strangers: merging takes sound rows and refuses others, and then leaves the folder as it was.

``SELECTOR_TEST_FOREIGN`` sets how many are made.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.collect import journal, parts
from selector.collect.check import problem
from selector.collect.journal import Journal
from selector.collect.record import DatasetError
from selector.collect.row import to_row
from selector.collect.store import Store, measurements, merge
from selector.collect.table import SCHEMA, to_table
from tests.collect.rows import failed, measured

COUNT = int(os.environ.get("SELECTOR_TEST_FOREIGN", "40"))
ROWS = [measured(0.25 * n, channels=n, id=f"row {n}") for n in range(1, 6)] + [failed(channels=9, id="row 9")]
TARGETS = [
    "",
    "no-such-cpu",
    "../../x",
    "a\nb",
    "x" * 5000,
    "{",
    "[" * 100_000,
    '{"a":' * 5000,
    '{"kind": "cuda"}',
    "\0",
]
NUMBERS: list[Any] = [float("nan"), float("inf"), -1.0, 0.0, 1e308, 1 << 62, -(1 << 62), None, 77]


def damage_bytes(path: Path, rng: random.Random) -> None:
    """A file that was cut off, or some of whose bytes are others."""
    whole = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 10, 200])):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    cut = rng.randrange(len(whole))
    footer = bytes(whole[:-8]) + rng.choice([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x08\0\0\0"]) + b"PAR1"
    path.write_bytes(rng.choice([bytes(whole)] * 5 + [bytes(whole[:cut]), footer, b"", b"PAR1", rng.randbytes(999)]))


def change_columns(path: Path, rng: random.Random) -> None:
    """Columns that are missing, new, there twice, or of another type."""
    table = pq.read_table(path, partitioning=None)
    name = rng.choice(SCHEMA.names)
    place = SCHEMA.names.index(name)
    kinds = [pa.string(), pa.int8(), pa.float16(), pa.bool_(), pa.binary(), pa.timestamp("ns"), pa.list_(pa.int64())]
    column = pa.nulls(
        len(table), rng.choice([*kinds, pa.struct({"a": pa.int64()}), pa.dictionary(pa.int8(), pa.string())])
    )
    changed = [
        table.drop_columns([name]),
        table.append_column("colour", pa.array(["red"] * len(table))),
        table.append_column(name, table[name]),
        table.set_column(place, name, column),
        table.select(rng.sample(SCHEMA.names, len(SCHEMA.names))),
        table.rename_columns([*SCHEMA.names[:-1], "Key"]),
        table.select([]),
        pa.table({name: table[name]}),
    ]
    with contextlib.suppress(pa.ArrowException):  # what Parquet cannot hold
        pq.write_table(rng.choice(changed), path)


def change_values(path: Path, rng: random.Random) -> None:
    """Another value in a column, as far as its type allows."""
    rows = [to_row(row) for row in ROWS]
    row, name = rng.choice(rows), rng.choice(SCHEMA.names)
    if isinstance(row[name], tuple):
        values = list(row[name])
        number = rng.choice(NUMBERS)
        row[name] = rng.choice([[], [number] * len(values), [*values[:-1], number], [*values, number], None])
    elif name == "target" or isinstance(row[name], str):
        row[name] = rng.choice([*TARGETS, None])
    else:
        row[name] = rng.choice(NUMBERS)
    schema = pa.schema([field.with_nullable(True) for field in SCHEMA])
    with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, ValueError):  # another type: left as it was
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def change_target(path: Path, rng: random.Random) -> None:
    """Rows of a target that is none, with keys that fit."""
    target = rng.choice(TARGETS)
    pq.write_table(to_table([measured(target=target), *ROWS]), path)


def no_part(path: Path, rng: random.Random) -> None:
    """Something else in place of a file."""
    path.unlink()
    kind = rng.randrange(4)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(rng.choice(["/dev/zero", "/proc/self/mem", path, path.parent]))


def write_journal(path: Path, rng: random.Random) -> None:
    """A journal whose rows are not ours."""
    folder = path.parents[1]
    with Journal(folder) as pending:
        pending.add(measured(id="in the journal"))
    row = to_row(measured(id="in the journal"))
    name = rng.choice(list(row))
    values = [*NUMBERS, *TARGETS, [], {}, [[1.0]], [float("nan")], True]
    texts = [
        "",
        "{",
        "[]",
        "null",
        "1",
        "[" * 100_000,
        b"\xff\xfe",
        json.dumps(row)[:-9],
        json.dumps({"schema_version": 2}),
    ]
    texts += [json.dumps(row | {name: rng.choice(values)}) for _ in range(9)]
    texts += [json.dumps({key: value for key, value in row.items() if key != name}) for _ in range(3)]
    with contextlib.closing(sqlite3.connect(folder / journal.NAME)) as database, database:
        database.execute("DROP INDEX by_key")
        database.execute("UPDATE pending SET row = ?", (rng.choice(texts),))


def no_journal(path: Path, rng: random.Random) -> None:
    """Something else in place of a journal."""
    journal_path = path.parents[1] / journal.NAME
    kind = rng.randrange(7)
    if kind == 0:
        os.mkfifo(journal_path)
    elif kind == 1:
        journal_path.mkdir()
    elif kind == 2:
        journal_path.symlink_to(rng.choice(["/dev/zero", str(journal_path)]))
    elif kind == 3:
        journal_path.write_bytes(rng.choice([b"", b"no database" * 100, rng.randbytes(5000)]))
    else:
        endless = (
            "CREATE VIEW pending AS WITH RECURSIVE n(id, row) AS (SELECT 1, '' UNION ALL SELECT id + 1, '' FROM n) "
        )
        others = [endless + "SELECT * FROM n", "CREATE TABLE pending (id TEXT)", "CREATE TABLE pending (id, row)"]
        with contextlib.closing(sqlite3.connect(journal_path)) as database, database:
            database.execute(rng.choice(others))
            with contextlib.suppress(sqlite3.Error):
                database.execute("INSERT INTO pending VALUES (NULL, x'00')")


KINDS: list[Callable[[Path, random.Random], None]] = [
    *[damage_bytes] * 3,
    *[change_columns] * 2,
    *[change_values] * 3,
    change_target,
    no_part,
    *[write_journal] * 3,
    no_journal,
]


def foreign(folder: Path, seed: int) -> str:
    """A dataset in which something is wrong; what was done to it."""
    rng = random.Random(seed)
    (path,) = parts.write_parts(folder, to_table(ROWS))
    change = KINDS[seed % len(KINDS)]
    change(path, rng)
    return change.__name__


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", range(COUNT))
def test_sound_rows_or_an_error(tmp_path: Path, seed: int) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    with Store.open(into) as dataset:
        dataset.add(measured(id="was there"))
    before = content(into)
    foreign(source, seed)
    try:
        merge([source], into)
    except DatasetError as error:
        message = str(error)
        assert content(into) == before
    else:
        message = ""
        assert [found for row in measurements(into) if (found := problem(to_row(row)))] == []
    assert "\n" not in message
    assert len(message) < 1500
