"""Rich tables of target profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from selector.profiles import ProfileError, Rates, StoredProfile
from selector.target import TargetProfile

_MEMORY = {"L1": "l1_gbs", "L2": "l2_gbs", "L3": "l3_gbs", "memory": "dram_gbs", "memory, all cores": "dram_all_gbs"}


def stored_row(path: Path, found: StoredProfile | ProfileError) -> dict[str, Any]:
    """One file as plain values; ``error`` says why it cannot be used, and is None where it can."""
    if isinstance(found, ProfileError):
        return {"name": path.stem, "path": str(path), "error": str(found)}
    return {
        "name": found.name,
        "kind": found.rates.kind,
        "arch": found.arch,
        "vector_bits": found.vector_bits,
        "cores": found.cores,
        "rows": len(found.rates.dots),
        "source": found.rates.source,
        "date": found.date,
        "path": str(path),
        "error": None,
    }


def list_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Stored profiles, one a line."""
    table = Table(title="target profiles")
    for name in ("name", "rates", "arch"):
        table.add_column(name)
    for name in ("vector bits", "cores", "rows"):
        table.add_column(name, justify="right")
    table.add_column("source", overflow="fold")
    table.add_column("file", overflow="fold")
    for row in rows:
        if row["error"]:
            table.add_row(row["name"], "[red]broken[/]", "", "", "", "", row["error"], row["path"])
        else:
            numbers = (str(row[name]) for name in ("vector_bits", "cores", "rows"))
            source = row["source"].partition(":")[0]  # the product; what follows are the documents
            table.add_row(row["name"], row["kind"], row["arch"], *numbers, source, row["path"])
    return table


def target_values(target: TargetProfile) -> dict[str, Any]:
    """The facts of a target as plain values; rates are None where it is neither calibrated nor described."""
    names = ("name", "arch", "vector_bits", "vector_registers", "cores", "l1_bytes", "l2_bytes", "l3_bytes")
    return {name: getattr(target, name) for name in names} | {
        "features": sorted(target.features),
        "rates": None if target.rates is None else rates_values(target.rates),
    }


def rates_values(rates: Rates) -> dict[str, Any]:
    """Rates as plain values."""
    speeds = {name: getattr(rates, name) for name in _MEMORY.values()}
    return {"kind": rates.kind, "source": rates.source, **speeds, "dots": dict(rates.dots), "loops": dict(rates.loops)}


def facts_table(target: TargetProfile) -> Table:
    """What is known about a CPU apart from its rates."""
    table = Table("fact", "value", title=target.name)
    table.add_row("architecture", target.arch)
    table.add_row("vectors", f"{target.vector_registers} of {target.vector_bits} bits")
    table.add_row("cores", str(target.cores))
    for level in ("l1", "l2", "l3"):
        size = getattr(target, f"{level}_bytes")
        table.add_row(f"{level.upper()} cache", f"{size >> 10} KiB" if size else "none")
    table.add_row("LLVM features", " ".join(sorted(target.features)))
    return table


def ratios(first: Rates, second: Rates) -> list[dict[str, Any]]:
    """Each rate that both have, and the first over the second: {what, of, first, second, ratio}."""
    found = []
    for kind, title in (("dots", "registers only"), ("loops", "inner loop of 1x1")):
        others = dict(getattr(second, kind))
        found += [(title, row, rate, others[row]) for row, rate in getattr(first, kind) if row in others]
    found += [("reading", label, getattr(first, name), getattr(second, name)) for label, name in _MEMORY.items()]
    return [{"what": what, "of": of, "first": a, "second": b, "ratio": a / b} for what, of, a, b in found]


def ratios_table(rows: Sequence[dict[str, Any]], first: str, second: str) -> Table:
    """Rates of two profiles side by side."""
    table = Table("rate", "of", title=f"{first} ÷ {second}")
    for heading in ("first", "second", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["what"], row["of"], *[f"{row[name]:.1f}" for name in ("first", "second")], f"{row['ratio']:.2f}"
        )
    return table


def rates_table(rates: Rates) -> Table:
    """Rates of dot rows and of memory."""
    table = Table(title=rates.kind, caption=rates.source, caption_justify="left")
    table.add_column("of one core")
    table.add_column("registers only", justify="right")
    table.add_column("inner loop of 1x1", justify="right")
    for name, rate in rates.dots:
        loop = rates.loop(name)
        table.add_row(name, f"{rate:.1f} GMAC/s", "" if loop is None else f"{loop:.1f} GMAC/s")
    table.add_section()
    for label, name in _MEMORY.items():
        table.add_row(f"reading {label}", f"{getattr(rates, name):.1f} GB/s")
    return table
