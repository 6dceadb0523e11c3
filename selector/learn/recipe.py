"""Recipes: everything that training depends on besides the measurements, as TOML."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from selector import schema
from selector.features import NAMES
from selector.learn.errors import RecipeError
from selector.schema import Natural, SchemaError, Share

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_Folds = Annotated[int, Meta(ge=2)]


@dataclass(frozen=True, slots=True)
class Boosting:
    """Hyper-parameters of one LightGBM booster, under LightGBM's names."""

    num_iterations: int = 200
    learning_rate: float = 0.05
    num_leaves: int = 15
    min_data_in_leaf: int = 20
    feature_fraction: float = 0.7
    lambda_l2: float = 1.0


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a row counts: what a wrong prediction costs there, times how sure its label is."""

    floor: float = 0.2  # added to |log2 ratio|: so near to zero a wrong prediction costs no more
    width: float = 0.1  # width of the label's confidence interval at which a row counts half


@dataclass(frozen=True, slots=True)
class Tuning:
    """Search over hyper-parameters: (low, high) of those that are searched."""

    trials: Natural = 0  # 0: the recipe's own hyper-parameters are used
    folds: _Folds = 3
    space: dict[str, tuple[int | float, int | float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.space) - {entry.name for entry in fields(Boosting)}
        if unknown:
            raise ValueError(f"tuning.space names no hyper-parameter: {', '.join(sorted(unknown))}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way of making a model from measurements."""

    name: str
    seed: int = 0
    folds: _Folds = 5  # of the evaluation by shape
    prior: Share = 0.0  # share of the roofline's answer that boosting starts from
    boosting: Boosting = Boosting()
    weights: Weights = Weights()
    tuning: Tuning = Tuning()
    monotone: dict[str, int] = field(default_factory=dict)  # feature -> 1 rising, -1 falling

    def __post_init__(self) -> None:
        odd = set(self.monotone) - set(NAMES)
        if odd:
            raise ValueError(f"monotone names no feature: {', '.join(sorted(odd))}")

    def with_trials(self, trials: int) -> Recipe:
        """The same recipe with another number of trials."""
        return replace(self, tuning=replace(self.tuning, trials=trials))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and MLflow."""
        return asdict(self)


def load(path: Path) -> Recipe:
    """The recipe in a TOML file, named after the file.  Raises RecipeError."""
    try:
        values = tomllib.loads(schema.read(path).decode())
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"the recipe {path} is not valid TOML: {error}") from None
    try:
        return parse(path.stem, values)
    except SchemaError as error:
        raise RecipeError(f"the recipe {path} cannot be used: {error}") from None


def parse(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe with these entries; what is missing keeps its default.  Raises SchemaError."""
    return schema.build(Recipe, {**values, "name": name})
