"""What every command says where packages are missing that it needs: one line, exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from selector.cli import common
from tests.models import qdq_conv_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

# Runs commands, all packages of extras hidden, and prints exit code, standard output and standard error of each.
_RUN = """
import json, sys
from selector.cli import common
for name in common.EXTRAS:
    sys.modules[name] = None
from typer.testing import CliRunner
from selector.cli import app
results = [CliRunner().invoke(app, command) for command in json.load(sys.stdin)]
print(json.dumps([(result.exit_code, result.stdout, result.stderr) for result in results]))
"""

COMMANDS = {
    "collect --plan 5 --into x": ("collecting needs pebble, polars, pyarrow", "collect"),
    "collect --samples 5 --rpc here:9190 --key a": ("pebble, polars, pyarrow, cloudpickle, psutil, tornado", "collect"),
    "collect --samples 5 --rpc-server here:9090": ("pebble, polars, pyarrow, cloudpickle, psutil, tornado", "collect"),
    "collect status .": ("a dataset needs polars, pyarrow", "collect"),
    "collect validate .": ("a dataset needs polars, pyarrow", "collect"),
    "collect renumber .": ("a dataset needs polars, pyarrow", "collect"),
    "collect merge . --into x": ("a dataset needs polars, pyarrow", "collect"),
    "collect diff . .": ("a dataset needs polars, pyarrow", "collect"),
    "collect plot .": ("a dataset needs polars, pyarrow, matplotlib", "bench,collect"),
    "device serve": ("serving a device needs cloudpickle, psutil, tornado", "collect"),
    "device tracker": ("a tracker needs cloudpickle, psutil, tornado", "collect"),
    "train": ("training needs lightgbm", "train"),
    "evaluate": ("training needs lightgbm", "train"),
    "models list": ("training needs lightgbm", "train"),
    "models show": ("training needs lightgbm", "train"),
    "models compare": ("training needs lightgbm", "train"),
    "models reproduce": ("training needs lightgbm", "train"),
    "models promote": ("training needs lightgbm", "train"),
    "models export": ("training needs lightgbm", "train"),
    "explain net.tflite": ("reading TFLite needs the package 'tflite'", "tflite"),
    "compile net.tflite": ("reading TFLite needs the package 'tflite'", "tflite"),
    "bench net.tflite": ("reading TFLite needs the package 'tflite'", "tflite"),
    "bench net.onnx --against onnxruntime": ("onnxruntime", "bench"),
    "bench kernels --network net.onnx --against onnxruntime": ("onnxruntime", "bench"),
    "bench kernels --network net.onnx --plot x.png": ("a plot needs matplotlib", "bench"),
}
WITHOUT = ["explain net.onnx", "compile net.onnx --verify", "targets list", "device list --tracker 127.0.0.1:1"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "net.tflite").write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    (folder / "net.onnx").write_bytes(qdq_conv_model(float_io=True).SerializeToString())
    commands = [*COMMANDS, *WITHOUT]
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=json.dumps([command.split() for command in commands]),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_names_the_packages(outcomes: dict[str, tuple[int, str, str]], command: str) -> None:
    code, out, err = outcomes[command]
    what, extra = COMMANDS[command]
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert what in err
    assert f"pip install 'tvm-selector[{extra}]'" in err


@pytest.mark.parametrize("command", WITHOUT)
def test_needs_no_more_than_selector_itself(outcomes: dict[str, tuple[int, str, str]], command: str) -> None:
    code, _, err = outcomes[command]
    assert (code, err) == ((1, err) if command.startswith("device list") else (0, ""))
    assert "pip install" not in err


def test_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = packages_distributions()
    for package, extra in common.EXTRAS.items():
        names = tuple(name.lower() for name in distributions.get(package, [package]))
        assert any(line.startswith(names) for line in extras[extra]), package
