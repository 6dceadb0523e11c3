"""Policies roofline and learned: what they follow, when they fall back, and that they say so."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from selector import features
from selector.lowering.version import KERNEL_VERSION
from selector.policy import Decision, learned, release, resolve
from selector.policy.forest import Forest
from selector.policy.learned import Learned, ModelWarning
from selector.policy.model import LEAST_TRUST, MARGIN
from selector.policy.roofline import Roofline
from selector.policy.rule import Rule
from selector.target import profile
from tests.policy import released

V3 = profile("x86-64-v3")
WORKLOADS = released.training_workloads()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that follows every prediction inside of its ranges."""
    return released.write(tmp_path_factory.mktemp("models") / "test")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Nothing is remembered of other tests' models."""
    learned._loaded.cache_clear()


def test_roofline_takes_the_shorter_time() -> None:
    decisions = Roofline().decide_all(WORKLOADS, V3)
    ratios = features.matrix(WORKLOADS, V3)[:, features.RATIO]
    assert {decision.lowering for decision in decisions} == {"int8", "int16"}
    for decision, ratio in zip(decisions, ratios, strict=True):
        assert decision.lowering == ("int8" if ratio >= 0 else "int16")
        assert (decision.source, decision.log2_ratio) == ("roofline", ratio)
        assert decision.rates == "measured"
        assert decision.reason.endswith("us from measured rates")
    assert Roofline().decide(WORKLOADS[3], V3) == decisions[3]


def test_follows_the_trees(folder: Path) -> None:
    policy, model = Learned(folder), release.load(folder).model
    decisions = policy.decide_all(WORKLOADS, V3)
    predicted = model.predict(features.matrix(WORKLOADS, V3))
    assert {decision.lowering for decision in decisions} == {"int8", "int16"}
    for decision, ratio in zip(decisions, predicted, strict=True):
        assert (decision.source, decision.fallback, decision.trust) == ("learned", "", 1.0)
        assert decision.lowering == ("int16" if ratio < 0 else "int8")
        assert decision.log2_ratio == ratio
        low, high = released.INTERVALS.around(np.array([ratio]))
        assert decision.interval == (low[0], high[0])
        assert f"predicted to take {2 ** abs(ratio):.2f} times as long, from measured rates" in decision.reason
        assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert policy.decide(WORKLOADS[5], V3) == decisions[5]
    assert policy.decide_all([WORKLOADS[i] for i in (5, 3, 5)], V3) == [decisions[i] for i in (5, 3, 5)]


def test_movers_are_the_strongest_contributions(folder: Path) -> None:
    decision = Learned(folder).decide(WORKLOADS[0], V3)
    changes = release.load(folder).model.changes(features.describe(WORKLOADS[:1], V3), V3)[0]
    strongest = sorted(zip(features.NAMES, changes, strict=True), key=lambda item: -abs(item[1]))[:3]
    assert decision.movers == tuple((name, float(change)) for name, change in strongest)


@pytest.mark.parametrize(
    ("name", "untrained"),
    [
        ("cascadelake", "avx512vnni_vpdpbusd was never trained on and avx512vnni_vpdpwssd was never trained on"),
        ("cortex-a72", "neon_smlal was never trained on"),
    ],
)
def test_instructions_that_were_never_trained_on(folder: Path, name: str, untrained: str) -> None:
    target = profile(name)
    for decision, expected in zip(
        Learned(folder).decide_all(WORKLOADS[:4], target), Roofline().decide_all(WORKLOADS[:4], target), strict=True
    ):
        assert (decision.source, decision.rates, decision.trust) == ("roofline", "modelled", None)
        assert decision.lowering == expected.lowering
        assert untrained in decision.fallback
        assert decision.reason == f"learned → roofline: {decision.fallback}; {expected.reason}"


def test_another_cpu_with_instructions_that_were_trained_on(tmp_path: Path) -> None:
    """On a CPU that was never measured the trees count in part: as much as their form of kernel is worth there."""
    haswell = profile("haswell")
    layers = features.describe(WORKLOADS, haswell)
    form = next(form for form in layers.forms if form.startswith("direct"))
    policy = Learned(released.write(tmp_path / "test", trust={form: 0.75}))
    trees = released.model().predict(layers.x)
    for workload, row in list(zip(WORKLOADS, layers.row_of, strict=True))[::7]:
        decision = policy.decide(workload, haswell)
        share = 0.75 if layers.forms[row] == form else LEAST_TRUST
        assert (decision.source, decision.trust) == ("learned", share)
        assert decision.log2_ratio == pytest.approx(share * trees[row] + (1 - share) * layers.roofline[row])
        assert f"no CPU like it was measured, so the trees count {share:.0%}" in decision.reason


def test_more_threads_than_were_trained_on_are_the_trees(folder: Path) -> None:
    for threads in (2, 8, 64):
        works = [replace(work, threads=threads) for work in WORKLOADS]
        assert {decision.source for decision in Learned(folder).decide_all(works, V3)} == {"learned"}


