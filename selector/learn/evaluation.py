"""Held-out evaluation by shape, network, target and CPU; the learned policy beside every baseline on the same rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.collect.record import measurement_key
from selector.learn import baselines, model, splits
from selector.learn.dataset import Dataset
from selector.learn.metrics import Score, chance_corrected, efficiency, gap_closed, score, scores_by, time_ratio
from selector.learn.recipe import Boosting, Recipe
from selector.learn.splits import Split
from selector.policy.base import TIE
from selector.policy.model import Intervals, Judgement

if TYPE_CHECKING:
    import polars

LEARNED = "learned"  # the policy as it is released, fallbacks included
TREES = "trees"  # the model's own answer everywhere
MODELLED = "_modelled"  # follows the name of a policy that knows the held-out target by its modelled profile
GROUPS = ("target", "kind", "threads")

# What has to hold before a model is worth releasing: (protocol, statistic of its Score) -> at least.
BARS = {("network", "mean"): 0.998, ("network", "p10"): 1.0, ("network", "worst"): 0.80, ("target", "mean"): 0.970}
GAP_BAR = 0.70  # of the way from the best policy that learns nothing to the oracle, on held-out networks
CHANCE_BAR = 0.984  # of the way from a coin to the oracle, on held-out networks
COVERAGE_TOLERANCE = 0.05  # of the share of measured ratios in intervals that should hold 80 %
CPU_BAR = "held-out CPU:"  # how the bars begin without which a model is not promoted


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

    def chance_corrected(self, policy: str) -> float:
        """Share of the way from a coin to the oracle."""
        return chance_corrected(self.rows.log2_ratio, self.chosen[policy])

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
    trees: np.ndarray  # (rows,) float64, log2(t_int16 / t_int8) by the trees alone
    judged: Judgement  # by the policy as it is released; intervals are of other held-out rows

    def labels(self, column: str) -> np.ndarray:
        """The same, and ``fold``."""
        return self.folds if column == "fold" else super().labels(column)

    def gap_closed(self) -> float:
        """Share of the way from the best policy that learns nothing to the oracle that the learned policy goes."""
        scores = self.scores()
        return gap_closed(scores[LEARNED], {name: scores[name] for name in baselines.KNOWN})

    def coverage(self) -> dict[str, float]:
        """Share of the measured ratios that lie in their interval: over all rows that have one, and by |prediction|."""
        ratio, known = self.rows.log2_ratio, ~np.isnan(self.judged.low)
        inside = (self.judged.low <= ratio) & (ratio <= self.judged.high)
        near = np.abs(self.judged.ratio) < TIE
        groups = {"all": known, f"|prediction| below {TIE}": known & near, f"|prediction| above {TIE}": known & ~near}
        return {name: float(inside[rows].mean()) for name, rows in groups.items() if rows.any()}

    def to_dict(self) -> dict[str, Any]:
        """The same, by fold as well, the share of the gap that is closed, and what the intervals hold."""
        folds = {
            name: {label: value.to_dict() for label, value in self.scores_by("fold", name).items()}
            for name in self.chosen
        }
        return super().to_dict() | {
            "by_fold": folds,
            "gap_closed": self.gap_closed(),
            "chance_corrected": self.chance_corrected(LEARNED),
            "coverage": self.coverage(),
        }

    def frame(self, protocol: str) -> polars.DataFrame:
        """The predictions row by row, with what was held out and what was measured."""
        import polars

        rows, judged = self.rows, self.judged
        keys = [measurement_key(*item) for item in zip(rows.workloads, map(str, rows.targets), strict=True)]
        facts = {"key": keys, "cpu": rows.cpus, "target": rows.targets, "kind": rows.kinds, "threads": rows.threads}
        figures = {"log2_ratio": rows.log2_ratio, "width": rows.width, "int8_us": rows.int8_us}
        said = {"trees": self.trees, "predicted": judged.ratio, "low": judged.low, "high": judged.high}
        chosen = {f"int16_by_{name}": int16 for name, int16 in self.chosen.items()}
        frame = polars.DataFrame(facts | figures | said | {"fallback": judged.fallback} | chosen)
        return frame.select(polars.lit(protocol).alias("protocol"), polars.Series("fold", self.folds), polars.all())


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
    """Every protocol that the measurements allow: ``shape`` always, the others where there are two folds."""

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
                found.append(_at_least(f"held-out {protocol}: {statistic}", reached, wanted))
        for protocol, bars in (("network", _network_bars), ("target", _target_bars), ("cpu", _cpu_bars)):
            if protocol in self.held_out:
                found += bars(self.held_out[protocol])
        return found

    def frame(self) -> polars.DataFrame:
        """Held-out predictions of every protocol, row by row."""
        import polars

        frames = [held_out.frame(protocol) for protocol, held_out in self.held_out.items()]
        return polars.concat(frames, how="diagonal")  # policies that know modelled profiles are in one alone


def _at_least(what: str, reached: float, wanted: float) -> Verdict:
    return Verdict(what, reached, wanted, reached >= wanted)


def _network_bars(held_out: HeldOut) -> Iterator[Verdict]:
    yield _at_least("held-out network: share of the gap closed", held_out.gap_closed(), GAP_BAR)
    yield _at_least("held-out network: chance-corrected", held_out.chance_corrected(LEARNED), CHANCE_BAR)
    baseline = {name: held_out.scores_by("target", name) for name in baselines.KNOWN}
    for target, own in held_out.scores_by("target", LEARNED).items():
        name, best = max(((name, scores[target].mean) for name, scores in baseline.items()), key=lambda item: item[1])
        yield Verdict(f"held-out network: {target}, mean above {name}", own.mean, best, own.mean > best)
    grouped = held_out.rows.kinds == "grouped"
    if grouped.any() and not grouped.all():
        reached = efficiency(held_out.rows.log2_ratio, held_out.chosen[LEARNED])
        what = "held-out network: grouped, mean not below the rest"
        yield _at_least(what, float(reached[grouped].mean()), float(reached[~grouped].mean()))
    for group, share in held_out.coverage().items():
        what = f"held-out network: share in 80 % intervals, {group}"
        yield Verdict(what, share, 0.8, abs(share - 0.8) <= COVERAGE_TOLERANCE)


def _target_bars(held_out: HeldOut) -> Iterator[Verdict]:
    rule = held_out.scores_by("fold", "rule")
    for target, own in held_out.scores_by("fold", LEARNED).items():
        yield _at_least(f"held-out target: {target}, mean not below rule", own.mean, rule[target].mean)


def _cpu_bars(held_out: HeldOut) -> Iterator[Verdict]:
    """On a CPU that nobody measured neither the trees nor the roofline alone may do better."""
    scores = {name: held_out.scores_by("fold", name) for name in (LEARNED, TREES, "roofline")}
    for cpu, own in scores[LEARNED].items():
        better = max((TREES, "roofline"), key=lambda name: scores[name][cpu].mean)
        what = f"{CPU_BAR} {cpu}, mean not below {better}"
        yield _at_least(what, own.mean, scores[better][cpu].mean)
    labels = np.array([f"{target} on {cpu}" for target, cpu in zip(held_out.rows.targets, held_out.folds, strict=True)])
    ratio = held_out.rows.log2_ratio
    roofline = scores_by(ratio, held_out.chosen["roofline"], labels)
    for label, own in scores_by(ratio, held_out.chosen[LEARNED], labels).items():
        yield _at_least(f"{CPU_BAR} {label}, mean not below roofline", own.mean, roofline[label].mean)


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
        "cpu": splits.by_cpu(dataset),
    }
    for data in (dataset, modelled):
        _ = data and data.layers  # computed once, before the folds share it
    known = {name: choose(dataset) for name, choose in baselines.KNOWN.items()}
    total, done = sum(map(len, protocols.values())), 0
    results = {}
    for protocol, folds in protocols.items():
        if not folds:
            continue
        tuned = _tune(dataset, folds, recipe)
        setting = _Setting(dataset, recipe, tuned, known, modelled if protocol == "target" else None, protocol == "cpu")
        predict = functools.partial(_predict, setting)
        parts = []
        for start in range(0, len(folds), model.WORKERS):
            batch = folds[start : start + model.WORKERS]
            parts += model.parallel(predict, batch)
            done += len(batch)
            if progress:
                progress(f"held out by {protocol}: {batch[-1].name}", done / total)
        results[protocol] = _join(dataset, folds, parts)
    return Evaluation(_with_intervals(results))


def _tune(dataset: Dataset, folds: Sequence[Split], recipe: Recipe) -> dict[str, Boosting]:
    """Hyper-parameters of each block of folds."""
    rows = splits.blocks(folds)
    found = model.parallel(lambda block: model.tune(dataset.take(rows[block]), recipe), list(rows))
    return dict(zip(rows, found, strict=True))


@dataclass(frozen=True)
class _Setting:
    """What all folds of a protocol share."""

    dataset: Dataset
    recipe: Recipe
    tuned: Mapping[str, Boosting]  # by block of folds
    known: Mapping[str, np.ndarray]  # choices of policies that learn nothing
    modelled: Dataset | None  # the same rows with other profiles
    trust: bool  # whether the trust in the trees matters, and is fitted on each fold's training rows


@dataclass(frozen=True)
class _Part:
    """What one fold's model says of its held-out rows."""

    trees: np.ndarray
    judged: Judgement
    chosen: dict[str, np.ndarray]


