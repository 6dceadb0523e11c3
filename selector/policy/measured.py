"""Policy ``measure``: build and time both lowerings of every distinct workload, and take the faster.

The oracle that other policies are held against.  Results are kept on disk, by workload, target and kernel fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from selector.data import cache_folder
from selector.policy.base import Decision
from selector.target import NotMeasurable, TargetProfile, profile, why_not_here
from selector.workload import ConvWorkload


class Measured:
    """``cache``: an SQLite file; None: ``measured.sqlite`` in the user's cache folder."""

    def __init__(self, cache: Path | None = None, max_seconds: float = 1.0) -> None:
        self.cache = cache or cache_folder() / "measured.sqlite"
        self.max_seconds = max_seconds  # for one workload

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """The lowering that is faster here, measured now or before.

        Raises NotMeasurable for a target whose kernels this machine cannot run.
        """
        from selector.lowering.fingerprint import kernel_fingerprint

        _check_runs_here(target)
        key = _key(workload, target, kernel_fingerprint())
        known = self._load(key)
        if known is None:
            known = self._measure(workload, target)
            self._save(key, known)
        ratio = known["log2_ratio"]
        reason = f"measured int8 {known['int8_us']:.0f} us, int16 {known['int16_us']:.0f} us"
        return Decision("int16" if ratio < 0 else "int8", source="measure", reason=reason, log2_ratio=ratio)

    def _measure(self, workload: ConvWorkload, target: TargetProfile) -> dict[str, float]:
        from selector.collect.protocol import Rules
        from selector.collect.runner import measure

        row = measure(workload, target, rules=Rules(max_seconds=self.max_seconds))
        assert row.int8 and row.int16 and row.log2_ratio is not None  # "ok" or "noisy": what fails raises
        return {"log2_ratio": row.log2_ratio, "int8_us": row.int8.median_us, "int16_us": row.int16.median_us}

    def _load(self, key: str) -> dict[str, float] | None:
        if not self.cache.exists():
            return None
        with closing(self._connect()) as connection:
            row = connection.execute("SELECT result FROM measured WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _save(self, key: str, result: dict[str, float]) -> None:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO measured VALUES (?, ?)", (key, json.dumps(result)))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.cache, timeout=30)
        connection.execute("CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, result TEXT NOT NULL)")
        return connection


def _key(workload: ConvWorkload, target: TargetProfile, fingerprint: str) -> str:
    fields = [workload.to_dict(), target.name, sorted(target.features), profile().name, fingerprint]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _check_runs_here(target: TargetProfile) -> None:
    reason = why_not_here(target)
    if reason:
        raise NotMeasurable(
            f"policy 'measure' runs the kernels it compares, but this machine {reason}: measure on a {target.name}, or "
            "choose another policy"
        )
