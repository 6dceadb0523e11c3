"""Training on a made-up machine: repeatable, better than every rule, honest about what it has not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selector import profiles
from selector.learn import baselines, card, evaluation, fallback, model, releasing, reproduction
from selector.learn.dataset import Dataset, from_frame
from selector.learn.evaluation import LEARNED, MODELLED, TREES
from selector.learn.pipeline import Trained, train
from selector.learn.recipe import Boosting, Recipe, Tuning, Weights
from selector.policy import release
from selector.policy.learned import Learned
from selector.policy.release import ReleaseError, Thresholds
from tests.learn.frames import TARGETS, frame, measurements
from tests.policy import released

SHAPES = 120  # with 80, a network has so few that the outcome depends on this machine's caches

RECIPE = Recipe(
    "test",
    folds=3,
    members=2,
    prior=0.5,
    boosting=Boosting(num_iterations=60, learning_rate=0.1, num_leaves=8, min_data_in_leaf=4),
    thresholds=Thresholds(margin=0.05, band=0.02, spread=0.5),
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
    assert model.fit(again, RECIPE, RECIPE.boosting).texts() == trained.ensemble.texts()


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


def test_an_unseen_instruction_set_is_the_rooflines(trained: Trained) -> None:
    held_out = trained.evaluation.held_out["target"]
    np.testing.assert_array_equal(held_out.chosen[LEARNED], held_out.chosen["roofline"])


def test_verdicts_name_every_target(trained: Trained) -> None:
    verdicts = trained.evaluation.verdicts()
    text = "\n".join(item.what for item in verdicts)
    for target in ("x86-64", "x86-64-v3"):
        assert f"held-out network: {target}, mean above" in text
        assert f"held-out target: {target}, mean not below rule" in text
    assert {item.met for item in verdicts if item.reached < item.wanted} <= {False}


def test_progress_reaches_the_end(data: Dataset) -> None:
    seen: list[float] = []
    quick = replace(RECIPE, folds=2, members=1, boosting=replace(RECIPE.boosting, num_iterations=2))
    evaluation.evaluate(data, quick, lambda _, share: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_release_predicts_and_decides_as_evaluated(data: Dataset, trained: Trained, tmp_path: Path) -> None:
    releasing.write(trained, tmp_path / "model")
    made = release.load(tmp_path / "model")
    mean, spread = trained.ensemble.predict(data.features)
    np.testing.assert_allclose(made.predict(data.features), (mean, spread), rtol=1e-9, atol=1e-12)
    chosen = fallback.shipped(trained.ensemble, data, data, RECIPE.thresholds)
    with pytest.warns(match="trained on other kernels"):
        decided = baselines.choices(Learned(tmp_path / "model"), data)
    np.testing.assert_array_equal(chosen, decided)


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


def test_fallback_outside_of_the_training_range(data: Dataset) -> None:
    works = np.array([work.in_channels for work in data.workloads])
    small, large = data.take(np.flatnonzero(works <= 64)), data.take(np.flatnonzero(works > 200))
    thresholds = Thresholds(margin=0.0)
    ensemble = model.fit(small, RECIPE, RECIPE.boosting)
    chosen = fallback.shipped(ensemble, small, large, thresholds)
    np.testing.assert_array_equal(chosen, large.features[:, fallback.RATIO] < 0)
    wide = fallback.shipped(ensemble, small, large, Thresholds(margin=100.0))
    np.testing.assert_array_equal(wide, ensemble.predict(large.features)[0] <= 0)


def test_roofline_baseline_is_the_policy(data: Dataset) -> None:
    from selector.policy.roofline import Roofline

    np.testing.assert_array_equal(baselines.KNOWN["roofline"](data), baselines.choices(Roofline(), data))


def test_held_out_targets_are_decided_from_modelled_profiles_too(data: Dataset, trained: Trained) -> None:
    held_out = trained.evaluation.held_out["target"]
    assert {LEARNED + MODELLED, TREES + MODELLED} <= set(held_out.chosen)
    assert LEARNED + MODELLED not in trained.evaluation.held_out["network"].chosen
    other = data.with_profiles(profiles.modelled_folder()).take(np.flatnonzero(data.targets == "x86-64"))
    rest = data.take(np.flatnonzero(data.targets != "x86-64"))
    ensemble = model.fit(rest, RECIPE, RECIPE.boosting)
    np.testing.assert_array_equal(
        held_out.chosen[TREES + MODELLED][held_out.folds == "x86-64"], ensemble.predict(other.features)[0] <= 0
    )
    assert set(trained.agreement) == set(TARGETS)
    assert all(0.5 < share <= 1 for share in trained.agreement.values())
    assert f"| {TARGETS[0]} | {trained.agreement[TARGETS[0]]:.1%} |" in card.report(trained)


def test_without_modelled_profiles(data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiles, "modelled_folder", lambda: tmp_path)
    quick = replace(RECIPE, folds=2, members=1, boosting=replace(RECIPE.boosting, num_iterations=2))
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
