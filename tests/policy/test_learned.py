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
from selector.policy import Decision, learned, release, resolve
from selector.policy.learned import Learned, ModelWarning
from selector.policy.roofline import Roofline
from selector.policy.rule import Rule
from selector.target import profile
from selector.workload import ConvWorkload
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
    ratios = features.matrix(WORKLOADS, V3)[:, features.NAMES.index("ratio_time")]
    assert {decision.lowering for decision in decisions} == {"int8", "int16"}
    for decision, ratio in zip(decisions, ratios, strict=True):
        assert decision.lowering == ("int8" if ratio >= 0 else "int16")
        assert (decision.source, decision.log2_ratio) == ("roofline", ratio)
        assert decision.rates == "measured"
        assert decision.reason.endswith("us from measured rates")
    assert Roofline().decide(WORKLOADS[3], V3) == decisions[3]


def test_follows_the_mean_of_the_ensemble(folder: Path) -> None:
    policy, model = Learned(folder), release.load(folder)
    decisions = policy.decide_all(WORKLOADS, V3)
    mean, spread = model.predict(features.matrix(WORKLOADS, V3))
    assert {decision.lowering for decision in decisions} == {"int8", "int16"}
    for decision, ratio, deviation in zip(decisions, mean, spread, strict=True):
        assert decision.source == "learned"
        assert decision.lowering == ("int8" if ratio > 0 else "int16")
        assert (decision.log2_ratio, decision.uncertainty) == (ratio, deviation)
        assert f"predicted to take {2 ** abs(ratio):.2f} times as long" in decision.reason
        assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert policy.decide(WORKLOADS[5], V3) == decisions[5]
    assert policy.decide_all([WORKLOADS[i] for i in (5, 3, 5)], V3) == [decisions[i] for i in (5, 3, 5)]


def test_movers_are_the_strongest_contributions(folder: Path) -> None:
    decision = Learned(folder).decide(WORKLOADS[0], V3)
    changes = release.load(folder).explain(features.matrix(WORKLOADS[:1], V3))[2][0]
    strongest = sorted(zip(features.NAMES, changes, strict=True), key=lambda item: -abs(item[1]))[:3]
    assert decision.movers == tuple((name, float(change)) for name, change in strongest)


def test_instructions_that_no_training_target_has(folder: Path) -> None:
    for name in ("cascadelake", "cortex-a72"):
        target = profile(name)
        for decision, expected in zip(
            Learned(folder).decide_all(WORKLOADS[:4], target), Roofline().decide_all(WORKLOADS[:4], target), strict=True
        ):
            assert (decision.source, decision.rates) == ("roofline", "modelled")
            assert decision.lowering == expected.lowering
            assert decision.reason.startswith(
                f"learned → roofline: no CPU with the instructions of {name} was trained on; int8 "
            )


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        (replace(WORKLOADS[0], out_channels=8192), "out_channels 8192 above the training range 256"),
        (replace(WORKLOADS[0], in_height=1, in_width=1), "out_pixels 1 below the training range 16"),
    ],
)
def test_outside_of_the_training_range(tmp_path: Path, workload: ConvWorkload, reason: str) -> None:
    """Of all features that lie outside, the one that is furthest; a model of one feature knows no other."""
    name = reason.split()[0]
    column = features.NAMES.index(name)
    x = released.training_features()
    kept = np.zeros_like(x)
    kept[:, column] = x[:, column]
    data = lightgbm.Dataset(kept, x[:, column], feature_name=list(features.NAMES))
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, data, num_boost_round=3)
    policy = Learned(released.write(tmp_path / "test", boosters=[booster.model_to_string()]))
    outside, inside = policy.decide_all([workload, WORKLOADS[0]], V3)
    assert inside.source == "learned"
    assert outside.source == "roofline"
    assert f"learned → roofline: {reason}; int8 " in outside.reason


def test_a_little_outside_is_no_matter(tmp_path: Path) -> None:
    wider = replace(WORKLOADS[0], in_height=40, in_width=40)
    strict = Learned(released.write(tmp_path / "strict", thresholds={"margin": 0.0}))
    generous = Learned(released.write(tmp_path / "generous", thresholds={"margin": 0.3}))
    assert strict.decide(wider, V3).source == "roofline"
    assert generous.decide(wider, V3).source == "learned"


@pytest.mark.parametrize("limit", ["band", "spread"])
def test_too_close_to_call(tmp_path: Path, limit: str) -> None:
    sure = Learned(released.write(tmp_path / "sure")).decide_all(WORKLOADS, V3)
    assert all(decision.log2_ratio is not None and decision.uncertainty is not None for decision in sure)
    scores = [abs(item.log2_ratio or 0) / (1 if limit == "band" else item.uncertainty or 1) for item in sure]
    threshold = float(np.median(scores))
    decisions = Learned(released.write(tmp_path / "unsure", thresholds={limit: threshold})).decide_all(WORKLOADS, V3)
    sources = ["roofline" if score < threshold else "learned" for score in scores]
    assert [decision.source for decision in decisions] == sources
    assert {"roofline", "learned"} == set(sources)
    unsure = decisions[sources.index("roofline")]
    assert "learned → roofline: too close to call, predicted int16 ÷ int8" in unsure.reason


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
    path = folder / "model-1.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=-9", 1))
    with pytest.warns(ModelWarning, match=r"model-1.txt is not the file that was released"):
        assert Learned(folder).decide(WORKLOADS[0], V3).source == "rule"


def test_a_stale_model_warns_and_decides(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "test", fingerprint="0" * 16)
    with pytest.warns(ModelWarning, match=r"was trained on other kernels .*`selector train`"):
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
