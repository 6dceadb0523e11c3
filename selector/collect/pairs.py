"""Which rows of a dataset count, and what the repetitions of one pair say together: the one definition of both.

A pair is both lowerings of one workload on one target, timed on one CPU.  Status, plots, reports, training and
evaluation all read ``pairs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selector.collect.record import DatasetError
from selector.lowering.version import KERNEL_VERSION

if TYPE_CHECKING:
    import polars

PAIR = ("key", "cpu")


def usable(frame: polars.DataFrame) -> polars.DataFrame:
    """The rows that count, of those that ``store.read`` gives.

    They were timed as well as asked for (status "ok"), not emulated, and their kernels are today's.  Raises
    DatasetError for rows of kernels that this version does not know.
    """
    import polars as pl

    newest = frame["kernels"].max()
    if isinstance(newest, int) and newest > KERNEL_VERSION:
        raise DatasetError(
            f"rows of kernels {newest} are unknown, this version has kernels {KERNEL_VERSION}: install a newer Selector"
        )
    return frame.filter(
        (pl.col("status") == "ok")
        & ~pl.col("emulated")
        & (pl.col("kernels") == KERNEL_VERSION)
        & pl.col("log2_ratio").is_finite()
    )


def pairs(frame: polars.DataFrame) -> polars.DataFrame:
    """One row for each pair, in the order of PAIR, from the rows that count.

    Facts are those of the latest row.  ``log2_ratio`` is the median over the repetitions, ``networks`` all of theirs.
    ``width`` is that of the 95 % interval of ``log2_ratio``, at least as wide as repetitions disagree, and ``rows``
    counts them.  ``int8_us``, the median time of one call, is there if the timings are.
    """
    import polars as pl

    rows = usable(frame).sort("timestamp", "id")
    ratio, count = pl.col("log2_ratio"), pl.len()
    width = (pl.col("log2_high") - pl.col("log2_low")).median()
    disagreement = ratio.max() - ratio.min()
    merged = {
        "log2_ratio": ratio.median(),
        "width": pl.when(count > 1).then(pl.max_horizontal(width / count.sqrt(), disagreement)).otherwise(width),
        "networks": pl.col("networks").explode(empty_as_null=False).unique().sort(),
        "rows": count,
    }
    if "int8_warm_us" in rows.columns:
        merged["int8_us"] = pl.col("int8_warm_us").list.median().cast(pl.Float64).median()
    facts = [name for name in rows.columns if name not in merged and name not in PAIR]
    grouped = rows.group_by(PAIR).agg(
        *(pl.col(name).last() for name in facts), *(value.alias(name) for name, value in merged.items())
    )
    return grouped.sort(PAIR)