def _predict(setting: _Setting, fold: Split) -> _Part:
    train, test = setting.dataset.take(fold.train), setting.dataset.take(fold.test)
    recipe, boosting = setting.recipe, setting.tuned[fold.block]
    trust = model.fit_trust(train, recipe, boosting) if setting.trust else None
    fitted = model.fit(train, recipe, boosting, trust).model
    trees, judged = fitted.predict(test.features), test.judge(fitted)
    chosen = {LEARNED: judged.int16, TREES: trees < 0}
    chosen |= {name: int16[fold.test] for name, int16 in setting.known.items()}
    if setting.modelled is not None:
        other = setting.modelled.take(fold.test)
        chosen |= {LEARNED + MODELLED: other.judge(fitted).int16, TREES + MODELLED: fitted.predict(other.features) < 0}
    chosen |= {name: choose(train, test) for name, choose in baselines.FITTED.items()}
    return _Part(trees, judged, chosen)


def _join(dataset: Dataset, folds: Sequence[Split], parts: Sequence[_Part]) -> HeldOut:
    return HeldOut(
        rows=dataset.take(np.concatenate([fold.test for fold in folds])),
        chosen={name: np.concatenate([part.chosen[name] for part in parts]) for name in parts[0].chosen},
        folds=np.concatenate([np.full(len(fold.test), fold.name) for fold in folds]),
        trees=np.concatenate([part.trees for part in parts]),
        judged=Judgement.join([part.judged for part in parts]),
    )


