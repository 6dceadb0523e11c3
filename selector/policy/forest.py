"""Boosted trees in LightGBM's text format, evaluated with numpy.

Why not lightgbm itself: it would be the only reason to install it with the compiler, and importing it takes longer than
compiling a small network.  All samples and trees are evaluated side by side, one level of the trees after the other.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import numpy as np

_CATEGORICAL, _DEFAULT_LEFT = 1, 2  # bits of decision_type; the two above them say which values are missing
_MISSING_ZERO, _MISSING_NAN = 1, 2
_BLOCK = 128  # samples that are evaluated side by side: what is known of them stays in cache
_ZERO = float(np.float32(1e-35))  # LightGBM takes smaller values for zero
_MOST_TREES, _DEEPEST = 10_000, 300  # what is larger takes too long to evaluate while a network is compiled
_LARGEST = 500.0  # of a sum of trees; 2 to the power of it is finite, and far from any ratio of two times


class ForestError(ValueError):
    """The text is no model that can be evaluated; the message says where and why."""


@dataclass(frozen=True, eq=False)
class Forest:
    """A booster's trees, their nodes one after the other.

    A tree's inner nodes come first, then its leaves, which are their own children.
    """

    feature_names: tuple[str, ...]
    roots: np.ndarray  # (trees,) intp
    feature: np.ndarray  # (nodes,) intp; 0 at leaves
    threshold: np.ndarray  # (nodes,) float64: at most this goes left
    children: np.ndarray  # (2 * nodes,) intp: left and right of each node
    decision: np.ndarray  # (nodes,) int8, as in the text
    value: np.ndarray  # (nodes,) float64: prediction of a leaf, mean under an inner node

    @classmethod
    def parse(cls, text: str) -> Forest:
        """The booster as ``Booster.model_to_string`` writes it.

        Raises ForestError for text that is damaged, or a model that is more than a sum of trees with numerical splits.
        """
        return _assemble(*_split(text))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Raw scores (samples,) float64 of features (samples, features); sums run in LightGBM's order."""
        scores: np.ndarray = np.cumsum(self.value[self._leaves(_checked(x, self))], axis=0)[-1]
        return scores

    def explain(self, x: np.ndarray) -> np.ndarray:
        """What each feature changed along the decision paths, (samples, features) float64.

        Each split is credited with the difference of the means on both of its ends (Saabas), so that a row adds up to
        the score less ``bias``.
        """
        x = _checked(x, self)
        changes = np.zeros_like(x)
        self._leaves(x, changes)
        return changes

    @property
    def bias(self) -> float:
        """Score before any feature is looked at."""
        return float(self.value[self.roots].sum())

    @functools.cached_property
    def used(self) -> tuple[int, ...]:
        """Indices of the features that some split looks at, rising: others cannot change a prediction."""
        return tuple(np.flatnonzero(np.bincount(self.feature[self._inner])).tolist())

    @functools.cached_property
    def _inner(self) -> np.ndarray:
        """Which nodes are no leaves, (nodes,) bool."""
        inner: np.ndarray = self.children[::2] != np.arange(len(self.feature))
        return inner

    @functools.cached_property
    def _steps(self) -> np.ndarray:
        """What going to each of ``children`` changes, (2 * nodes,) float64."""
        return self.value[self.children] - np.repeat(self.value, 2)

    def _leaves(self, x: np.ndarray, changes: np.ndarray | None = None) -> np.ndarray:
        """Leaves (trees, samples) that the samples end in; ``changes`` (samples, features) gets what splits add."""
        blocks = [slice(start, start + _BLOCK) for start in range(0, max(len(x), 1), _BLOCK)]
        return np.concatenate(
            [self._walk(x[block], None if changes is None else changes[block].reshape(-1)) for block in blocks], axis=1
        )

    def _walk(self, x: np.ndarray, changes: np.ndarray | None) -> np.ndarray:
        """Leaves (trees, samples) that the samples end in; ``changes`` (samples * features) gets what splits add."""
        samples, width = x.shape
        flat = x.reshape(-1)
        plain = not (np.isnan(flat).any() or (self.decision & (_MISSING_ZERO << 2)).any())
        reached = np.repeat(self.roots, samples)
        walking = np.flatnonzero(self._inner.take(reached))
        node = reached.take(walking)
        start = walking % samples * width
        while len(walking):
            where = start + self.feature.take(node)
            value = flat.take(where)
            right = ~(value <= self.threshold.take(node)) if plain else self._goes_right(value, node)
            branch = 2 * node + right
            if changes is not None:
                changes += np.bincount(where, self._steps.take(branch), minlength=len(changes))
            node = self.children.take(branch)
            reached[walking] = node
            inner = np.flatnonzero(self._inner.take(node))
            node, start, walking = node.take(inner), start.take(inner), walking.take(inner)
        return reached.reshape(len(self.roots), samples)

    def _goes_right(self, value: np.ndarray, node: np.ndarray) -> np.ndarray:
        """The decisions where values may be missing."""
        decision = self.decision.take(node)
        missing = decision >> 2
        nan = np.isnan(value)
        value = np.where(nan & (missing != _MISSING_NAN), 0.0, value)
        default = np.where(missing == _MISSING_ZERO, np.abs(value) <= _ZERO, nan & (missing == _MISSING_NAN))
        return np.where(default, (decision & _DEFAULT_LEFT) == 0, ~(value <= self.threshold.take(node)))


