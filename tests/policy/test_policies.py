"""Fixed and rule policies, names, and the decision record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from selector.policy import LOWERING_NAMES, Decision, Policy, UnknownPolicy, resolve
from selector.policy.registry import DEFAULT, POLICIES
from selector.policy.roofline import Roofline
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload

DENSE = ConvWorkload(1, 8, 8, 16, 16, 3, 3)
DEPTHWISE = replace(DENSE, groups=16)


@pytest.mark.parametrize("name", LOWERING_NAMES)
def test_fixed(name: str) -> None:
    decision = resolve(name).decide(DENSE, profile("x86-64"))
    assert (decision.lowering, decision.source, decision.log2_ratio) == (name, name, None)


@pytest.mark.parametrize(
    ("target", "work", "lowering"),
    [
        ("x86-64", DENSE, "int16"),
        ("x86-64-v2", DENSE, "int8"),
        ("x86-64-v3", DEPTHWISE, "int8"),
        ("cortex-a72", DENSE, "int8"),
        ("cortex-a72", DEPTHWISE, "int16"),
        ("neoverse-n1", DEPTHWISE, "int8"),
    ],
)
def test_rule(target: str, work: ConvWorkload, lowering: str) -> None:
    decision = resolve("rule").decide(work, profile(target))
    assert decision.lowering == lowering
    assert decision.source == "rule"
    assert decision.reason


def test_rule_on_other_architectures() -> None:
    other = replace(profile("native"), arch="riscv64")
    assert resolve("rule").decide(DENSE, other).lowering == "int16"


def test_every_name_resolves() -> None:
    assert DEFAULT in POLICIES
    for name in POLICIES:
        assert isinstance(resolve(name), Policy)
    assert type(resolve(None)) is type(resolve(DEFAULT))


def test_any_object_that_decides() -> None:
    class Mine:
        def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
            return Decision("int16", source="mine", reason="because")

    mine = Mine()
    assert resolve(mine) is mine


def test_unknown_policies() -> None:
    with pytest.raises(UnknownPolicy, match=r"unknown policy 'psychic': give one of .*rule"):
        resolve("psychic")
    with pytest.raises(UnknownPolicy, match="needs a method 'decide"):
        resolve(object())  # type: ignore[arg-type]
    with pytest.raises(UnknownPolicy, match=r"a policy is an object, got the class Roofline: give Roofline\(\)"):
        resolve(Roofline)  # type: ignore[arg-type]


@pytest.mark.parametrize("workload", [None, DEPTHWISE])
def test_decision_round_trip(workload: ConvWorkload | None) -> None:
    decision = Decision("int8", "rule", "why", log2_ratio=0.25, layer="conv", workload=workload)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
