"""Measurements as flat rows of plain values, which JSON takes: one column for each field of the records.

The columns are derived from the dataclasses: fields of the workload and of the host stand under their own names, those
of ``Samples`` behind the name of the lowering (``int8_kernel``, ``int16_warm_us``).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from selector.collect.record import SCHEMA_VERSION, Measurement, Samples

Row = dict[str, Any]  # column -> plain value

_SPLIT = {"reference_us": ("reference_before_us", "reference_after_us")}  # a pair of values, a column each
_DERIVED: dict[str, Callable[[Measurement], Any]] = {
    "schema_version": lambda _: SCHEMA_VERSION,
    "kind": lambda measurement: measurement.workload.kind,
    "key": lambda measurement: measurement.key,
}


def to_row(measurement: Measurement) -> Row:
    """The measurement as plain values."""
    return _flatten(Measurement, measurement, "") | {name: value(measurement) for name, value in _DERIVED.items()}


def from_row(row: Mapping[str, Any]) -> Measurement:
    """The measurement that ``to_row`` wrote, after a trip through JSON or not.

    Fields that have come since get their defaults.  Raises KeyError without a column that has none.
    """
    return build(Measurement, row)


def build(record: type, row: Mapping[str, Any], prefix: str = "") -> Any:
    """The record whose columns, behind ``prefix``, are in the row; the row may have other columns too."""
    values: Row = {}
    for part in parts(record, prefix):
        if part.record:
            first = parts(part.record, part.inner)[0].columns[0]
            absent = part.optional and row[first] is None
            values[part.field] = None if absent else build(part.record, row, part.inner)
        elif part.columns[0] not in row and part.default is not MISSING:
            values[part.field] = part.default
        elif len(part.columns) == 1:
            value = row[part.columns[0]]
            values[part.field] = tuple(value) if get_origin(part.hint) is tuple else value
        else:
            values[part.field] = tuple(row[column] for column in part.columns)
    return record(**values)


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a record and where it stands in a row."""

    field: str
    columns: tuple[str, ...]  # two where the pair is split
    hint: Any
    optional: bool
    default: Any  # MISSING: there is none that a row could do without
    record: type | None  # set where the field is a record itself, whose columns then follow
    inner: str = ""  # prefix of those columns


@functools.cache
def parts(record: type, prefix: str) -> tuple[Part, ...]:
    """The fields of a record whose columns stand behind ``prefix``."""
    hints = get_type_hints(record)
    return tuple(_part(field, hints[field.name], prefix) for field in fields(record))


def defaults() -> Row:
    """The columns that a row may lack, because it was written before they came, with what they are then."""
    return dict(_defaults(Measurement, ""))


def _defaults(record: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for part in parts(record, prefix):
        if part.record:
            yield from _defaults(part.record, part.inner)
        elif part.default is not MISSING:
            yield from zip(part.columns, part.default if len(part.columns) > 1 else [part.default], strict=True)


def _part(field: Field[Any], hint: Any, prefix: str) -> Part:
    name = field.name
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        (hint,) = (choice for choice in get_args(hint) if choice is not type(None))
    columns = tuple(prefix + column for column in _SPLIT.get(name, (name,)))
    record = hint if is_dataclass(hint) and isinstance(hint, type) else None
    return Part(name, columns, hint, optional, field.default, record, inner=f"{name}_" if hint is Samples else "")


def _flatten(record: type, value: Any, prefix: str) -> Row:
    """The row of a record; of None, a row of nulls."""
    row: Row = {}
    for part in parts(record, prefix):
        inner = None if value is None else getattr(value, part.field)
        if part.record:
            row |= _flatten(part.record, inner, part.inner)
        elif len(part.columns) == 1:
            row[part.columns[0]] = inner
        else:
            row |= zip(part.columns, inner or (), strict=True)
    return row