def _checked(x: np.ndarray, forest: Forest) -> np.ndarray:
    if x.ndim != 2 or x.shape[1] != len(forest.feature_names):
        raise ValueError(f"features must be (samples, {len(forest.feature_names)}), got {x.shape}")
    return np.ascontiguousarray(x, np.float64)


_Fields = dict[str, str]


def _split(text: str) -> tuple[tuple[str, ...], list[_Fields]]:
    """Feature names and the lines of each tree, as name and value."""
    body, end, _ = text.partition("\nend of trees")
    header, *trees = body.split("\nTree=")
    if not header.startswith("tree\n") or not end:
        raise ForestError("not a LightGBM text model, or its end is missing")
    fields = _fields(header)
    if "average_output" in header.split("\n"):
        raise ForestError("a random forest averages its trees, and only sums are evaluated")
    if fields.get("num_tree_per_iteration") != "1":
        raise ForestError(f"one tree an iteration is evaluated, got {_shown(fields, 'num_tree_per_iteration')}")
    names = tuple(fields.get("feature_names", "").split())
    if not names or str(len(names) - 1) != fields.get("max_feature_idx"):
        raise ForestError(f"{len(names)} feature names for a max_feature_idx of {_shown(fields, 'max_feature_idx')}")
    if len(trees) > _MOST_TREES:
        raise ForestError(f"{len(trees)} trees, and at most {_MOST_TREES} are evaluated")
    if not trees or len(trees) != len(fields.get("tree_sizes", "").split()):
        raise ForestError(f"{len(trees)} trees where the header has {len(fields.get('tree_sizes', '').split())}")
    return names, [_fields(tree) for tree in trees]


def _fields(block: str) -> _Fields:
    return dict(line.split("=", 1) for line in block.split("\n") if "=" in line)


def _shown(fields: _Fields, name: str) -> str:
    return f"{fields.get(name, 'none'):.40}"


