"""Policy ``measure``: build and time both lowerings of every distinct workload, and take the faster.

The oracle that other policies are held against.  What it measures are rows of a dataset (``selector.collect.record``),
and it measures what the dataset does not have yet: ``selector collect merge`` and ``selector train --add`` take the
folder as it is.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from selector.data import cache_folder
from selector.policy.base import Decision
from selector.profiles import INSTRUCTION_SETS
from selector.target import NotMeasurable, TargetProfile, profile, why_not_here
from selector.workload import ConvWorkload

if TYPE_CHECKING:
    from selector.collect.record import Measurement

_ATTEMPTS = 2  # to time a pair before a noisy row decides


class Measured:
    """``folder``: of the dataset; None: ``measurements`` in the user's cache folder.

    A row there counts if it was measured on this machine, by this version of the kernels and of TVM, and is still in
    the journal: what ``selector collect`` has moved to Parquet files is measured anew.
    """

    def __init__(self, folder: Path | None = None, max_seconds: float = 0.5) -> None:
        self.folder = folder or cache_folder() / "measurements"
        self.max_seconds = max_seconds  # for timing one workload; what stays noisy is timed again, for twice as long
        self._run = uuid.uuid4().hex[:12]

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """The lowering that is faster here, measured now or before.

        Raises NotMeasurable for a target whose kernels this machine cannot run, StoreFull, and DatasetError where the
        folder cannot be written.
        """
        row = self.row(workload, target)
        assert row.int8 and row.int16 and row.log2_ratio is not None  # "ok" or "noisy": what fails raises
        return Decision(
            "int16" if row.log2_ratio < 0 else "int8",
            source="measure",
            reason=f"measured int8 {row.int8.median_us:.0f} us, int16 {row.int16.median_us:.0f} us",
            log2_ratio=row.log2_ratio,
        )

    def row(self, workload: ConvWorkload, target: TargetProfile) -> Measurement:
        """The measurement that decides: of the workload that stands for all that get the same kernels.

        Raises what ``decide`` raises.
        """
        from selector.collect import runner
        from selector.collect.formats import canonical
        from selector.collect.host import describe_host
        from selector.collect.journal import Journal
        from selector.collect.protocol import Rules
        from selector.collect.record import SCHEMA_VERSION, measurement_key
        from selector.collect.row import from_row

        _check_runs_here(target)
        workload, name = canonical(workload), _name(target)
        with Journal(self.folder) as journal:
            rows = journal.find(measurement_key(workload, name))
            known = [from_row(row) for row in rows if row["schema_version"] == SCHEMA_VERSION]
            for row in reversed(known):
                if row.host == describe_host() and row.log2_ratio is not None:
                    return row
            for attempt in range(1, _ATTEMPTS + 1):
                rules = Rules(max_seconds=self.max_seconds).for_attempt(attempt)
                about = runner.About(attempts=attempt, run=self._run)
                row = runner.measure(workload, target, target_name=name, rules=rules, about=about)
                if row.status == "ok":
                    break
            journal.add(row)
        return row


def _name(target: TargetProfile) -> str:
    """What a row calls the target: the CPU's name; all of the target, in JSON, where its instructions are others."""
    differing = (target.features ^ profile(target.name).features) & INSTRUCTION_SETS
    return target.spec if differing else target.name


def _check_runs_here(target: TargetProfile) -> None:
    reason = why_not_here(target)
    if reason:
        raise NotMeasurable(
            f"policy 'measure' runs the kernels it compares, but this machine {reason}: measure on a {target.name}, or "
            "choose another policy"
        )
