"""Versions of the model in MLflow's registry: which there are, which is better, which one is the champion."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.learn import baselines
from selector.learn.errors import UnknownModel
from selector.learn.evaluation import CPU_BAR
from selector.learn.tracking import BARS, MODEL, RELEASE, connect, metric_name, quiet

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CANDIDATE = "champion", "candidate"
PROTOCOLS = ("network", "target", "cpu")  # folds by shape differ between data sets
TOLERANCE = 0.001  # of a mean efficiency: what another seed changes


class NotPromoted(RuntimeError):
    """The candidate is worse than the champion, or cannot be compared with it; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Version:
    """One registered model."""

    number: int
    aliases: tuple[str, ...]
    run_id: str | None  # None: registered by hand, without one
    created: float  # seconds since 1970, UTC
    tags: dict[str, str]
    parameters: dict[str, str]
    metrics: dict[str, float]  # see selector.learn.tracking.metrics

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def mean(self, protocol: str, policy: str = "learned") -> float | None:
        """Mean efficiency on held-out rows; None where the measurements did not allow the protocol."""
        return self.metrics.get(f"{protocol}/{policy}/mean")

    def folds(self, protocol: str) -> dict[str, float]:
        """Mean efficiency on each held-out network, target or CPU."""
        start, end = f"{protocol}/fold/", "/mean"
        return {
            name[len(start) : -len(end)]: value
            for name, value in self.metrics.items()
            if name.startswith(start) and name.endswith(end)
        }

    def missed(self) -> list[str]:
        """The bars about CPUs that nobody measured that it misses by more than the tolerance."""
        start = f"{BARS}{metric_name(CPU_BAR)}"
        return [
            f"{name.removeprefix(BARS)} ({value:+.4f})"
            for name, value in sorted(self.metrics.items())
            if name.startswith(start) and value < -TOLERANCE
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Mean efficiencies of two models on what both were held out from."""

    what: str
    candidate: float
    reference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"worse": self.worse}

    @property
    def worse(self) -> bool:
        """Whether the candidate is worse by more than the tolerance."""
        return self.candidate < self.reference - TOLERANCE


def versions() -> list[Version]:
    """All versions, the newest first."""
    with quiet():
        client = connect()
        found = client.search_model_versions(f"name='{MODEL}'")
        numbers = sorted((int(version.version) for version in found), reverse=True)
        return [_version(client, client.get_model_version(MODEL, str(number))) for number in numbers]


def get(name: str) -> Version:
    """The version with this alias or number.  Raises UnknownModel."""
    from mlflow.exceptions import MlflowException

    with quiet():
        client = connect()
        try:
            numbered = client.get_model_version(MODEL, name) if name.isdigit() else None
            return _version(client, numbered or client.get_model_version_by_alias(MODEL, name))
        except MlflowException:
            pass
    known = [str(version.number) for version in versions()]
    aliases = sorted({alias for version in versions() for alias in version.aliases})
    has = f"versions {', '.join(known)}, aliases {', '.join(aliases) or 'none'}" if known else "none yet"
    raise UnknownModel(f"no model '{name}' in the registry: it has {has}; `selector train` makes one")


def compare(candidate: Version, reference: Version | None) -> list[Comparison]:
    """Means over the networks and targets that both were held out from; without a reference, the best baseline's."""
    found = []
    for protocol in PROTOCOLS:
        own = candidate.mean(protocol)
        if own is None:
            continue
        if reference is None:
            best = max(candidate.metrics[f"{protocol}/{name}/mean"] for name in baselines.NAMES)
            found.append(Comparison(f"{protocol}, best baseline", own, best))
            continue
        mine, others = candidate.folds(protocol), reference.folds(protocol)
        common = sorted(mine.keys() & others.keys())
        if common:
            means = [sum(folds[name] for name in common) / len(common) for folds in (mine, others)]
            found.append(Comparison(f"{protocol}, {len(common)} in common", *means))
    return found


def download(version: Version, folder: Path) -> Path:
    """Copy a version's artifacts into a folder; where its release lies in there."""
    with quiet():
        import mlflow

        connect()
        made = mlflow.artifacts.download_artifacts(f"models:/{MODEL}/{version.number}", dst_path=str(folder))
    return Path(made) / "artifacts" / RELEASE


def promote(candidate: Version, *, force: bool = False, reason: str = "") -> list[Comparison]:
    """Make a version the champion; the comparison that it passed, or was forced past.

    Raises NotPromoted where it misses a bar of CPUs that nobody measured, is worse than the champion (without one: than
    the best baseline), or cannot be compared with it, and not forced.
    """
    champion = next((version for version in versions() if CHAMPION in version.aliases), None)
    if champion is not None and champion.number == candidate.number:
        return []
    results = compare(candidate, champion)
    against = "the best baseline" if champion is None else f"the champion, version {champion.number}"
    objection = ""
    if not results:
        objection = (
            f"nothing compares version {candidate.number} with {against}: their runs in MLflow have no metrics of the "
            "same held-out networks or targets"
        )
    elif missed := candidate.missed():
        objection = f"version {candidate.number} misses {len(missed)} bars: {'; '.join(missed)}"
    elif worse := [result for result in results if result.worse]:
        lost = "; ".join(f"{item.what}: {item.candidate:.4f}, not {item.reference:.4f}" for item in worse)
        objection = f"version {candidate.number} is worse than {against}: {lost}"
    if objection and not force:
        raise NotPromoted(objection)
    with quiet():
        client = connect()
        number = str(candidate.number)
        if objection:
            client.set_model_version_tag(MODEL, number, "forced", reason)
        if champion is not None:
            client.set_model_version_tag(MODEL, number, "succeeds", str(champion.number))
        client.set_registered_model_alias(MODEL, CHAMPION, number)
    return results


def _version(client: mlflow.MlflowClient, found: ModelVersion) -> Version:
    from mlflow.entities import RunData
    from mlflow.exceptions import MlflowException

    data = RunData()
    if found.run_id:
        with suppress(MlflowException):  # the run is gone
            data = client.get_run(found.run_id).data
    return Version(
        number=int(found.version),
        aliases=tuple(sorted(found.aliases)),
        run_id=found.run_id or None,
        created=found.creation_timestamp / 1e3,
        tags=dict(found.tags),
        parameters=dict(data.params),
        metrics=dict(data.metrics),
    )
