"""Sources may be edited: a comment or a rename changes no decision and makes nobody warn."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK = "datasets/networks/shufflenet_v2_x0_5.u8u8.onnx"

EDITS = {
    "a comment in a kernel's emitter": ("lowering/tir.py", "from __future__", "# A comment.\nfrom __future__"),
    "a docstring of a plan": ("lowering/plan.py", '"""The plan of one lowering;', '"""What one lowering would be;'),
    "a private constant of the features": ("features/quantities.py", "_CALL_SECONDS", "_SECONDS_OF_A_CALL"),
    "a comment in the table": ("features/table.py", "_SHAPE = (", "# Shapes come first.\n_SHAPE = ("),
}


def explained(root: Path) -> subprocess.CompletedProcess[str]:
    """``selector explain`` of the package in a folder, as the champion decides."""
    command = "from selector.cli import app; app()"
    arguments = ["explain", NETWORK, "--target", "znver3", "--threads", "1", "--no-bytes", "--json"]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )


def copied(folder: Path) -> Path:
    """The package with what it reads."""
    shutil.copytree(ROOT / "selector", folder / "selector", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("datasets", "models"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the unedited package says."""
    done = explained(copied(tmp_path_factory.mktemp("as_it_is")))
    assert (done.returncode, done.stderr) == (0, "")
    assert '"source": "learned"' in done.stdout
    return done.stdout


def test_edits_that_change_nothing(tmp_path: Path, as_it_is: str) -> None:
    root = copied(tmp_path)
    for file, old, new in EDITS.values():
        path = root / "selector" / file
        text = path.read_text()
        assert old in text, file
        path.write_text(text.replace(old, new))
    done = explained(root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == as_it_is
