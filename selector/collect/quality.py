"""What a dataset holds, how good its rows are, and how far two of them agree."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from selector.collect.pairs import pairs, usable

DECIDED = 0.1  # |log2 ratio| from which on the winner is worth agreeing about; below, both lowerings are as fast

_STRATUM = ["target", "kind", "threads"]
_ALL = "all"


def status(frame: pl.DataFrame) -> pl.DataFrame:
    """Coverage of the rows that ``store.read`` gives: one row for each target, kind and number of threads.

    ``rows``, ``ok``, ``noisy`` and ``error`` count rows, ``used`` those that count (``selector.collect.pairs``).  The
    rest is about the pairs that these make: ``pairs``, ``int8_wins`` (a share), ``median_abs_log2`` and
    ``median_width`` (of the 95 % interval, in log2); null where there is none.
    """
    counted = frame.group_by(_STRATUM).agg(
        pl.len().alias("rows"), *((pl.col("status") == name).sum().alias(name) for name in ("ok", "noisy", "error"))
    )
    used = usable(frame).group_by(_STRATUM).agg(pl.len().alias("used"))
    good = (
        pairs(frame)
        .group_by(_STRATUM)
        .agg(
            pl.len().alias("pairs"),
            (pl.col("log2_ratio") > 0).mean().alias("int8_wins"),
            pl.col("log2_ratio").abs().median().alias("median_abs_log2"),
            pl.col("width").median().alias("median_width"),
        )
    )
    joined = counted.join(used, on=_STRATUM, how="left").join(good, on=_STRATUM, how="left")
    joined = joined.with_columns(pl.col("used", "pairs").fill_null(0))
    return joined.sort(_STRATUM)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two runs on the keys that both measured."""

    pairs: pl.DataFrame  # key, target, kind, first, second (log2 ratios), difference (absolute); the worst first
    groups: pl.DataFrame  # of pairs, see ``diff``
    only_first: int  # keys that have no pair in the other run
    only_second: int


def diff(first: pl.DataFrame, second: pl.DataFrame) -> Agreement:
    """Agreement of the pairs of two datasets, whatever CPU they are of.

    By target and kind, by target, and over all (named ``all``).

    Columns of ``groups``: ``pairs``; ``decided``, those of them whose |log2 ratio| in the first run is above DECIDED;
    ``winner_agreement``, the share of the decided whose winner is the same in the second run (null: none is decided);
    ``efficiency``, the mean in the first run of choosing what won in the second: what no policy can be measured to
    exceed; ``median_difference`` and ``worst_difference`` of the log2 ratios, absolute.
    """
    columns = ["key", "target", "kind"]
    ours, theirs = (pairs(frame).sort("timestamp").unique("key", keep="last") for frame in (first, second))
    ours = ours.select(*columns, pl.col("log2_ratio").alias("first"))
    theirs = theirs.select("key", pl.col("log2_ratio").alias("second"))
    both = ours.join(theirs, on="key").with_columns((pl.col("first") - pl.col("second")).abs().alias("difference"))
    by_target = both.with_columns(pl.lit(_ALL).alias("kind"))
    over_all = by_target.with_columns(pl.lit(_ALL).alias("target"))
    decided = pl.col("first").abs() > DECIDED
    same = pl.col("first").sign() == pl.col("second").sign()
    groups = (
        pl.concat([both, by_target, over_all])
        .group_by("target", "kind")
        .agg(
            pl.len().alias("pairs"),
            decided.sum().alias("decided"),
            same.filter(decided).mean().alias("winner_agreement"),
            pl.when(same).then(1.0).otherwise(2.0 ** -pl.col("first").abs()).mean().alias("efficiency"),
            pl.col("difference").median().alias("median_difference"),
            pl.col("difference").max().alias("worst_difference"),
        )
        .sort(pl.col("target") == _ALL, "target", pl.col("kind") == _ALL, "kind")
    )
    both = both.sort("difference", "key", descending=[True, False])
    return Agreement(both, groups, len(ours) - len(both), len(theirs) - len(both))
