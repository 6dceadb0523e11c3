"""Held-out evaluation: by shape, by network, by target; the learned model beside every baseline on the same rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from selector.learn import baselines, model, splits
from selector.learn.dataset import Dataset
from selector.learn.fallback import shipped
from selector.learn.metrics import Score, gap_closed, score, scores_by, time_ratio
from selector.learn.recipe import Boosting, Recipe
from selector.learn.splits import Split

LEARNED = "learned"  # the policy as it is released, fallbacks included
TREES = "trees"  # the model's own answer everywhere
MODELLED = "_modelled"  # follows the name of a policy that knows the held-out target by its modelled profile
GROUPS = ("target", "kind", "threads")

# What has to hold before a model is worth releasing: (protocol, statistic of its Score) -> at least.
BARS = {("network", "mean"): 0.990, ("network", "p10"): 0.970, ("network", "worst"): 0.80, ("target", "mean"): 0.970}
GAP_BAR = 0.70  # of the way from the best policy that learns nothing to the oracle, on held-out networks


@dataclass(frozen=True)
class Choices:
    """What policies choose on measured rows."""

    rows: Dataset
    chosen: dict[str, np.ndarray]  # policy -> (rows,) bool, true where int16 is chosen

    def scores(self) -> dict[str, Score]:
        """Score of each policy over all rows."""
        return {name: score(self.rows.log2_ratio, int16) for name, int16 in self.chosen.items()}

    def scores_by(self, column: str, policy: str) -> dict[str, Score]:
        """Score of one policy per ``target``, ``kind`` or number of ``threads``."""
        return scores_by(self.rows.log2_ratio, self.chosen[policy], self.labels(column))

    def labels(self, column: str) -> np.ndarray:
        """What the rows are grouped by, (rows,) str."""
        columns = {"target": self.rows.targets, "kind": self.rows.kinds, "threads": self.rows.threads}
        return columns[column].astype(str)

    def time_ratios(self) -> dict[str, float]:
        """Summed time of each policy's choices over the oracle's."""
        return {name: time_ratio(self.rows.int8_us, self.rows.log2_ratio, int16) for name, int16 in self.chosen.items()}

    def to_dict(self) -> dict[str, Any]:
        """Scores as plain values: of each policy overall, and by target, kind and threads."""
        scores, times = self.scores(), self.time_ratios()
        return {"policies": {name: scores[name].to_dict() | {"time_over_oracle": times[name]} for name in scores}} | {
            f"by_{column}": {
                name: {label: value.to_dict() for label, value in self.scores_by(column, name).items()}
                for name in self.chosen
            }
            for column in GROUPS
        }


@dataclass(frozen=True)
class HeldOut(Choices):
    """Choices on the rows of every fold, made without them; a row in two networks is held out, and here, twice."""

    folds: np.ndarray  # (rows,) str, name of the fold in which the row was held out
    predicted: np.ndarray  # (rows,) float64, log2(t_int16 / t_int8)
    spread: np.ndarray  # (rows,) float64, standard deviation over the ensemble

    def labels(self, column: str) -> np.ndarray:
        """The same, and ``fold``."""
        return self.folds if column == "fold" else super().labels(column)

    def gap_closed(self) -> float:
        """Share of the way from the best policy that learns nothing to the oracle that the learned policy goes."""
        scores = self.scores()
        return gap_closed(scores[LEARNED], {name: scores[name] for name in baselines.KNOWN})

    def to_dict(self) -> dict[str, Any]:
        """The same, by fold as well, and the share of the gap that is closed."""
        folds = {
            name: {label: value.to_dict() for label, value in self.scores_by("fold", name).items()}
            for name in self.chosen
        }
        return super().to_dict() | {"by_fold": folds, "gap_closed": self.gap_closed()}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar and whether it is met."""

    what: str
    reached: float
    wanted: float
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Every protocol that the measurements allow: ``shape`` always, ``network``, ``target`` where there are two."""

    held_out: dict[str, HeldOut]

    def to_dict(self) -> dict[str, Any]:
        """Scores of each protocol as plain values."""
        return {name: result.to_dict() for name, result in self.held_out.items()}

    def verdicts(self) -> list[Verdict]:
        """Each bar that applies."""
        found = []
        for (protocol, statistic), wanted in BARS.items():
            if protocol in self.held_out:
                reached = getattr(self.held_out[protocol].scores()[LEARNED], statistic)
                found.append(Verdict(f"held-out {protocol}: {statistic}", reached, wanted, reached >= wanted))
        if "network" in self.held_out:
            held_out = self.held_out["network"]
            reached = held_out.gap_closed()
            found.append(Verdict("held-out network: share of the gap closed", reached, GAP_BAR, reached >= GAP_BAR))
            baseline = {name: held_out.scores_by("target", name) for name in baselines.KNOWN}
            for target, own in held_out.scores_by("target", LEARNED).items():
                name, best = max(((name, scores[target].mean) for name, scores in baseline.items()), key=lambda x: x[1])
                found.append(Verdict(f"held-out network: {target}, mean above {name}", own.mean, best, own.mean > best))
        if "target" in self.held_out:
            rule = self.held_out["target"].scores_by("fold", "rule")
            for target, own in self.held_out["target"].scores_by("fold", LEARNED).items():
                wanted = rule[target].mean
                what = f"held-out target: {target}, mean not below rule"
                found.append(Verdict(what, own.mean, wanted, own.mean >= wanted))
        return found


def evaluate(
    dataset: Dataset,
    recipe: Recipe,
    progress: Callable[[str, float], None] | None = None,
    modelled: Dataset | None = None,
) -> Evaluation:
    """Train without each fold and predict it.  Hyper-parameters are tuned inside each fold's training rows alone.

    ``modelled``: the same rows with other profiles; held-out targets are predicted from these as well.

    ``progress`` is told what is done and the share of the work that is.  Raises DatasetError for too few shapes.
    """
    protocols = {
        "shape": splits.by_shape(dataset, recipe.folds, recipe.seed),
        "network": splits.by_network(dataset),
        "target": splits.by_target(dataset),
    }
    for data in (dataset, modelled):
        _ = data and data.features  # computed once, before the folds share it
    known = {name: choose(dataset) for name, choose in baselines.KNOWN.items()}
    total, done = sum(map(len, protocols.values())), 0
    results = {}
    for protocol, folds in protocols.items():
        if not folds:
            continue
        tuned = _tune(dataset, folds, recipe)
        again = modelled if protocol == "target" else None
        predict = functools.partial(_predict, dataset, recipe, tuned, known, again)
        parts = []
        for start in range(0, len(folds), model.WORKERS):
            batch = folds[start : start + model.WORKERS]
            parts += model.parallel(predict, batch)
            done += len(batch)
            if progress:
                progress(f"held out by {protocol}: {batch[-1].name}", done / total)
        results[protocol] = _join(dataset, folds, parts)
    return Evaluation(results)


def _tune(dataset: Dataset, folds: Sequence[Split], recipe: Recipe) -> dict[str, Boosting]:
    """Hyper-parameters of each block of folds."""
    rows = splits.blocks(folds)
    found = model.parallel(lambda block: model.tune(dataset.take(rows[block]), recipe), list(rows))
    return dict(zip(rows, found, strict=True))


def _predict(
    dataset: Dataset,
    recipe: Recipe,
    tuned: Mapping[str, Boosting],
    known: Mapping[str, np.ndarray],
    modelled: Dataset | None,
    fold: Split,
) -> dict[str, np.ndarray]:
    train, test = dataset.take(fold.train), dataset.take(fold.test)
    ensemble = model.fit(train, recipe, tuned[fold.block])
    mean, spread = ensemble.predict(test.features)
    columns = {"predicted": mean, "spread": spread}
    columns |= {LEARNED: shipped(ensemble, train, test, recipe.thresholds), TREES: mean <= 0}
    columns |= {name: chosen[fold.test] for name, chosen in known.items()}
    if modelled is not None:
        other = modelled.take(fold.test)
        columns[LEARNED + MODELLED] = shipped(ensemble, train, other, recipe.thresholds)
        columns[TREES + MODELLED] = ensemble.predict(other.features)[0] <= 0
    return columns | {name: choose(train, test) for name, choose in baselines.FITTED.items()}


def _join(dataset: Dataset, folds: Sequence[Split], parts: Sequence[dict[str, np.ndarray]]) -> HeldOut:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return HeldOut(
        rows=dataset.take(np.concatenate([fold.test for fold in folds])),
        folds=np.concatenate([np.full(len(fold.test), fold.name) for fold in folds]),
        predicted=columns.pop("predicted"),
        spread=columns.pop("spread"),
        chosen=columns,
    )
