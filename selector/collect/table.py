"""Measurements as Arrow tables: the rows of ``selector.collect.row``, timings as float32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa

from selector.collect.record import Measurement
from selector.collect.row import Row, build, defaults, from_row, parts, to_row
from selector.workload import ConvWorkload

_DEFAULTS = defaults()
_SCALARS = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}


def rows_to_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as ``to_row`` gives them, after a trip through JSON or not, as a table of ``SCHEMA``.

    Columns that a row lacks get their defaults.  Raises pyarrow's ArrowException, and ValueError for a column that is
    missing.
    """
    table = pa.Table.from_pylist([_DEFAULTS | row for row in rows], schema=SCHEMA)
    return conform(table, SCHEMA)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a part of ``SCHEMA``, with their defaults where the table lacks them.

    Raises ValueError for a column that is missing, of another type, or has no values where there have to be some.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = table[field.name]
        elif field.name in _DEFAULTS:
            column = pa.array([_DEFAULTS[field.name]] * len(table), field.type)
        else:
            raise ValueError(f"it has no column '{field.name}'")
        if column.type != field.type:
            raise ValueError(f"its column '{field.name}' is {column.type!s:.80} and not {field.type}")
        if column.null_count and not field.nullable:
            raise ValueError(f"its column '{field.name}' lacks values")
        columns.append(column)
    made = pa.table(columns, schema=schema)
    made.validate(full=True)
    return made


def to_table(measurements: Iterable[Measurement]) -> pa.Table:
    """A table of ``SCHEMA``, in the order given."""
    return rows_to_table(map(to_row, measurements))


def from_table(table: pa.Table) -> list[Measurement]:
    """The measurements that ``to_table`` wrote; timings come back as float32."""
    return [from_row(row) for row in table.to_pylist()]


def workload(row: Mapping[str, Any]) -> ConvWorkload:
    """The workload of one row, for instance of ``frame.iter_rows(named=True)``; the row may have other columns too."""
    return build(ConvWorkload, row)


def _arrow_fields(record: type, prefix: str, *, optional: bool) -> Iterator[pa.Field]:
    for part in parts(record, prefix):
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
        pa.field("schema_version", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
    ]
)
FACTS = [field.name for field in SCHEMA if field.type != pa.list_(pa.float32())]  # every column but the timings
