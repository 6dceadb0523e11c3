"""Whether a row says what it should: one definition, for checking a dataset and for rows that come from elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa

from selector import schema
from selector.collect.record import DatasetError, Measurement, measurement_key
from selector.collect.row import from_row
from selector.schema import SchemaError
from selector.target import UnknownTarget, profile
from selector.workload import UnsupportedWorkload

_RATIO_TOLERANCE = 1e-3  # of a log2 ratio against the one computed from the stored samples, which are float32
_LARGEST = 1 << 50  # multiply-accumulates, and bytes of a tensor, that no machine gets through

Check = Literal["identity", "samples"]


def problem(row: Mapping[str, Any]) -> tuple[Check, str] | None:
    """What is wrong with a row, as Parquet or the journal has it, in one line; None: nothing."""
    try:
        record = from_row(row)
        schema.build(Measurement, msgspec.to_builtins(record), closed=False)
    except UnsupportedWorkload as error:
        return "identity", str(error)
    except SchemaError as error:
        return "samples", str(error)
    except TypeError:
        return "samples", "values are missing"
    work = record.workload
    if max(work.macs(), work.data_bytes(), work.weight_bytes(), work.out_bytes()) > _LARGEST:
        return "identity", f"{work.describe()} is larger than anything that was ever measured"
    if (row["kind"], row["key"]) != (work.kind, measurement_key(work, record.target)):
        return "identity", f"key or kind is not that of {work.describe()}"
    reason = "" if record.status == "error" else _wrong_samples(record)
    return ("samples", reason) if reason else None


def require_sound(path: Path, table: pa.Table) -> None:
    """Raises DatasetError, with the first reason, where a row of a file is none to take over."""
    wrong = list(_unsound(table))
    if wrong:
        more = f" (and {len(wrong) - 1} more of its {len(table)} rows)" if len(wrong) > 1 else ""
        raise DatasetError(f"{path} is refused: {wrong[0]}{more}")


def _unsound(table: pa.Table) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=1000):  # all at once take ten times the memory
        for row in batch.to_pylist():
            found = problem(row)
            reason = found[1] if found else _unknown_target(row["target"])
            if reason:
                yield f"row {row['id']!r:.80}: {reason:.300}"


@functools.lru_cache(maxsize=1000)
def _unknown_target(target: str) -> str:
    """Why there is no such target; empty: there is."""
    try:
        profile(target)
    except UnknownTarget as error:
        return f"target {target!r:.80}: {' '.join(str(error).split())}"
    return ""


def _wrong_samples(row: Measurement) -> str:
    """What is wrong with the samples of a measured row; empty: nothing."""
    if row.int8 is None or row.int16 is None or row.log2_ratio is None or row.log2_low is None or row.log2_high is None:
        return "samples, ratio or interval are missing"
    int8, int16 = (np.asarray(samples.warm_us, float) for samples in (row.int8, row.int16))
    if int8.size != int16.size:
        return f"{int8.size} warm samples of int8 and {int16.size} of int16"
    if not row.log2_low <= row.log2_ratio <= row.log2_high:
        return "the ratio lies outside of its interval"
    expected = float(np.median(np.log2(int16 / int8)))
    if abs(row.log2_ratio - expected) > _RATIO_TOLERANCE:
        return f"log2 ratio {row.log2_ratio:.4f}, but {expected:.4f} by the samples"
    return ""
