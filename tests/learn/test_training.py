"""Training on a made-up machine: repeatable, better than every rule, honest about what it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from selector import profiles
from selector.learn import baselines, card, evaluation, model, releasing, reproduction
from selector.learn.dataset import Dataset, from_frame
from selector.learn.evaluation import LEARNED, MODELLED, TREES
from selector.learn.pipeline import Trained, train
from selector.learn.recipe import Boosting, Recipe, Tuning, Weights
from selector.policy import release
from selector.policy.learned import Learned
from selector.policy.release import ReleaseError
from tests.learn.frames import TARGETS, frame, measurements
from tests.policy import released

SHAPES = 120  # with 80, a network has so few that the outcome depends on this machine's caches

RECIPE = Recipe(
    "test",
    folds=3,
    prior=0.5,
    boosting=Boosting(num_iterations=60, learning_rate=0.1, num_leaves=8, min_data_in_leaf=4),
    monotone={"ratio_time": 1},
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return from_frame(frame(measurements(SHAPES)))


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Trained:
    return train(data, RECIPE)


def test_weights_are_cost_times_certainty(data: Dataset) -> None:
    rows = np.arange(3)
    part = replace(data.take(rows), log2_ratio=np.array([0.0, -5.0, 0.5]), width=np.array([0.0, 0.0, 0.2]))
    weights = model.sample_weights(part, Weights(floor=0.1, width=0.2))
    np.testing.assert_allclose(weights / weights[0], [1, 0.1 / 5.1, 0.1 / 0.6 / 2])
    assert weights.mean() == pytest.approx(1)


def test_same_rows_make_the_same_bytes(data: Dataset, trained: Trained) -> None:
    again = from_frame(frame(measurements(SHAPES)[::-1]))
    assert model.fit(again, RECIPE, RECIPE.boosting).trees == trained.fitted.trees


def test_tuning_repeats_and_stays_in_its_space(data: Dataset) -> None:
    tuned = replace(RECIPE, tuning=Tuning(trials=3, folds=2, space={"num_leaves": (4, 10), "lambda_l2": (0.5, 2.0)}))
    first, second = model.tune(data, tuned), model.tune(data, tuned)
    assert first == second
    assert 4 <= first.num_leaves <= 10
    assert 0.5 <= first.lambda_l2 <= 2.0
    assert first.learning_rate == RECIPE.boosting.learning_rate


def test_trees_beat_every_rule_on_held_out_shapes_and_networks(trained: Trained) -> None:
    for protocol in ("shape", "network"):
        scores = trained.evaluation.held_out[protocol].scores()
        assert scores[TREES].mean > max(scores[name].mean for name in baselines.KNOWN)
        assert scores[TREES].mean > 0.97


def test_protocols_cover_what_they_say(data: Dataset, trained: Trained) -> None:
    held_out = trained.evaluation.held_out
    assert len(held_out["shape"].rows) == len(held_out["target"].rows) == len(data)
    assert set(held_out["network"].folds) == {"net_a", "net_b", "net_c"}
    assert set(held_out["network"].chosen) == {LEARNED, TREES, *baselines.NAMES}
    assert len(held_out["network"].rows) == sum(len(names) for names in data.networks)


def test_what_is_evaluated_is_the_model_that_the_compiler_asks(data: Dataset, trained: Trained) -> None:
    """Every held-out row is judged by the one implementation, with the dot rows and CPUs of its training rows."""
    held_out = trained.evaluation.held_out["target"]
    untrained = np.array([bool(why) for why in held_out.judged.fallback])
    np.testing.assert_array_equal(held_out.chosen[LEARNED][untrained], held_out.chosen["roofline"][untrained])
    np.testing.assert_array_equal(held_out.chosen[LEARNED], held_out.judged.int16)
    trusting = ~untrained & (held_out.judged.trust == 1)
    np.testing.assert_array_equal(held_out.judged.ratio[trusting], held_out.trees[trusting])
    rest = data.take(np.flatnonzero(data.targets != "x86-64"))
    fold = held_out.folds == "x86-64"
    judged = data.take(np.flatnonzero(data.targets == "x86-64")).judge(model.fit(rest, RECIPE, RECIPE.boosting).model)
    np.testing.assert_array_equal(judged.ratio, held_out.judged.ratio[fold])


def test_held_out_predictions_row_by_row(trained: Trained) -> None:
    frame = trained.evaluation.frame()
    assert set(frame["protocol"]) == {"shape", "network", "target"}
    shape = frame.filter(frame["protocol"] == "shape")
    held_out = trained.evaluation.held_out["shape"]
    np.testing.assert_array_equal(shape["log2_ratio"], held_out.rows.log2_ratio)
    np.testing.assert_array_equal(shape["predicted"], held_out.judged.ratio)
    np.testing.assert_array_equal(shape["int16_by_learned"], held_out.chosen[LEARNED])
    assert shape["key"].n_unique() == len(shape)


def test_intervals_hold_what_they_say(trained: Trained) -> None:
    """On networks, from residuals of shapes; the made-up machine's noise is 0.01."""
    known = trained.fitted.model.known
    assert known is not None
    assert list(known.at) == sorted(known.at)
    coverage = trained.evaluation.held_out["network"].coverage()
    assert 0.6 < coverage["all"] < 0.95
    low, high = known.around(np.array([0.0, -0.3, 0.3]))
    assert (low <= high).all()
    np.testing.assert_allclose(high[2] - low[2], high[1] - low[1])


