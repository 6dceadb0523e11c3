"""Golden values: what today's kernels, features and released model are, in a file each.

They make sure that a number is raised where something that it stands for changes, and that nothing else (a comment, a
rename) changes anything.  A file holds the number, the values and a checksum over both.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import selector
from selector import features
from selector.collect.sampling import sample
from selector.collect.synthetic import synthesize
from selector.features import FEATURE_VERSION
from selector.lowering import LOWERINGS, build
from selector.lowering.version import KERNEL_VERSION, code_hash
from selector.policy import release
from selector.policy.learned import Learned
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload

FOLDER = Path(__file__).parent
NETWORKS = FOLDER.parents[1] / "datasets/networks"
THREADS = (1, 2, 8)
ROWS = 40  # workloads whose kernels and features are kept

# Every target that the released model was trained on, and the CPU whose caches and rates are meant.
ZEN3, ZEN4 = "AMD EPYC (family 25, model 1)", "AMD EPYC (family 25, model 17)"
XEON = "Intel(R) Xeon(R) Processor (family 6, model 207)"
TARGETS = {
    "x86-64": ZEN3,
    "x86-64-v2": XEON,
    "x86-64-v3": ZEN3,
    "x86-64-v4": ZEN4,
    "alderlake": XEON,
    "emeraldrapids": XEON,
    "znver4": ZEN4,
}


class GoldenError(AssertionError):
    """A golden file cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Guard:
    """What one file guards."""

    version: Callable[[], Any]  # the number that is raised
    values: Callable[[str], dict[str, Any]]  # target -> name -> value
    advice: str  # what to do where a value changed and the number did not


def known(target: str) -> TargetProfile:
    """The profile of one of TARGETS, the same on every machine."""
    return profile(target, measured_on=TARGETS[target])


@functools.cache
def workloads() -> tuple[ConvWorkload, ...]:
    """Convolutions of every kind, from small to medium, on one thread and on two."""
    drawn = sample(3 * ROWS, seed=7, threads=(1, 2))
    return tuple([work for work in drawn if work.macs() < 3e7][:ROWS])


def _kernels(target: str) -> dict[str, Any]:
    found = {}
    for number, work in enumerate(workloads()):
        constants, _ = synthesize(work, number)
        for lowering in LOWERINGS:
            found[f"{number} {work.describe()} {lowering}"] = code_hash(build(work, constants, known(target), lowering))
    return found


def _features(target: str) -> dict[str, Any]:
    rows = features.matrix(workloads(), known(target)).tolist()
    return {
        f"{number} {work.describe()}": dict(zip(features.NAMES, row, strict=True))
        for number, (work, row) in enumerate(zip(workloads(), rows, strict=True))
    }


def _decisions(target: str) -> dict[str, Any]:
    found = {}
    for path in sorted(NETWORKS.glob("*.onnx")):
        for threads in THREADS:
            works = [replace(work, threads=threads) for work in _layers(path)]
            decided = Learned(release.champion()).decide_all(works, known(target))
            letters = "".join({"int8": "b", "int16": "w"}[decision.lowering] for decision in decided)
            trees = sum(not decision.fallback for decision in decided)
            found[f"{path.stem}, {threads} threads"] = {"lowerings": letters, "by trees": trees}
    return found


@functools.cache
def _layers(path: Path) -> tuple[ConvWorkload, ...]:
    return tuple(selector.extract_workloads(path, threads=1))


GUARDS = {
    "kernels": Guard(
        lambda: KERNEL_VERSION,
        _kernels,
        "kernels compile to other code: raise KERNEL_VERSION in selector/lowering/version.py, run `selector collect "
        "renumber datasets/measurements`, measure what changed (`selector collect`) and train again (`selector train`)",
    ),
    "features": Guard(
        lambda: FEATURE_VERSION,
        _features,
        "features have other values: raise FEATURE_VERSION in selector/features/table.py and train again "
        "(`selector train`); nothing has to be measured",
    ),
    "decisions": Guard(
        lambda: release.load(release.champion()).folder.name,
        _decisions,
        "the released model decides otherwise: kernels and features that it rests on have changed, see the other "
        "golden files",
    ),
}


def write(name: str) -> Path:
    """Write a golden file with today's values; its path."""
    guard = GUARDS[name]
    body = {"version": guard.version(), "values": {target: guard.values(target) for target in TARGETS}}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"checksum": _checksum(body), **body}, indent=1) + "\n")
    return path


def read(name: str, folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The values of a golden file, by target.

    Raises GoldenError where it is missing, was edited, or is of another number than today's.
    """
    path = folder / f"{name}.json"
    again = f"`python -m tests.golden {name}` writes it"
    try:
        content = json.loads(path.read_text())
        body = {"version": content["version"], "values": content["values"]}
        checksum = content["checksum"]
    except FileNotFoundError:
        raise GoldenError(
            f"the golden file {path} is missing: restore it from the repository, or {again} anew"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise GoldenError(f"the golden file {path} is damaged: restore it from the repository") from None
    if checksum != _checksum(body):
        raise GoldenError(f"the golden file {path} was edited by hand: restore it from the repository; {again} anew")
    today = GUARDS[name].version()
    if body["version"] != today:
        raise GoldenError(f"the golden file {path} is of {name} {body['version']}, these are {today}: {again} anew")
    return body["values"]


def changed(name: str, target: str, values: dict[str, Any]) -> str:
    """What differs from the golden values of a target, and what to do; empty: nothing."""
    now = GUARDS[name].values(target)
    differing = list(_differences(values, now))
    if not differing:
        return ""
    return f"{len(differing)} of {target} differ ({differing[0]}): {GUARDS[name].advice}; `python -m tests.golden` then"


def _differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in sorted(then.keys() | now.keys()):
        before, after = then.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from (f"{key}: {text}" for text in _differences(before, after))
        elif before != after and not _equal(before, after):
            yield f"{key} is {after}, was {before}"


def _equal(before: Any, after: Any) -> bool:
    """Whether two numbers are the same but for the last digits, in which mathematical libraries differ."""
    numbers = isinstance(before, float | int) and isinstance(after, float | int)
    return numbers and abs(before - after) <= 1e-12 * max(abs(before), abs(after))


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
