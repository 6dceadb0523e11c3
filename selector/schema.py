"""Files that anybody may have written: read within limits, and checked against the dataclass that they become.

The types of a dataclass's fields are the schema, ``Annotated`` with what else has to hold; its ``__post_init__`` checks
what several fields say together.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

Count = Annotated[int, Meta(ge=1, le=1 << 62)]
Natural = Annotated[int, Meta(ge=0, le=1 << 62)]
Positive = Annotated[float, Meta(gt=0, lt=1e300)]
Share = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\Z")]  # that may be the name of a file
Text = Annotated[str, Meta(min_length=1)]

BYTES = 4 << 20  # of a file, unless its reader expects more
_SHOWN = 40  # characters of a name that a file gives


class SchemaError(ValueError):
    """The content is not what was wanted; one line says what and where."""


def read(path: Path, most: int = BYTES) -> bytes:
    """Content of a regular file of at most ``most`` bytes.

    Raises OSError, also for devices, pipes and larger files: they could keep a reader for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes")
    return content


def decode(content: bytes) -> Any:
    """The plain values of a JSON document; NaN and infinity are none.  Raises SchemaError."""
    try:
        return msgspec.json.decode(content)
    except RecursionError:
        raise SchemaError("not valid JSON: nested too deeply") from None
    except ValueError as error:  # also of Unicode
        raise SchemaError(f"not valid JSON: {_line(error)}") from None


def build(kind: type[T], values: object, *, closed: bool = True) -> T:
    """The dataclass with these plain values.  ``closed``: it has a field for each of them.  Raises SchemaError."""
    try:
        made = msgspec.convert(values, kind)
        unknown = sorted(set(_unknown(values, msgspec.to_builtins(made)))) if closed else []
    except RecursionError:
        raise SchemaError("nested too deeply") from None
    except ValueError as error:
        raise SchemaError(_line(error)) from None
    if unknown:
        raise SchemaError(f"unknown field '{unknown[0]:.{_SHOWN}}'")
    return made


def _unknown(given: object, known: object) -> Iterator[str]:
    """Keys of objects in ``given`` that ``known``, made of it, does not have."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key in known:
                yield from _unknown(value, known[key])
            else:
                yield str(key)
    elif isinstance(given, list | tuple) and isinstance(known, list | tuple):
        for one, other in zip(given, known, strict=False):
            yield from _unknown(one, other)


def _line(error: ValueError) -> str:
    return " ".join(str(error).split()) or "no message"
