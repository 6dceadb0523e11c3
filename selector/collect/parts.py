"""Files of a dataset: ``<folder>/target=<name>/part-<hash>.parquet``, partitioned the way Hive does it.

A part is named after the ids of its rows, so writing the same rows again replaces the file and adds nothing.  Parts are
written under a temporary name, synced, then renamed: whoever sees one sees all of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selector.collect.record import SCHEMA_VERSION, DatasetError
from selector.collect.table import SCHEMA, conform

_MOST_ROWS = 1_000_000  # a part has thousands; a damaged one may claim anything
_MAX_NAME = 200  # bytes of a folder name; file systems take 255


class UnreadablePart(DatasetError):
    """The file is no Parquet file, or a damaged one."""


class SchemaMismatch(DatasetError):
    """The file was written by another version of Selector, or by something else."""


def target_folder(target: str) -> str:
    """``target=<name>``, percent-encoded as Hive does it; a very long name is cut and gets a hash."""
    name = quote(target, safe="")
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - 20]}-{hashlib.sha256(target.encode()).hexdigest()[:16]}"
    return f"target={name}"


def part_paths(folder: Path) -> list[Path]:
    """Every part of a dataset, sorted."""
    return sorted(folder.glob("target=*/part-*.parquet"))


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One part, or some of its columns; columns that have come since it was written have their defaults.

    Raises UnreadablePart, SchemaMismatch, and FileNotFoundError where a compaction has just removed the part.
    """
    wanted = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadablePart(f"cannot read {path}: not a regular file; move it elsewhere")
        with pq.ParquetFile(path) as file:
            _check_columns(path, file)
            table = file.read(columns=[name for name in wanted.names if name in file.schema_arrow.names])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UnreadablePart(f"cannot read {path}: {reason:.300}; restore it from a copy, or delete it") from None
    try:
        return conform(table, wanted)
    except ValueError as error:
        raise SchemaMismatch(_other_columns(path, str(error).splitlines()[0])) from None


def check_version(path: Path, found: object) -> None:
    """Raises SchemaMismatch if rows of schema version ``found`` are not this Selector's."""
    if found == SCHEMA_VERSION:
        return
    newer = isinstance(found, int) and found > SCHEMA_VERSION
    advice = "install a newer Selector" if newer else "collect it again, or read it with the Selector that wrote it"
    raise SchemaMismatch(f"{path} has schema version {found}, this Selector reads version {SCHEMA_VERSION}: {advice}")


def write_parts(folder: Path, table: pa.Table) -> list[Path]:
    """Write rows of ``SCHEMA`` as one new part for each target; durable at return.  Raises OSError."""
    paths = []
    for target in sorted(table["target"].unique().to_pylist()):
        rows = table.filter(pc.field("target") == target)
        ids = "\n".join(sorted(rows["id"].to_pylist()))
        path = folder / target_folder(target) / f"part-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        _write(path, rows)
        paths.append(path)
    return paths


def replace_part(path: Path, table: pa.Table) -> None:
    """Write other values of a part's own rows; whoever reads sees all of the old file or all of the new one."""
    _write(path, table)


def drop_duplicates(table: pa.Table) -> pa.Table:
    """The rows, in their order, without those whose id came before."""
    rows = pa.table({"id": table["id"], "row": pa.array(range(len(table)), pa.int64())})
    first = rows.group_by("id").aggregate([("row", "min")])["row_min"]
    return table if len(first) == len(table) else table.take(first.take(pc.sort_indices(first)))


def remove_temporary(folder: Path) -> None:
    """Delete what a killed writer left half-written; only for the one who holds the lock."""
    for path in folder.glob("target=*/.part-*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_columns(path: Path, file: pq.ParquetFile) -> None:
    """Raises SchemaMismatch for rows of another schema version, or with columns that this Selector does not know."""
    names = file.schema_arrow.names
    if file.metadata.num_rows > _MOST_ROWS:
        raise UnreadablePart(f"cannot read {path}: it claims {file.metadata.num_rows} rows; delete it")
    if "schema_version" not in names:
        raise SchemaMismatch(f"{path} holds no measurements: it has no column 'schema_version'; move it elsewhere")
    if file.schema_arrow.types[names.index("schema_version")] != pa.int64():
        raise SchemaMismatch(_other_columns(path, "'schema_version' is no number"))
    for version in file.read(columns=["schema_version"])["schema_version"].unique().to_pylist():
        check_version(path, version)
    unknown = sorted(set(names) - set(SCHEMA.names)) + sorted(name for name in set(names) if names.count(name) > 1)
    if unknown:
        raise SchemaMismatch(_other_columns(path, f"it has the column '{unknown[0]:.80}'"))


def _other_columns(path: Path, reason: str) -> str:
    return (
        f"{path} has schema version {SCHEMA_VERSION} and not its columns ({reason}): it was written or changed by "
        "something else; restore it"
    )


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", **_ENCODINGS)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _leaf(field: pa.Field) -> tuple[str, bool]:
    """Parquet's name of a column and whether it holds floats."""
    if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
        return f"{field.name}.list.element", pa.types.is_floating(field.type.value_type)
    return field.name, pa.types.is_floating(field.type)


# Timings hardly repeat: dictionaries of them make a file larger by half.
_ENCODINGS = {
    "use_byte_stream_split": [name for name, floats in map(_leaf, SCHEMA) if floats],
    "use_dictionary": [name for name, floats in map(_leaf, SCHEMA) if not floats],
}
