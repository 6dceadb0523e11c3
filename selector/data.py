"""Files that come with Selector, and the folder where it keeps its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

_IN_REPOSITORY = {
    "targets": "datasets/targets",
    "architectures": "datasets/architectures",
    "models": "models",
}  # the wheel has them in selector/_data


def folder(name: Literal["targets", "architectures", "models"]) -> Path:
    """Where they lie: inside the installed package, or in the repository that the package is run from."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / _IN_REPOSITORY[name]


def cache_folder() -> Path:
    """Where results are kept between runs: ``SELECTOR_CACHE``, or ``selector`` in the user's cache folder."""
    given = os.environ.get("SELECTOR_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selector"
