"""Which tasks are left, in which order, and which of them a model asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector.collect.record import measurement_key
from selector.collect.sources import Candidate
from selector.collect.tasks import pending
from selector.target import TargetProfile
from selector.workload import ConvWorkload

CANDIDATES = [Candidate(ConvWorkload(1, size, size, 8, 8, 1, 1), ("net",)) for size in (1, 2, 3)]
TARGETS = {"v1": "x86-64", "v2": "x86-64-v2"}


def test_targets_of_a_workload_are_neighbours() -> None:
    tasks = pending(CANDIDATES, TARGETS, set())
    assert [(task.workload.in_height, task.target_name) for task in tasks] == [
        (size, name) for size in (1, 2, 3) for name in ("v1", "v2")
    ]
    assert {(task.target, task.networks, task.attempt) for task in tasks} == {
        ("x86-64", ("net",), 1),
        ("x86-64-v2", ("net",), 1),
    }


def test_finished_ones_are_left_out() -> None:
    finished = {measurement_key(CANDIDATES[0].workload, "v1"), measurement_key(CANDIDATES[2].workload, "v2")}
    tasks = pending(CANDIDATES, TARGETS, finished)
    assert {(task.workload.in_height, task.target_name) for task in tasks} == {
        (1, "v2"),
        (2, "v1"),
        (2, "v2"),
        (3, "v1"),
    }


def test_a_model_asks_for_what_it_is_least_sure_of() -> None:
    class Model:
        def predict(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> tuple[np.ndarray, np.ndarray]:
            doubt = [work.in_height if target.name == "x86-64" else -work.in_height for work in workloads]
            return np.zeros(len(workloads)), np.exp(doubt)

    tasks = pending(CANDIDATES, TARGETS, {measurement_key(CANDIDATES[2].workload, "v1")}, Model(), 1)
    assert [(task.workload.in_height, task.target_name) for task in tasks] == [(2, "v1"), (1, "v2")]
