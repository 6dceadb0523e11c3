"""Whether rows are still of today's kernels: their kernels are built again and the code is compared, hash by hash."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from selector.collect import parts
from selector.collect.pairs import usable
from selector.collect.record import DatasetError
from selector.collect.store import Store, existing_folder
from selector.collect.synthetic import synthesize
from selector.collect.table import workload
from selector.lowering import LOWERINGS, build
from selector.lowering.version import KERNEL_VERSION, code_hash
from selector.target import profile

Progress = Callable[[float], None]  # gets the share of the work that is done

_CODES = [f"{lowering}_code" for lowering in LOWERINGS]


def differences(row: Mapping[str, Any]) -> Iterator[str]:
    """What of a measured row's kernels comes out differently today, a sentence each.

    A kernel also depends on the sizes of the caches.  They are those of the CPU that measured where a stored profile
    is of it, else this machine's: rows of an unknown CPU may differ for that alone.
    """
    work = workload(row)
    constants, _ = synthesize(work, row["seed"])
    target = profile(row["target"], row["cpu"])
    for lowering in LOWERINGS:
        what, then = f"{row['id']}: {lowering} of {work.describe()}", row[f"{lowering}_code"]
        try:
            now = code_hash(build(work, constants, target, lowering))
        except Exception as error:  # whatever TVM raises: the row cannot be made again
            yield f"{what} cannot be built: {str(error).splitlines()[0]}"
            continue
        if now != then:
            yield f"{what} is {now}, was {then}"


def sample(frame: pl.DataFrame, count: int, seed: int = 0) -> pl.DataFrame:
    """At most ``count`` measured rows of each target, drawn at random."""
    measured = frame.filter(pl.all_horizontal(pl.col(_CODES).is_not_null()))
    chosen: list[str] = []
    for target in measured["target"].unique().sort():
        ids = sorted(measured.filter(pl.col("target") == target)["id"])
        chosen += random.Random(seed).sample(ids, min(count, len(ids)))
    return measured.filter(pl.col("id").is_in(chosen))


def wrong(rows: pl.DataFrame, progress: Progress | None = None) -> list[str]:
    """What ``differences`` says of all rows."""
    found: list[str] = []
    for done, row in enumerate(rows.iter_rows(named=True), 1):
        found += differences(row)
        if progress:
            progress(done / len(rows))
    return found


def require_todays(frame: pl.DataFrame, count: int = 10) -> None:
    """Raises DatasetError if some of ``count`` rows of each target are said to be of today's kernels, and are not."""
    found = wrong(sample(usable(frame), count))
    if found:
        raise DatasetError(
            f"rows of kernels {KERNEL_VERSION} have other code than these sources make ({found[0]}): raise "
            "KERNEL_VERSION in selector/lowering/version.py, then `selector collect renumber` keeps what did not change"
        )


@dataclass(frozen=True, slots=True)
class Renumbered:
    """What ``renumber`` did."""

    kept: int  # rows that had today's number before
    renumbered: int  # rows of an older number whose code is the same today
    changed: int  # rows of an older number whose code is another: they keep their number, and do not count


def renumber(folder: Path | str, progress: Progress | None = None) -> Renumbered:
    """Give rows of older kernels today's number where their code is the same: it was proven by building it again.

    A target's file is replaced as a whole; the call can be interrupted and repeated.  Raises DatasetError, StoreFull.
    """
    with Store.open(existing_folder(Path(folder))) as store:
        paths = parts.part_paths(store.folder)
        tables = [parts.read_part(path) for path in paths]
        total = sum(len(_older(table)) for table in tables)
        kept, same, done = 0, 0, 0
        for path, table in zip(paths, tables, strict=True):
            kept += pc.sum(pc.equal(table["kernels"], KERNEL_VERSION)).as_py() or 0
            unchanged = set()
            for rows in _alike(_older(table)):
                if not any(differences(rows[0])):
                    unchanged |= {row["id"] for row in rows}
                done += len(rows)
                if progress:
                    progress(done / total)
            if unchanged:
                same += len(unchanged)
                now = pc.is_in(table["id"], pa.array(unchanged))
                numbers = pc.if_else(now, pa.scalar(KERNEL_VERSION, pa.int64()), table["kernels"])
                column = table.schema.get_field_index("kernels")
                parts.replace_part(path, table.set_column(column, table.schema.field(column), numbers))
    return Renumbered(kept, same, total - same)


def _older(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    measured = pl.all_horizontal(pl.col(_CODES).is_not_null())
    return frame.filter((pl.col("kernels") < KERNEL_VERSION) & measured)


def _alike(frame: pl.DataFrame) -> Iterator[Sequence[dict[str, Any]]]:
    """Rows of the same kernels together: repetitions are built once."""
    for group in frame.partition_by("key", "cpu", *_CODES, maintain_order=True):
        yield list(group.iter_rows(named=True))
