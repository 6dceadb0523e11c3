"""Lowerings given up for a library of at most some bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from selector import features
from selector.lowering.plan import library_bytes
from selector.policy import Decision
from selector.policy.budget import SOURCE, SizeError, fit
from selector.target import profile
from selector.workload import ConvWorkload

TARGET = profile("x86-64-v3")
SIZES = (32, 64, 96, 128)


def decisions(lowering: str = "int16") -> list[Decision]:
    """One for each of a few 3×3 layers, and one for a layer that is left to TVM."""
    made = []
    for size in SIZES:
        work = ConvWorkload(1, 14, 14, size, size, 3, 3, padding=(1, 1, 1, 1), channel_bound=size * 9 * 16, term2=False)
        made.append(Decision(lowering, "mine", "because", layer=f"conv{size}", workload=work))  # type: ignore[arg-type]
    return [*made, Decision("tvm", "unsupported", "no", layer="float")]


def total(found: list[Decision], *, lazy: bool = False) -> int:
    """Bytes of the weights."""
    sizes = [(one, library_bytes(one.workload, TARGET, lazy_weights=lazy)) for one in found if one.workload]
    return sum(size[one.lowering] for one, size in sizes)


def test_what_fits_is_left_alone() -> None:
    given = decisions()
    assert fit(given, TARGET, total(given) + 1000, 1000, lazy_weights=False) == given
    assert fit(decisions("int8"), TARGET, 10**9, 0, lazy_weights=False) == decisions("int8")


def test_what_gains_least_for_most_is_given_up_first() -> None:
    given = decisions()
    given[2] = replace(given[2], log2_ratio=-0.001, trust=1.0)  # int16 is hardly faster
    found = fit(given, TARGET, total(given) - 1, 0, lazy_weights=False)
    assert [one.lowering for one in found] == ["int16", "int16", "int8", "int16", "tvm"]
    assert (found[2].source, found[2].trust) == (SOURCE, None)
    assert found[2].reason.startswith("saves ")
    assert "by mine" in found[2].reason
    assert (found[2].layer, found[2].workload) == (given[2].layer, given[2].workload)


@pytest.mark.parametrize("percent", [20, 40, 60, 80])
def test_near_the_best_of_all_choices(percent: int) -> None:
    given = decisions()
    least = total([replace(one, lowering="int8") if one.workload else one for one in given])
    room = least + (total(given) - least) * percent // 100
    found = fit(given, TARGET, room, 0, lazy_weights=False)
    assert total(found) <= room
    seconds = features.describe([one.workload for one in given if one.workload], TARGET).seconds

    def time(names: tuple[str, ...]) -> float:
        return sum(float(row[int(name == "int16")]) for row, name in zip(seconds, names, strict=True))

    def size(names: tuple[str, ...]) -> int:
        return total([replace(one, lowering=name) for one, name in zip(given, names, strict=False)])  # type: ignore[arg-type]

    best = min(time(names) for names in itertools.product(("int8", "int16"), repeat=len(SIZES)) if size(names) <= room)
    assert time(tuple(one.lowering for one in found[:-1])) <= 1.2 * best


def test_lazy_weights_count_as_they_are_stored() -> None:
    given = decisions()
    assert total(given, lazy=True) < total(given) / 2
    assert fit(given, TARGET, total(given, lazy=True), 0, lazy_weights=True) == given


def test_the_least_size_is_said() -> None:
    with pytest.raises(SizeError, match=r"cannot be as small as 0\.00 MB: it takes at least 2\.\d\d MB$"):
        fit(decisions(), TARGET, 1000, 2_000_000, lazy_weights=False)


def test_layers_of_one_lowering_stay() -> None:
    work = ConvWorkload(1, 14, 14, 32, 32, 3, 3, data_dtype="int16", out_dtype="int16")
    only = [Decision("int16", "only lowering", "its data is int16", layer="conv", workload=work)]
    size = total(only)
    assert fit(only, TARGET, size, 0, lazy_weights=False) == only
    with pytest.raises(SizeError):
        fit(only, TARGET, size - 1, 0, lazy_weights=False)
