"""Files that come with Selector: target profiles and released models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_IN_REPOSITORY = {"targets": "datasets/targets", "models": "models"}  # the wheel has them in selector/_data


def folder(name: Literal["targets", "models"]) -> Path:
    """Where they lie: inside the installed package, or in the repository that the package is run from."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / _IN_REPOSITORY[name]
