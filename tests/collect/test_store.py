"""The dataset's store: no finished row is lost or doubled, whatever happens to the process that writes."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selector.collect import parts, record, store
from selector.collect.journal import Journal, StoreFull
from selector.collect.parts import SchemaMismatch, UnreadablePart, part_paths, read_part, target_folder
from selector.collect.record import SCHEMA_VERSION, DatasetError
from selector.collect.row import to_row
from selector.collect.store import Store, StoreLocked, compact, measurements, merge, read
from selector.collect.table import to_table
from tests.collect.rows import HOST, failed, measured

KILLS = int(os.environ.get("SELECTOR_TEST_KILLS", "6"))


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [measured(channels=n, timestamp=float(n), id=f"id {n}") for n in (1, 2, 3)]
    with Store.open(tmp_path, batch=2) as dataset:
        for row in rows:
            dataset.add(row)
        assert len(part_paths(tmp_path)) == 1
        assert measurements(tmp_path) == rows  # two from a file, one from the journal
        assert dataset.rows()["id"].to_list() == ["id 1", "id 2", "id 3"]
        assert dataset.finished() == {row.key for row in rows}
    assert len(part_paths(tmp_path)) == 2
    assert measurements(tmp_path) == rows
    assert read(tmp_path, ["key", "padding"]).columns == ["key", "padding", "id", "timestamp"]


def test_one_folder_for_each_target(tmp_path: Path) -> None:
    targets = ["x86-64-v3", '{"kind": "llvm", "mtriple": "aarch64-linux-gnu"}', "a/.." * 100]
    with Store.open(tmp_path) as dataset:
        for target in targets:
            dataset.add(measured(target=target))
    folders = {path.parent for path in part_paths(tmp_path)}
    assert folders == {tmp_path / target_folder(target) for target in targets}
    assert tmp_path / "target=x86-64-v3" in folders
    assert sorted(row.target for row in measurements(tmp_path)) == sorted(targets)
    short = pl.scan_parquet(tmp_path / target_folder(targets[1]), hive_partitioning=True)
    assert short.collect()["target"].to_list() == [targets[1]]  # the encoding that other readers of Hive folders know


def test_empty_store(tmp_path: Path) -> None:
    with Store.open(tmp_path / "new" / "folder") as dataset:
        assert dataset.finished() == set()
    assert read(tmp_path / "new" / "folder").is_empty()
    assert measurements(tmp_path) == []


def test_finished_goes_by_the_latest_row(tmp_path: Path) -> None:
    with Store.open(tmp_path) as dataset:
        dataset.add(failed(channels=1, timestamp=1.0))
        dataset.add(measured(channels=1, timestamp=2.0))
        dataset.add(measured(channels=2, timestamp=1.0, status="noisy"))
        dataset.add(failed(channels=3, timestamp=1.0))
        one, two, three = (measured(channels=n).key for n in (1, 2, 3))
        assert dataset.finished() == {one, two, three}
        assert dataset.finished(["ok"]) == {one}
        assert dataset.finished(["ok", "noisy"]) == {one, two}


def test_rows_of_another_cpu_are_no_repetitions(tmp_path: Path) -> None:
    there = dataclasses.replace(HOST, cpu="another CPU")
    rows = [measured(id="here", timestamp=1.0), measured(id="there", timestamp=2.0, host=there)]
    with Store.open(tmp_path / "here") as dataset:
        dataset.add(rows[0])
        assert dataset.finished(cpu=HOST.cpu) == {rows[0].key}
        assert dataset.finished(cpu="another CPU") == set()
    with Store.open(tmp_path / "there") as dataset:
        dataset.add(rows[1])
    assert merge([tmp_path / "there"], tmp_path / "here").repeated == 0


def test_killed_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(0)
    kept: list[str] = []
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, Path(__file__).with_name("adding_rows.py"), tmp_path], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            assert child.stdout.readline() == f"open {len(kept)}\n"
            kept += [child.stdout.readline().strip() for _ in range(rng.randint(1, 9))]
            time.sleep(rng.uniform(0, 0.02))
            child.send_signal(signal.SIGKILL)
            kept += child.stdout.read().split()
        ids = read(tmp_path)["id"].to_list()  # with what the dead writer left behind
        assert len(set(ids)) == len(ids)
        # one row may have been kept and not been printed any more
        assert set(kept) <= set(ids)
        assert len(ids) <= len(kept) + 1
        kept = ids
    with Store.open(tmp_path):
        pass
    assert sorted(row for path in part_paths(tmp_path) for row in read_part(path)["id"].to_pylist()) == sorted(kept)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len({row.key for row in measurements(tmp_path)}) == len(kept)


def test_crash_between_file_and_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    write = parts.write_parts

    def write_and_crash(folder: Path, table: pa.Table) -> None:
        write(folder, table)
        raise Crash

    dataset = Store.open(tmp_path)
    dataset.add(measured(id="one"))
    monkeypatch.setattr(parts, "write_parts", write_and_crash)
    with pytest.raises(Crash):
        dataset.close()
    monkeypatch.undo()
    assert len(part_paths(tmp_path)) == 1
    assert read(tmp_path)["id"].to_list() == ["one"]  # from both places, once
    with Store.open(tmp_path):
        assert [read_part(path)["id"].to_pylist() for path in part_paths(tmp_path)] == [["one"]]


def test_rows_that_another_process_adds_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = parts.write_parts

    def write_while_another_adds(folder: Path, table: pa.Table) -> None:
        with Journal(folder) as journal:
            journal.add(measured(id="two", timestamp=2.0))
        write(folder, table)

    dataset = Store.open(tmp_path)
    dataset.add(measured(id="one", timestamp=1.0))
    monkeypatch.setattr(parts, "write_parts", write_while_another_adds)
    dataset.close()
    monkeypatch.undo()
    assert [read_part(path)["id"].to_pylist() for path in part_paths(tmp_path)] == [["one"]]
    assert read(tmp_path)["id"].to_list() == ["one", "two"]


def test_second_writer(tmp_path: Path) -> None:
    with Store.open(tmp_path) as first:
        first.add(measured())
        with pytest.raises(StoreLocked, match=f"being written by process {os.getpid()}: wait for it"):
            Store.open(tmp_path)
        assert len(read(tmp_path)) == 1
    with Store.open(tmp_path) as second:
        assert second.finished() == {measured().key}


def test_disk_full_for_the_files(tmp_path: Path) -> None:
    dataset = Store.open(tmp_path, batch=2)
    dataset.add(measured(channels=1, id="a"))
    table = to_table([measured(channels=n, id=name) for n, name in ((1, "a"), (2, "b"))])
    (path,) = parts.write_parts(tmp_path / "elsewhere", table)
    full = tmp_path / target_folder("x86-64-v3") / f".{path.name}.tmp"
    full.parent.mkdir()
    full.symlink_to("/dev/full")
    with pytest.raises(StoreFull, match=r"no space left for .*: every row that was finished is kept; free space"):
        dataset.add(measured(channels=2, id="b"))
    assert part_paths(tmp_path) == []
    assert not full.is_symlink()
    assert read(tmp_path)["id"].to_list() == ["a", "b"]
    dataset.close()  # there is space again
    assert len(part_paths(tmp_path)) == 1
    assert read(tmp_path)["id"].to_list() == ["a", "b"]


def test_disk_full_for_the_journal(tmp_path: Path) -> None:
    with Store.open(tmp_path) as dataset:
        pages = dataset._journal._database.execute("PRAGMA page_count").fetchone()[0]
        dataset._journal._database.execute(f"PRAGMA max_page_count = {pages}")
        kept = []
        with pytest.raises(StoreFull, match="no space left"):  # noqa: PT012
            for number in range(1, 100):
                dataset.add(measured(channels=number, id=f"{number:02}"))
                kept.append(f"{number:02}")
        assert read(tmp_path)["id"].to_list() == kept
    assert read(tmp_path)["id"].to_list() == kept


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
def test_other_schema_version(tmp_path: Path, version: int) -> None:
    (path,) = parts.write_parts(tmp_path, to_table([measured()]))
    table = pq.read_table(path, partitioning=None)
    column = table.schema.get_field_index("schema_version")
    pq.write_table(table.set_column(column, "schema_version", pa.array([version])), path)
    advice = "install a newer Selector" if version > SCHEMA_VERSION else "collect it again, or read it with"
    known = f"reads version {SCHEMA_VERSION}: {advice}"
    with pytest.raises(SchemaMismatch, match=f"part-.*has schema version {version}, .*{known}"):
        read(tmp_path)


def test_other_schema_version_in_the_journal(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    with sqlite3.connect(tmp_path / store.JOURNAL) as journal:
        journal.execute("""INSERT INTO pending VALUES ('one', '{"schema_version": 7}')""")
    journal.close()
    for access in (read, Store.open):
        with pytest.raises(SchemaMismatch, match=f"{store.JOURNAL} has schema version 7"):
            access(tmp_path)


def test_files_that_are_no_parts(tmp_path: Path) -> None:
    (path,) = parts.write_parts(tmp_path, to_table([measured()]))
    whole = path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadablePart, match=r"cannot read .*part-.*restore it"):
        read(tmp_path)
    pq.write_table(table.drop_columns(["schema_version"]), path)
    with pytest.raises(SchemaMismatch, match="holds no measurements"):
        read(tmp_path)
    pq.write_table(table.drop_columns(["in_width"]), path)
    with pytest.raises(SchemaMismatch, match=r"not its columns \(it has no column 'in_width'\)"):
        read(tmp_path)
    pq.write_table(table.append_column("colour", pa.array(["red"])), path)
    with pytest.raises(SchemaMismatch, match=r"not its columns \(it has the column 'colour'\)"):
        read(tmp_path)


def test_a_file_that_claims_to_be_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.write_parts(tmp_path, to_table([measured(), measured()]))
    monkeypatch.setattr(parts, "_MOST_ROWS", 1)
    with pytest.raises(UnreadablePart, match="it claims 2 rows"):
        read(tmp_path)


def test_rows_from_before_a_column_came(tmp_path: Path) -> None:
    (path,) = parts.write_parts(tmp_path, to_table([measured()]))
    table = pq.read_table(path, partitioning=None)
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(table.cast(nullable).drop_columns(["groups", "reference_before_us", "seed"]), path)
    (row,) = measurements(tmp_path)
    assert row == dataclasses.replace(measured(id=row.id), reference_us=(0.0, row.reference_us[1]))
    assert read(tmp_path, ["groups"])["groups"].to_list() == [1]
    assert merge([tmp_path], tmp_path / "all").added == 1
    with Journal(tmp_path / "journal") as journal:
        journal.add(row)
        journal._database.execute("UPDATE pending SET row = json_remove(row, '$.groups', '$.seed')")
        journal._database.commit()
    assert measurements(tmp_path / "journal") == [row]


def test_a_field_that_is_added_later_leaves_keys_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    work, key = measured().workload, measured().key
    assert key == "0f10a0ce8891f3af"
    monkeypatch.setitem(record._DEFAULTS, "sparse", False)
    for value, same in ((False, True), (True, False)):
        facts = work.to_dict() | {"sparse": value}
        monkeypatch.setattr(type(work), "to_dict", lambda self, facts=facts: facts)
        assert (record.measurement_key(work, "x86-64-v3") == key) == same


def test_folders_that_are_no_datasets(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no dataset folder .*nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="there is no dataset folder"):
        compact(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"cannot write .*file: File exists"):
        Store.open(tmp_path / "file")
    (tmp_path / store.JOURNAL).write_bytes(b"no database" * 100)
    with pytest.raises(DatasetError, match=r"cannot read the journal .*not a database"):
        read(tmp_path)


def test_compact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ("x86-64-v2", "x86-64-v3")
    with Store.open(tmp_path, batch=1) as dataset:
        for number in range(1, 7):
            dataset.add(measured(channels=number, target=targets[number % 2], timestamp=float(number)))
    before = measurements(tmp_path)
    monkeypatch.setattr(Path, "unlink", _refuse)
    with pytest.raises(DatasetError, match=r"cannot write .*Operation not permitted"):
        compact(tmp_path)
    monkeypatch.undo()
    assert len(part_paths(tmp_path)) == 7
    assert measurements(tmp_path) == before  # old and new files are both there
    assert compact(tmp_path) == 5
    assert len(part_paths(tmp_path)) == 2
    assert measurements(tmp_path) == before
    assert compact(tmp_path) == 0


def test_compaction_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path, batch=1) as dataset:
        dataset.add(measured(channels=1))
        dataset.add(measured(channels=2))
    list_parts = parts.part_paths

    def listed_just_before(folder: Path) -> list[Path]:
        monkeypatch.undo()
        paths = list_parts(folder)
        compact(folder)
        return paths

    monkeypatch.setattr(parts, "part_paths", listed_just_before)
    assert len(read(tmp_path)) == 2
    assert len(part_paths(tmp_path)) == 1


def test_merge(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "all")]
    with Store.open(folders[0]) as dataset:
        dataset.add(measured(channels=1, id="one", timestamp=1.0))
        dataset.add(measured(channels=2, id="two", timestamp=2.0))
    with Store.open(folders[1]) as dataset:
        dataset.add(measured(channels=2, id="two", timestamp=2.0))
        dataset.add(measured(channels=1, id="one again", timestamp=3.0))
        dataset.add(measured(channels=3, id="three", timestamp=4.0, target="x86-64-v2"))
    merged = merge(folders[:2], folders[2])
    assert (merged.added, merged.duplicates, merged.repeated) == (4, 1, 1)
    assert read(folders[2])["id"].to_list() == ["one", "two", "one again", "three"]
    again = merge(folders[:2], folders[2])
    assert (again.added, again.duplicates, again.repeated) == (0, 5, 0)
    assert len(part_paths(folders[2])) == 2


def test_what_cannot_be_stored_is_refused_at_once(tmp_path: Path) -> None:
    with Store.open(tmp_path) as dataset:
        with pytest.raises(pa.ArrowException):
            dataset.add(measured(seed="x"))
        dataset.add(measured())
    assert len(read(tmp_path)) == 1
    assert to_row(measurements(tmp_path)[0])["seed"] == 0


def _refuse(path: Path) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