def test_intervals_are_quantiles_of_what_was_held_out() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(-1, 1, 4000)
    spread = 0.02 + 0.2 * np.abs(predicted)
    measured = predicted + spread * rng.normal(size=4000)
    found = model.fit_intervals(predicted, measured)
    assert found is not None
    low, high = found.around(predicted)
    inside = (low <= measured) & (measured <= high)
    for rows in (np.abs(predicted) < 0.1, np.abs(predicted) > 0.1, predicted < 0):
        assert inside[rows].mean() == pytest.approx(0.8, abs=0.03)
    assert model.fit_intervals(predicted[:10], measured[:10]) is None


def test_trust_follows_what_carries_over_to_another_cpu(data: Dataset) -> None:
    """Two CPUs that agree with the trees get full trust, two that contradict each other the least."""
    half = np.arange(len(data)) % 2 == 0
    cpus = np.where(half, "first CPU", "second CPU")
    alike = replace(data, cpus=cpus)
    contradicting = replace(alike, log2_ratio=np.where(half, data.log2_ratio, -data.log2_ratio))
    trusts = [model.fit_trust(rows, RECIPE, RECIPE.boosting) for rows in (alike, contradicting)]
    assert trusts[0].keys() == trusts[1].keys() != set()
    assert max(trusts[0].values()) > 0.5
    assert np.mean(list(trusts[1].values())) < np.mean(list(trusts[0].values()))
    assert model.fit_trust(data, RECIPE, RECIPE.boosting) == {}
    found = evaluation.evaluate(alike, replace(RECIPE, folds=2)).held_out["cpu"]
    assert set(found.folds) == {"first CPU", "second CPU"}
    assert (found.judged.trust < 1).all()
    bars = [item.what for item in evaluation.Evaluation({"cpu": found}).verdicts()]
    assert sum(bar.startswith(evaluation.CPU_BAR) for bar in bars) == len(bars) == 2 + 4


def test_verdicts_name_every_target(trained: Trained) -> None:
    verdicts = trained.evaluation.verdicts()
    text = "\n".join(item.what for item in verdicts)
    for target in ("x86-64", "x86-64-v3"):
        assert f"held-out network: {target}, mean above" in text
        assert f"held-out target: {target}, mean not below rule" in text
    floors = [item for item in verdicts if "80 % intervals" not in item.what]
    assert {item.met for item in floors if item.reached < item.wanted} <= {False}
    assert len(verdicts) - len(floors) == len(trained.evaluation.held_out["network"].coverage())


