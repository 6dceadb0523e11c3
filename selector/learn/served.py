"""The model as MLflow serves it: features in, prediction out, computed by the package's own reader of the release.

MLflow runs this file when it logs and loads a model; nothing imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas

from selector.features import NAMES
from selector.policy.release import load


class SelectorModel(mlflow.pyfunc.PythonModel):
    """Columns as named in ``selector.features.TABLE`` to ``log2_ratio`` and ``spread``."""

    def load_context(self, context: Any) -> None:
        """Read the release folder."""
        self.release = load(Path(context.artifacts["release"]))

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """One row for each row of features."""
        mean, spread = self.release.predict(model_input[list(NAMES)].to_numpy(float))
        return pandas.DataFrame({"log2_ratio": mean, "spread": spread})


mlflow.models.set_model(SelectorModel())
