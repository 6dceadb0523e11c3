"""Measurements as flat Arrow tables: one row each, one column for each field of the records.

The columns are derived from the dataclasses: fields of the workload and of the host stand under their own names, those
of ``Samples`` behind the name of the lowering (``int8_kernel``, ``int16_warm_us``).  Timings are float32.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from selector.collect.record import SCHEMA_VERSION, Measurement, Samples
from selector.workload import ConvWorkload

Row = dict[str, Any]  # column -> plain value

_SPLIT = {"reference_us": ("reference_before_us", "reference_after_us")}  # a pair of values, a column each
_DERIVED: dict[str, tuple[pa.DataType, Callable[[Measurement], Any]]] = {
    "schema_version": (pa.int64(), lambda _: SCHEMA_VERSION),
    "kind": (pa.string(), lambda measurement: measurement.workload.kind),
    "key": (pa.string(), lambda measurement: measurement.key),
}
_SCALARS = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def to_row(measurement: Measurement) -> Row:
    """The measurement as plain values, ready for JSON or ``rows_to_table``."""
    return _flatten(Measurement, measurement, "") | {name: value(measurement) for name, (_, value) in _DERIVED.items()}


def rows_to_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as ``to_row`` gives them, after a trip through JSON or not, as a table of ``SCHEMA``."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def to_table(measurements: Iterable[Measurement]) -> pa.Table:
    """A table of ``SCHEMA``, in the order given."""
    return rows_to_table(map(to_row, measurements))


def from_table(table: pa.Table) -> list[Measurement]:
    """The measurements that ``to_table`` wrote; timings come back as float32.  Raises KeyError for a missing column."""
    return [_build(Measurement, row, "") for row in table.to_pylist()]


def workload(row: Mapping[str, Any]) -> ConvWorkload:
    """The workload of one row, for instance of ``frame.iter_rows(named=True)``; the row may have other columns too."""
    return _build(ConvWorkload, row, "")


@dataclass(frozen=True, slots=True)
class _Part:
    """One field of a record and where it stands in a row."""

    field: str
    columns: tuple[str, ...]  # two where the pair is split
    hint: Any
    optional: bool
    record: type | None  # set where the field is a record itself, whose columns then follow
    inner: str = ""  # prefix of those columns


@functools.cache
def _parts(record: type, prefix: str) -> tuple[_Part, ...]:
    hints = get_type_hints(record)
    return tuple(_part(field.name, hints[field.name], prefix) for field in fields(record))


def _part(name: str, hint: Any, prefix: str) -> _Part:
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        (hint,) = (choice for choice in get_args(hint) if choice is not type(None))
    columns = tuple(prefix + column for column in _SPLIT.get(name, (name,)))
    record = hint if is_dataclass(hint) and isinstance(hint, type) else None
    return _Part(name, columns, hint, optional, record, inner=f"{name}_" if hint is Samples else "")


def _flatten(record: type, value: Any, prefix: str) -> Row:
    """The row of a record; of None, a row of nulls."""
    row: Row = {}
    for part in _parts(record, prefix):
        inner = None if value is None else getattr(value, part.field)
        if part.record:
            row |= _flatten(part.record, inner, part.inner)
        elif len(part.columns) == 1:
            row[part.columns[0]] = inner
        else:
            row |= zip(part.columns, inner or (), strict=True)
    return row


def _build(record: type, row: Mapping[str, Any], prefix: str) -> Any:
    values: Row = {}
    for part in _parts(record, prefix):
        if part.record:
            first = _parts(part.record, part.inner)[0].columns[0]
            absent = part.optional and row[first] is None
            values[part.field] = None if absent else _build(part.record, row, part.inner)
        elif len(part.columns) == 1:
            value = row[part.columns[0]]
            values[part.field] = tuple(value) if get_origin(part.hint) is tuple else value
        else:
            values[part.field] = tuple(row[column] for column in part.columns)
    return record(**values)


def _arrow_fields(record: type, prefix: str, *, optional: bool) -> Iterator[pa.Field]:
    for part in _parts(record, prefix):
        nullable = optional or part.optional
        if part.record:
            yield from _arrow_fields(part.record, part.inner, optional=nullable)
        elif len(part.columns) == 1:
            yield pa.field(part.columns[0], _arrow_type(part.hint), nullable=nullable)
        else:
            kinds = map(_arrow_type, get_args(part.hint))
            yield from (pa.field(*column, nullable=nullable) for column in zip(part.columns, kinds, strict=True))


def _arrow_type(hint: Any) -> pa.DataType:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return _SCALARS[type(arguments[0])]
    if get_origin(hint) is tuple and arguments[-1] is ...:
        return pa.list_(pa.float32() if arguments[0] is float else _SCALARS[arguments[0]])
    if get_origin(hint) is tuple:
        return pa.list_(_SCALARS[arguments[0]], len(arguments))
    return _SCALARS[hint]


SCHEMA = pa.schema(
    [
        *_arrow_fields(Measurement, "", optional=False),
        *(pa.field(name, dtype, nullable=False) for name, (dtype, _) in _DERIVED.items()),
    ]
)
FACTS = [field.name for field in SCHEMA if field.type != pa.list_(pa.float32())]  # every column but the timings
