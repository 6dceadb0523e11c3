"""The MLflow project asks for what the package asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

tomllib = pytest.importorskip("tomllib", reason="part of Python 3.11")

ROOT = Path(__file__).parents[2]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "training" / name).read_text())


def test_environment_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for extra in ("collect", "train") for item in project["optional-dependencies"][extra]]
    wanted = {item for item in (*project["dependencies"], *extras) if not item.startswith("tvm-selector")}
    assert set(read("python_env.yaml")["dependencies"]) == wanted


def test_parameters_have_defaults_that_exist() -> None:
    project = read("MLproject")
    assert project["python_env"] == "python_env.yaml"
    parameters = project["entry_points"]["main"]["parameters"]
    assert (ROOT / parameters["recipe"]["default"]).is_file()
    assert all("{" + name + "}" in project["entry_points"]["main"]["command"] for name in parameters)
