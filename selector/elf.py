"""Whether a shared library is whole and for this machine, found out before the system's loader maps it.

The loader trusts what it maps: a file that was cut off ends the process by a signal.  ``seal`` appends a checksum that
loaders ignore; what the file's tables say has to lie inside of it in any case.
"""

from __future__ import annotations

import os
import platform
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MARK = b"selector"
_SEAL = struct.Struct("<8sI")  # the mark, and the CRC-32 of all that comes before
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # of a 64-bit ELF file
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_SHARED, _EMPTY = 3, 8  # kinds of a file, and of a section that takes no bytes of it
_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Append the checksum.  Raises OSError."""
    with path.open("r+b") as file:
        checksum = _checksum(file, os.fstat(file.fileno()).st_size)
        file.write(_SEAL.pack(_MARK, checksum))


def problem(path: Path) -> str:
    """What keeps the file from being loaded here, in one line; empty: nothing that is known.  Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return "it is no shared library of a 64-bit machine"
        _, kind, machine, _, _, segments, sections, _, _, segment_size, count, section_size, section_count, _ = (
            _HEADER.unpack(head)
        )
        if kind != _SHARED:
            return "it is a program or an object file, and no shared library"
        if machine != _MACHINES.get(platform.machine(), machine):
            return f"it is for another architecture than {platform.machine()}"
        if (segment_size, section_size) != (_SEGMENT.size, _SECTION.size if section_count else section_size):
            return "its header is damaged"
        ends = [segments + count * segment_size, sections + section_count * section_size]
        if max(ends) <= size:
            ends += _ends(file, segments, count, sections, section_count)
        if max(ends) > size:
            return f"it is cut off: {size} bytes of {max(ends)}"
        file.seek(-_SEAL.size, os.SEEK_END)
        mark, checksum = _SEAL.unpack(file.read(_SEAL.size))
        if mark == _MARK and checksum != _checksum(file, size - _SEAL.size):
            return "it was changed since it was written: its checksum differs"
    return ""


def _ends(file: BinaryIO, segments: int, count: int, sections: int, section_count: int) -> Iterator[int]:
    """Where segments and sections end in the file."""
    file.seek(segments)
    for _, _, offset, _, _, length, _, _ in _SEGMENT.iter_unpack(file.read(count * _SEGMENT.size)):
        yield offset + length
    file.seek(sections)
    for _, kind, _, _, offset, length, *_ in _SECTION.iter_unpack(file.read(section_count * _SECTION.size)):
        yield 0 if kind == _EMPTY else offset + length


def _checksum(file: BinaryIO, size: int) -> int:
    """Of the first bytes; leaves the file after them."""
    file.seek(0)
    checksum = 0
    while size:
        block = file.read(min(size, _BLOCK))
        checksum = zlib.crc32(block, checksum)
        size = size - len(block) if block else 0
    return checksum