def test_progress_reaches_the_end(data: Dataset) -> None:
    seen: list[float] = []
    quick = replace(RECIPE, folds=2, boosting=replace(RECIPE.boosting, num_iterations=2))
    evaluation.evaluate(data, quick, lambda _, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_release_predicts_and_decides_as_evaluated(data: Dataset, trained: Trained, tmp_path: Path) -> None:
    releasing.write(trained, tmp_path / "model")
    made = release.load(tmp_path / "model")
    assert made.model == replace(trained.fitted.model, forest=made.model.forest)
    judged = data.judge(trained.fitted.model)
    np.testing.assert_array_equal(data.judge(made.model).ratio, judged.ratio)
    np.testing.assert_array_equal(baselines.choices(Learned(tmp_path / "model"), data), judged.int16)
    booster = lightgbm.Booster(model_str=trained.fitted.trees)
    np.testing.assert_allclose(made.model.forest.predict(data.features), booster.predict(data.features), atol=1e-12)


def test_a_release_is_reproduced_from_its_rows(data: Dataset, trained: Trained, tmp_path: Path) -> None:
    releasing.write(trained, tmp_path / "model")
    made = release.load(tmp_path / "model")
    same = reproduction.reproduce(made, data)
    assert (same.reproduced, same.same_trees, same.same_decisions) == (True, True, len(data))
    assert same.digest == same.released_digest
    flipped = replace(data, log2_ratio=-data.log2_ratio)
    other = reproduction.reproduce(made, flipped, tune=False)
    assert (other.reproduced, other.same_trees) == (False, False)
    assert other.digest != other.released_digest


def test_a_release_without_its_recipe_is_refused(data: Dataset, tmp_path: Path) -> None:
    made = release.load(released.write(tmp_path / "model"))
    with pytest.raises(ReleaseError, match=r"test cannot be trained again: .*KeyError"):
        reproduction.reproduce(made, data)


def test_a_slice_is_reproduced_in_seconds(data: Dataset, trained: Trained, tmp_path: Path) -> None:
    releasing.write(trained, tmp_path / "model")
    made = release.load(tmp_path / "model")
    same = reproduction.reproduce_slice(made, data)
    assert (same.reproduced, same.same_trees, same.digest) == (True, True, same.released_digest)
    assert 0 < same.rows < len(data) / 4
    other = reproduction.reproduce_slice(made, replace(data, log2_ratio=-data.log2_ratio))
    assert not other.same_trees
    assert other.digest != other.released_digest
    bare = replace(made, extra={name: value for name, value in made.extra.items() if name != "slice"})
    with pytest.raises(ReleaseError, match="says nothing of a slice"):
        reproduction.reproduce_slice(bare, data)


def test_roofline_baseline_is_the_policy(data: Dataset) -> None:
    from selector.policy.roofline import Roofline

    np.testing.assert_array_equal(baselines.KNOWN["roofline"](data), baselines.choices(Roofline(), data))


def test_held_out_targets_are_decided_from_modelled_profiles_too(data: Dataset, trained: Trained) -> None:
    held_out = trained.evaluation.held_out["target"]
    assert {LEARNED + MODELLED, TREES + MODELLED} <= set(held_out.chosen)
    assert LEARNED + MODELLED not in trained.evaluation.held_out["network"].chosen
    other = data.with_profiles(profiles.modelled_folder()).take(np.flatnonzero(data.targets == "x86-64"))
    rest = data.take(np.flatnonzero(data.targets != "x86-64"))
    fitted = model.fit(rest, RECIPE, RECIPE.boosting).model
    np.testing.assert_array_equal(
        held_out.chosen[TREES + MODELLED][held_out.folds == "x86-64"], fitted.predict(other.features) < 0
    )
    assert set(trained.agreement) == set(TARGETS)
    assert all(0.5 < share <= 1 for share in trained.agreement.values())
    assert f"| {TARGETS[0]} | {trained.agreement[TARGETS[0]]:.1%} |" in card.report(trained)


def test_without_modelled_profiles(data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiles, "modelled_folder", lambda: tmp_path)
    quick = replace(RECIPE, folds=2, boosting=replace(RECIPE.boosting, num_iterations=2))
    found = train(data, quick)
    assert found.agreement == {}
    assert LEARNED + MODELLED not in found.evaluation.held_out["target"].chosen
    assert "Modelled profiles" not in card.report(found)


def test_report_and_card_show_the_figures(trained: Trained) -> None:
    report, text = card.report(trained), card.model_card(trained)
    mean = trained.evaluation.held_out["network"].scores()[LEARNED].mean
    for document in (report, text):
        assert f"| **learned** | {mean:.4f} |" in document
        assert trained.dataset.digest in document
        assert document.count("\n# ") + document.startswith("# ") == 1
    assert "Known limits" in text
