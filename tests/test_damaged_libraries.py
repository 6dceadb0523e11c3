"""Libraries that are damaged, cut off or not ours: one line, and never the end of the process.

``SELECTOR_TEST_LIBRARIES`` sets how many are made.
"""

from __future__ import annotations

import json
import os
import platform
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import selector
from selector import elf
from tests.models import qdq_conv_model

COUNT = int(os.environ.get("SELECTOR_TEST_LIBRARIES", "36"))
SEAL = 12  # bytes
Attempt = Callable[[Path], str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("library") / "net.so"
    selector.compile(qdq_conv_model(), policy="int8", threads=1).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    """Loads a library in another process; what came of it."""
    command = [sys.executable, "-m", "tests.loading_libraries"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loader:
        assert loader.stdin
        assert loader.stdout

        def load(path: Path) -> str:
            print(path, file=loader.stdin, flush=True)
            return json.loads(loader.stdout.readline())["outcome"]

        yield load
        loader.stdin.close()


def cut_off(whole: bytes, rng: random.Random) -> bytes:
    """Anywhere, or shortly before the end."""
    return whole[: rng.choice([rng.randrange(len(whole)), len(whole) - SEAL - rng.randrange(1, 5000)])]


def other_bytes(whole: bytes, rng: random.Random) -> bytes:
    """Some, anywhere before the seal."""
    changed = bytearray(whole)
    for _ in range(rng.choice([1, 10, 1000])):
        place = rng.randrange(len(whole) - SEAL)
        changed[place] = changed[place] ^ rng.randrange(1, 256)
    return bytes(changed)


def missing_pages(whole: bytes, rng: random.Random) -> bytes:
    """Zeros in place of a part, as a copy that was broken off leaves behind."""
    start = rng.randrange(len(whole) - 4096)
    return whole[:start] + bytes(4096) + whole[start + 4096 :]


def odd_header(whole: bytes, rng: random.Random) -> bytes:
    """Without a seal, and with a table that lies elsewhere, another machine or another kind of file."""
    kind, place = rng.choice([("<H", 16), ("<H", 18), ("<Q", 32), ("<Q", 40), ("<H", 54), ("<H", 56), ("<H", 58)])
    values = [1, 2, 3, 8] if kind == "<H" and place < 20 else [0xFFFF, 0x8000, 9999]
    value = rng.choice(values if kind == "<H" else [1 << 40, (1 << 64) - 1, len(whole)])
    changed = bytearray(whole[:-SEAL])
    struct.pack_into(kind, changed, place, value)
    return bytes(changed)


def odd_segment(whole: bytes, rng: random.Random) -> bytes:
    """Without a seal, and with a segment that is said to lie beyond the end."""
    changed = bytearray(whole[:-SEAL])
    segments = struct.unpack_from("<Q", whole, 32)[0]
    number = rng.randrange(struct.unpack_from("<H", whole, 56)[0])
    struct.pack_into("<Q", changed, segments + 56 * number + rng.choice([8, 32]), rng.choice([1 << 30, 1 << 62]))
    return bytes(changed)


def no_library(whole: bytes, rng: random.Random) -> bytes:
    """Something else altogether."""
    return rng.choice(
        [b"", b"MZ" + whole[2:], b"#!/bin/sh\n", rng.randbytes(5000), whole[:64], b"\x7fELF", whole[::-1]]
    )


KINDS = [cut_off, cut_off, other_bytes, other_bytes, missing_pages, odd_header, odd_segment, no_library]


def damaged(whole: bytes, seed: int) -> bytes:
    """A library in which something is wrong."""
    rng = random.Random(seed)
    return KINDS[seed % len(KINDS)](whole, rng)


@pytest.mark.parametrize("seed", range(COUNT))
def test_one_line(library: bytes, attempt: Attempt, tmp_path: Path, seed: int) -> None:
    path = tmp_path / "net.so"
    content = damaged(library, seed)
    path.write_bytes(content)
    outcome = attempt(path)
    whole = library[:-SEAL]
    if content.startswith(whole):  # no more than the seal is gone
        assert outcome == "loaded"
    else:
        assert outcome.startswith(f"ModelError: {path} ")
        assert "\n" not in outcome


def test_a_whole_one(library: bytes, attempt: Attempt, tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    for content in (library, library[:-SEAL]):  # TVM itself writes them without a seal
        path.write_bytes(content)
        assert attempt(path) == "loaded"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"threads"', b'"threats"'),
        (b'{"threads": 1', b'{"threads":"1'),
        (b'"main": [{', b'"main": [ '),
        (b'"shape"', b'"shake"'),
        (b'"instructions"', b'"instruction_"'),
        (b'"decisions": [', b'"decisions": 1'),
    ],
)
def test_metadata_of_another_shape(library: bytes, attempt: Attempt, tmp_path: Path, old: bytes, new: bytes) -> None:
    assert library.count(old) >= 1
    path = tmp_path / "net.so"
    path.write_bytes(library[:-SEAL].replace(old, new))
    elf.seal(path)
    outcome = attempt(path)
    assert outcome.startswith(f"ModelError: {path} is not a network compiled by Selector for this machine (")
    assert "\n" not in outcome


def test_another_version_of_tvm(library: bytes, attempt: Attempt, tmp_path: Path) -> None:
    """The virtual machine says of which version its code is."""
    magic = library.index(struct.pack("<Q", 0xD225DE2F4214151E))
    length = struct.unpack_from("<Q", library, magic + 8)[0]
    changed = bytearray(library[:-SEAL])
    changed[magic + 16 : magic + 16 + length] = b"9" * length
    path = tmp_path / "net.so"
    path.write_bytes(changed)
    outcome = attempt(path)
    assert outcome.startswith(f"ModelError: {path} is not a network compiled by Selector for this machine (")
    assert "\n" not in outcome


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines may have SVE")
def test_instructions_that_this_machine_lacks(library: bytes, attempt: Attempt, tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    path.write_bytes(library[:-SEAL].replace(b'"sse2"', b'"sve" '))
    elf.seal(path)
    outcome = attempt(path)
    assert outcome.startswith(f"ModelError: {path} is compiled for ")
    assert outcome.endswith("this machine lacks sve")


def test_libraries_of_others(attempt: Attempt, tmp_path: Path) -> None:
    import _ctypes

    outcome = attempt(Path(_ctypes.__file__))
    assert outcome.startswith("ModelError: ")
    assert "\n" not in outcome
    os.mkfifo(tmp_path / "pipe.so")
    (tmp_path / "folder.so").mkdir()
    (tmp_path / "link.so").symlink_to("/dev/zero")
    for name in ("pipe.so", "folder.so", "link.so", "nothing.so"):
        assert attempt(tmp_path / name) == f"FileNotFoundError: no such file: {tmp_path / name}"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other architecture is AArch64")
def test_another_architecture(library: bytes, attempt: Attempt, tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    changed = bytearray(library[:-SEAL])
    struct.pack_into("<H", changed, 18, 183)
    path.write_bytes(changed)
    assert "it is for another architecture than x86_64" in attempt(path)