def _assemble(names: tuple[str, ...], trees: list[_Fields]) -> Forest:
    """The arrays of all trees at once: tree by tree it would take several times as long."""
    for number, fields in enumerate(trees):
        if fields.get("num_cat") != "0":
            raise ForestError(f"tree {number} has categorical splits: train on numerical features")
        if fields.get("is_linear", "0") != "0":
            raise ForestError(f"tree {number} has linear models in its leaves")
    leaves = _numbers(trees, "num_leaves", np.ones(len(trees), int), int)
    if leaves.min() < 1:
        raise ForestError(f"a tree has {leaves.min()} leaves")
    leaf_value = _numbers(trees, "leaf_value", leaves, float)  # first: as many leaves as are there, so that all fits
    inner = leaves - 1
    starts = np.cumsum([0, *(inner + leaves)])
    node, tree, place = _positions(starts[:-1], inner)
    leaf, _, _ = _positions(starts[:-1] + inner, leaves)
    split, decision = (_numbers(trees, name, inner, int) for name in ("split_feature", "decision_type"))
    _require((split >= 0) & (split < len(names)), tree, f"splits on a feature that is none of {len(names)}")
    _require((decision >= 0) & (decision < 12), tree, "has splits of an unknown kind")
    _require((decision & _CATEGORICAL) == 0, tree, "has categorical splits: train on numerical features")
    feature, threshold, value = np.zeros(starts[-1], np.intp), np.zeros(starts[-1]), np.zeros(starts[-1])
    children, decisions = np.zeros((starts[-1], 2), np.intp), np.zeros(starts[-1], np.int8)
    for side, name in enumerate(("left_child", "right_child")):
        child = _numbers(trees, name, inner, int)  # leaf n is -1 - n
        known = (child >= -leaves[tree]) & (child < inner[tree]) & ((child < 0) | (child > place))
        _require(known, tree, "has nodes that do not form a tree")
        children[node, side] = starts[tree] + np.where(child < 0, inner[tree] - 1 - child, child)
    met = np.bincount(children[node].reshape(-1), minlength=starts[-1])
    met[starts[:-1]] += 1
    if (met != 1).any():
        raise ForestError("the nodes do not form trees")
    feature[node], threshold[node], decisions[node] = split, _numbers(trees, "threshold", inner, float), decision
    value[node] = _numbers(trees, "internal_value", inner, float)
    value[leaf] = leaf_value
    children[leaf] = leaf[:, None]
    _check_depth(children, starts[:-1])
    if np.maximum.reduceat(np.minimum(np.abs(value), _LARGEST), starts[:-1]).sum() >= _LARGEST:
        raise ForestError(f"the trees add up to {_LARGEST:g} or more")
    return Forest(names, starts[:-1], feature, threshold, children.reshape(-1), decisions, value)


def _check_depth(children: np.ndarray, roots: np.ndarray) -> None:
    level = roots
    for _ in range(_DEEPEST):
        level = level[children[level, 0] != level]
        if not len(level):
            return
        level = children[level].reshape(-1)
    raise ForestError(f"a tree has more than {_DEEPEST} levels")


def _positions(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For runs of ``counts`` nodes at ``starts``: index of each node, its tree, its place in the run."""
    tree = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(tree)) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts[tree] + place, tree, place


def _numbers(trees: list[_Fields], name: str, counts: np.ndarray, dtype: type) -> np.ndarray:
    """The numbers of one line of every tree, ``counts`` each.

    Raises ForestError where there are more or fewer, or where one is not finite.  Thresholds need not be: such splits
    tell missing values from all others.
    """
    lines = [tree.get(name, "") for tree in trees]
    for number, (line, count) in enumerate(zip(lines, counts.tolist(), strict=True)):
        found = line.count(" ") + 1 if line else 0
        if found != count:
            raise ForestError(f"tree {number}: {name} needs {count} numbers, got {found}")
    numbers: np.ndarray = np.empty(0)
    with contextlib.suppress(ValueError):  # old NumPy stops at what is no number and says nothing
        numbers = np.fromstring(" ".join(lines), dtype, sep=" ")
    if len(numbers) != counts.sum():
        raise ForestError(f"{name} holds what is no number")
    if name != "threshold" and not np.isfinite(numbers).all():
        raise ForestError(f"{name} holds a number that is not finite")
    return numbers


def _require(holds: np.ndarray, tree: np.ndarray, problem: str) -> None:
    if not holds.all():
        raise ForestError(f"tree {tree[np.argmin(holds)]} {problem}")
