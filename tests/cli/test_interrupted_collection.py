"""Real collections that are killed, find the disk full or the folder taken: no row is lost or there twice.

``SELECTOR_TEST_KILLS`` sets how often one is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selector.collect.journal import Journal, StoreFull
from selector.collect.parts import part_paths, read_part
from selector.collect.store import Store, read
from tests.collect.rows import measured

KILLS = int(os.environ.get("SELECTOR_TEST_KILLS", "1"))
ROOT = Path(__file__).parents[2]
SELECTOR = [sys.executable, "-c", "from selector.cli import app; app()"]
COLLECT = [
    *SELECTOR,
    *"collect --samples 400 --target native --threads 1 --workers 1 --max-seconds 0.02 --json".split(),
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SELECTOR, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def stored(lines: list[str]) -> set[str]:
    """Keys of the rows that a collection said it has stored."""
    events = [json.loads(line) for line in lines if line.endswith("}\n")]
    return {event["key"] for event in events if event["event"] in ("row", "error")}


def test_killed(tmp_path: Path) -> None:
    rng, kept = random.Random(0), set[str]()
    for turn in range(KILLS):
        with subprocess.Popen([*COLLECT, "--into", tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout
            lines = [running.stdout.readline() for _ in range(rng.randint(2, 8))]
            if turn == 0:  # meanwhile
                second = subprocess.run([*COLLECT, "--into", tmp_path], cwd=ROOT, capture_output=True, text=True)
                assert second.returncode == 2
                assert second.stderr.startswith(f"error: {tmp_path} is being written by process {running.pid}: wait")
                status = run("collect", "status", tmp_path, "--json")
                assert json.loads(status.stdout)["rows"] >= len(stored(lines))
            time.sleep(rng.uniform(0, 0.3))
            running.send_signal(signal.SIGKILL)
            lines += running.stdout.readlines()
        kept |= stored(lines)
        rows = read(tmp_path)
        assert rows["id"].n_unique() == rows["key"].n_unique() == len(rows)
        # of each turn one row may have been stored and not been told any more
        assert kept <= set(rows["key"])
        assert len(rows) <= len(kept) + turn + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is for root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(("batch", "used"), [(5, 900_000), (40, 600_000), (10_000, 850_000), (5, 1_040_000)])
def test_full_disk(small_disk: Path, batch: int, used: int) -> None:
    folder, ballast, kept = small_disk / "data", small_disk / "ballast", []
    ballast.write_bytes(bytes(used))
    with pytest.raises(StoreFull, match=r"no space left for .*: every row that was finished is kept; free space"):  # noqa: PT012
        with Store.open(folder, batch=batch) as dataset:
            for number in range(1, 3000):
                row = measured(channels=number)
                dataset.add(row)
                kept.append(row.id)
    if folder.exists():
        found = read(folder)["id"].to_list()
        assert len(set(found)) == len(found)
        assert set(kept) <= set(found)
    ballast.unlink()
    with Store.open(folder):
        pass
    ids = [row for path in part_paths(folder) for row in read_part(path)["id"].to_pylist()]
    assert len(set(ids)) == len(ids)
    assert set(kept) <= set(ids)
    assert not list(folder.rglob("*.tmp"))


def test_folder_that_is_read_only(small_disk: Path) -> None:
    folder = small_disk / "data"
    with Store.open(folder) as dataset:
        dataset.add(measured(channels=1))
    with Journal(folder) as journal:
        journal.add(measured(channels=2))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert len(read(folder)) == 2
    for arguments in (
        ["collect", "--samples", 3, "--target", "native", "--threads", 1, "--into", folder],
        ["collect", "plot", folder, "--out", small_disk / "plots"],
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr == f"error: cannot write {arguments[-1]}: Read-only file system\n"
