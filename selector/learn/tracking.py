"""Where experiments are kept: MLflow, in a local SQLite store unless ``MLFLOW_TRACKING_URI`` says otherwise.

Without it the store is ``mlflow.db`` in the current folder, artifacts in ``mlruns`` beside it: what
``mlflow ui`` expects.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from selector.features import FEATURE_VERSION, NAMES
from selector.learn.evaluation import GROUPS, LEARNED
from selector.lowering.version import KERNEL_VERSION

if TYPE_CHECKING:
    import mlflow

    from selector.learn.pipeline import Trained

EXPERIMENT = "selector"
MODEL = "selector-conv2d"  # in the registry
RELEASE = "release"  # artifact of a model: the folder that the package loads
_GROUP_STATISTICS = ("mean", "p10", "worst", "regret_mean")
BARS = "bars/"  # metrics of this prefix: by how much each bar was reached; below zero it was missed
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Logged:
    """A run in the tracking store and the model version that it made."""

    run_id: str
    version: int
    uri: str  # of the tracking store


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """MLflow and its libraries warn, log and draw progress bars; none of it concerns who runs the block."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # this and the next two are read when MLflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow as _  # noqa: F401  # sets up the loggers, which are then turned down

        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def connect() -> mlflow.MlflowClient:
    """A client of the tracking store, which is made if it is missing; call it inside ``quiet``."""
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{Path.cwd() / 'mlflow.db'}")
    return mlflow.MlflowClient()


def log(trained: Trained, release: Path, files: Path, sources: Sequence[Path]) -> Logged:
    """Record a training: parameters, lineage, metrics, files, and the model as the registry's ``candidate``.

    ``release``: the folder as the package loads it; ``files``: folder of what else belongs to the run, the report and
    the held-out predictions among it; ``sources``: the folders that the measurements came from.
    """
    with quiet():
        import mlflow

        client = connect()
        with _run(client, trained) as run:
            mlflow.log_params(parameters(trained))
            mlflow.log_metrics(metrics(trained))
            for source in _lineage(trained, sources):
                mlflow.log_input(source, context="training")
            mlflow.log_artifacts(str(files))
            mlflow.log_dict(trained.evaluation.to_dict(), "evaluation.json")
            version = _register(client, run.info.run_id, release)
        client.set_registered_model_alias(MODEL, "candidate", str(version))
        return Logged(run.info.run_id, version, mlflow.get_tracking_uri())


def parameters(trained: Trained) -> dict[str, Any]:
    """What the model depends on, flat."""
    recipe = trained.recipe.to_dict()
    flat = {name: value for name, value in recipe.items() if not isinstance(value, dict)}
    for group in ("boosting", "weights", "tuning"):
        flat |= {f"{group}.{name}": value for name, value in recipe[group].items()}
    flat |= {f"tuned.{name}": value for name, value in asdict(trained.fitted.boosting).items()}
    return flat | {
        "monotone": json.dumps(recipe["monotone"]),
        "dataset.digest": trained.dataset.digest,
        "dataset.rows": len(trained.dataset),
        "features": len(NAMES),
        "features.version": FEATURE_VERSION,
        "kernels": KERNEL_VERSION,
        "trust": json.dumps(dict(trained.fitted.model.trust)),
    }


def metrics(trained: Trained) -> dict[str, float]:
    """Held-out scores under names such as ``network/learned/mean`` and ``network/target/x86-64-v3/mean``."""
    flat: dict[str, float] = {"seconds": trained.seconds}
    for protocol, held_out in trained.evaluation.held_out.items():
        flat[f"{protocol}/gap_closed"] = held_out.gap_closed()
        flat[f"{protocol}/chance_corrected"] = held_out.chance_corrected(LEARNED)
        for policy, ratio in held_out.time_ratios().items():
            flat[f"{protocol}/{policy}/time_over_oracle"] = ratio
        for policy, value in held_out.scores().items():
            flat |= {f"{protocol}/{policy}/{name}": number for name, number in value.to_dict().items()}
        for column in ("fold", *GROUPS):
            for label, value in held_out.scores_by(column, LEARNED).items():
                flat |= {
                    f"{protocol}/{column}/{metric_name(label)}/{name}": getattr(value, name)
                    for name in _GROUP_STATISTICS
                }
    verdicts = trained.evaluation.verdicts()
    return flat | {f"{BARS}{metric_name(item.what)}": item.reached - item.wanted for item in verdicts}


def metric_name(text: str) -> str:
    """The text with what MLflow takes in names of metrics."""
    return re.sub(r"[^\w ./-]", "", text)


@contextlib.contextmanager
def _run(client: mlflow.MlflowClient, trained: Trained) -> Iterator[mlflow.ActiveRun]:
    """A new run, or the one that ``mlflow run`` has begun."""
    import mlflow

    name = f"{trained.recipe.name}-{trained.dataset.digest}"
    begun = "MLFLOW_RUN_ID" in os.environ
    tags = {"mlflow.source.git.commit": git_commit()}
    experiment = None if begun else _experiment(client)
    with mlflow.start_run(experiment_id=experiment, run_name=None if begun else name, tags=tags) as run:
        yield run


def _experiment(client: mlflow.MlflowClient) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    return client.create_experiment(name, artifact_location=_artifacts(client.tracking_uri))


def _artifacts(uri: str) -> str | None:
    """Artifacts lie beside a local store; a server has a place of its own."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(unquote(uri[len(_SQLITE) :])).resolve().parent / "mlruns").as_uri()


def _lineage(trained: Trained, sources: Sequence[Path]) -> list[Any]:
    """One input for each folder, all with the digest of the data set that they make together."""
    from mlflow.data import from_numpy

    data = trained.dataset
    return [
        from_numpy(
            data.features, source=str(path.resolve()), targets=data.log2_ratio, name=path.name, digest=data.digest
        )
        for path in sources
    ]


def _register(client: mlflow.MlflowClient, run_id: str, release: Path) -> int:
    """Log the model into the active run and make it a version; returns its number."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def columns(*names: str) -> Schema:
        return Schema([ColSpec(DataType.double, name) for name in names])

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("served.py")),
        artifacts={RELEASE: str(release)},
        signature=ModelSignature(columns(*NAMES), columns("log2_ratio", "low", "high")),
        pip_requirements=["tvm-selector", "mlflow"],
    )
    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(MODEL, description="log2(t_int16 / t_int8) of quantized 2-D convolutions")
    return int(client.create_model_version(MODEL, info.model_uri, run_id, model_id=info.model_id).version)


def git_commit() -> str:
    """Commit of the sources, with ``-dirty`` behind it where they were edited; ``unknown`` outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