def test_caches_and_bandwidths_outside_of_the_training_range_are_the_trees(folder: Path) -> None:
    assert V3.rates is not None
    rates = replace(V3.rates, dram_gbs=1.0, dram_all_gbs=1.0, l2_gbs=1e4)
    for target in (replace(V3, l2_bytes=64 << 20, l3_bytes=1 << 30), replace(V3, rates=rates)):
        assert {decision.source for decision in Learned(folder).decide_all(WORKLOADS, target)} == {"learned"}


def test_far_outside_of_the_training_range(tmp_path: Path) -> None:
    """Only what says what is computed counts, and only if a split looks at it."""
    name = "macs"
    column, x = features.NAMES.index(name), released.training_features()
    huge = replace(WORKLOADS[0], in_height=3000, in_width=3000, out_channels=8192)
    for used, source in ((column, "roofline"), (features.RATIO, "learned")):
        kept = np.zeros_like(x)
        kept[:, used] = x[:, used]
        data = lightgbm.Dataset(kept, x[:, used], feature_name=list(features.NAMES))
        text = lightgbm.train({"verbose": -1, "num_threads": 1}, data, num_boost_round=3).model_to_string()
        folder = released.write(tmp_path / source, text=text, forest=Forest.parse(text))
        outside, inside = Learned(folder).decide_all([huge, WORKLOADS[0]], V3)
        assert (inside.source, outside.source) == ("learned", source)
    low, high = released.model().ranges[name]
    margin = MARGIN * (high - low)
    target = features.describe([WORKLOADS[0]], V3)
    for value, falls_back in ((high + 0.99 * margin, False), (high + 1.01 * margin, True), (low - 1.01 * margin, True)):
        moved = target.x.copy()
        moved[:, column] = value
        why = released.model().judge(replace(target, x=moved), V3).fallback[0]
        assert bool(why) == falls_back
        side = f"above the training range {2**high:.0f}" if value > high else f"below the training range {2**low:.0f}"
        assert why.startswith("macs ") == why.endswith(f"is far {side}") == falls_back


@pytest.mark.parametrize(
    ("interval", "certainty"),
    [
        ((0.01, 0.2), ""),
        ((-0.4, -0.1), ""),
        ((-0.05, 0.09), "tie"),
        ((-0.05, 0.2), "unsure"),
        ((-0.3, 0.01), "unsure"),
        (None, ""),
    ],
)
def test_ties_and_doubts(interval: tuple[float, float] | None, certainty: str) -> None:
    assert Decision("int8", "learned", "made up", log2_ratio=0.0, interval=interval).certainty == certainty


def test_without_a_model_the_rule_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(release.ENVIRONMENT, str(tmp_path / "none"))
    with pytest.warns(ModelWarning, match="decides by the rule: .*no such folder"):
        decisions = resolve("learned").decide_all(WORKLOADS[:3], V3)  # type: ignore[attr-defined]
    for decision, workload in zip(decisions, WORKLOADS, strict=False):
        expected = Rule().decide(workload, V3)
        assert (decision.lowering, decision.source) == (expected.lowering, "rule")
        assert decision.reason.startswith("learned → rule: ")
        assert decision.reason.endswith(expected.reason)


def test_a_tampered_model_is_not_followed(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "test")
    path = folder / "trees.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=-9", 1))
    with pytest.warns(ModelWarning, match=r"trees.txt is not the file that was released"):
        assert Learned(folder).decide(WORKLOADS[0], V3).source == "rule"


def test_a_stale_model_warns_and_decides(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "test", kernels=KERNEL_VERSION - 1)
    with pytest.warns(ModelWarning, match=r"was trained on kernels .*`selector train`"):
        assert Learned(folder).decide(WORKLOADS[0], V3).source == "learned"


def test_a_model_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Learned(folder).decide(WORKLOADS[0], V3)
    monkeypatch.setattr(release, "load", lambda folder: pytest.fail("read again"))
    Learned(folder).decide(WORKLOADS[1], V3)


def test_no_layers(folder: Path) -> None:
    assert Learned(folder).decide_all([], V3) == []
    assert Roofline().decide_all([], V3) == []


def test_needs_none_of_what_training_needs(folder: Path) -> None:
    script = f"""
import sys
from selector.policy.learned import Learned
from selector.target import profile
from selector.workload import ConvWorkload
import pathlib
work = ConvWorkload(1, 14, 14, 64, 64, 1, 1, term2=False, channel_bound=1 << 16)
print(Learned(pathlib.Path({str(folder)!r})).decide(work, profile("x86-64-v3")).source)
print(sorted({{"lightgbm", "sklearn", "mlflow", "pandas", "polars", "pyarrow", "scipy"}} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["learned", "[]"]


def test_says_what_kind_of_rates_it_rests_on(folder: Path) -> None:
    unknown = profile('{"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64"}')
    for target, kind in ((V3, "measured"), (profile("cortex-a53"), "modelled"), (unknown, "assumed")):
        decision = Learned(folder).decide(WORKLOADS[0], target)
        assert decision.rates == kind
        assert f"from {kind} rates" in decision.reason
    assert Rule().decide(WORKLOADS[0], V3).rates is None
