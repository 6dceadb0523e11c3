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
    """Columns as named in ``selector.features.TABLE`` to ``log2_ratio``, ``low`` and ``high``.

    The last two are the ends of its 80 % interval on a CPU that was trained on.
    """

    def load_context(self, context: Any) -> None:
        """Read the release folder."""
        self.model = load(Path(context.artifacts["release"])).model

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """One row for each row of features."""
        ratio = self.model.predict(model_input[list(NAMES)].to_numpy(float))
        low, high = (ratio, ratio) if self.model.known is None else self.model.known.around(ratio)
        return pandas.DataFrame({"log2_ratio": ratio, "low": low, "high": high})


mlflow.models.set_model(SelectorModel())