def _with_intervals(results: dict[str, HeldOut]) -> dict[str, HeldOut]:
    """Intervals on rows that they were not fitted on.

    On held-out networks those of held-out shapes, on a held-out CPU those of the other held-out CPUs.
    """
    made = dict(results)
    if "network" in made:
        made["network"] = _surrounded(made["network"], [(slice(None), intervals(made["shape"]))])
    if "cpu" in made:
        held_out = made["cpu"]
        rows = [held_out.folds == cpu for cpu in np.unique(held_out.folds)]
        made["cpu"] = _surrounded(held_out, [(own, intervals(held_out, ~own)) for own in rows])
    return made


def intervals(held_out: HeldOut, among: np.ndarray | None = None) -> Intervals | None:
    """Intervals that fit held-out rows, or some of them (rows,) bool, as far as the trees decided."""
    decided = np.array([not why for why in held_out.judged.fallback]) & (True if among is None else among)
    return model.fit_intervals(held_out.judged.ratio[decided], held_out.rows.log2_ratio[decided])


def _surrounded(held_out: HeldOut, parts: Sequence[tuple[Any, Intervals | None]]) -> HeldOut:
    """The same with intervals: each part names rows and what theirs are."""
    judged = held_out.judged
    low, high = judged.low.copy(), judged.high.copy()
    for rows, known in parts:
        if known is not None:
            low[rows], high[rows] = known.around(judged.ratio[rows])
    fallen = np.array([bool(why) for why in judged.fallback])
    low[fallen] = high[fallen] = np.nan
    return replace(held_out, judged=replace(judged, low=low, high=high))
