"""Released models: written whole, loaded only if they are what was written and still mean the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selector import data, features
from selector.lowering.version import KERNEL_VERSION
from selector.policy import release
from selector.policy.model import BOUNDED
from selector.policy.release import ReleaseError
from tests.policy import released


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def sign(folder: Path, **changes: Any) -> None:
    """Change entries of the manifest and make its checksum fit again."""
    values = manifest(folder) | changes
    values["digest"] = release._digest(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def test_round_trip(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "models" / "test", prior=0.5, trust={"direct pmaddubsw": 0.75})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "manifest.json", "trees.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["test"]
    made = release.load(folder)
    assert (made.name, made.version, made.targets) == ("test", "3", released.TARGETS)
    assert made.metrics == {"mean": 0.98}
    assert made.extra == {"rows": len(released.training_features())}
    assert made.stale is None
    assert made.trees() == released.trees()
    expected = replace(released.model(), prior=0.5, trust={"direct pmaddubsw": 0.75}, forest=made.model.forest)
    assert made.model == expected
    x = released.training_features()
    np.testing.assert_array_equal(made.model.predict(x), expected.predict(x))


def test_a_model_without_intervals(tmp_path: Path) -> None:
    made = release.load(released.write(tmp_path / "test", known=None, unknown=None))
    assert (made.model.known, made.model.unknown) == (None, None)


def test_kernels_have_changed(tmp_path: Path) -> None:
    made = release.load(released.write(tmp_path / "test", kernels=KERNEL_VERSION - 1))
    assert f"trained on kernels {KERNEL_VERSION - 1}, these are {KERNEL_VERSION}" in (made.stale or "")
    assert "`selector train`" in (made.stale or "")


def truncate(folder: Path) -> None:
    path = folder / "trees.txt"
    path.write_bytes(path.read_bytes()[:-200])


def flip(folder: Path) -> None:
    path = folder / "trees.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))


def edit_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"prior": 0.0', '"prior": 9.0'))


def other_trees(text: str) -> Callable[[Path], None]:
    """Replace the trees, with a checksum that fits."""

    def damage(folder: Path) -> None:
        (folder / "trees.txt").write_text(text)
        files = manifest(folder)["files"] | {"trees.txt": hashlib.sha256(text.encode()).hexdigest()}
        sign(folder, files=files)

    return damage


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "trees.txt is not the file that was released"),
        (flip, "trees.txt is not the file that was released"),
        (edit_manifest, "manifest.json was changed since it was written"),
        (other_trees(released.trees().replace("macs ", "Macs ", 1)), "other features than the manifest says"),
        (other_trees("# no trees"), "not a LightGBM text model"),
        (lambda folder: (folder / "trees.txt").unlink(), "cannot read .*trees.txt: No such file"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot read .*manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "has to be a JSON object"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "missing required field `schema`"),
        (lambda folder: sign(folder, schema=99), "schema 99 is unknown, this version reads 3"),
        (
            lambda folder: sign(folder, features={"version": 99, "names": list(features.NAMES)}),
            f"made for features 99, not {features.FEATURE_VERSION}; `selector train`",
        ),
        (lambda folder: sign(folder, files={"../README.md": ""}), "files have to be trees.txt and README.md"),
    ],
)
def test_refuses_to_load(tmp_path: Path, damage: Callable[[Path], object], problem: str) -> None:
    folder = released.write(tmp_path / "test")
    release.load(folder)
    damage(folder)
    with pytest.raises(ReleaseError, match=problem):
        release.load(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no such folder"):
        release.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": "tree\n"}, "not a LightGBM text model"),
        ({"ranges": {"term2": (0, 1)}}, "ranges must be given for bounded features and no others"),
        ({"ranges": dict.fromkeys(BOUNDED, (1, 0))}, "a least and a largest value"),
    ],
)
def test_writes_all_or_nothing(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ReleaseError, match=problem):
        released.write(tmp_path / "test", **changes)
    assert list(tmp_path.iterdir()) == []


def test_released_models_do_not_change(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "test")
    with pytest.raises(ReleaseError, match="exists: a released model does not change"):
        released.write(folder)


def test_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(release.ENVIRONMENT, raising=False)
    monkeypatch.setattr(data, "folder", lambda name: tmp_path / name)
    with pytest.raises(ReleaseError, match="no model is released"):
        release.champion()
    first = released.write(tmp_path / "models" / "first")
    assert release.champion() == first
    second = released.write(tmp_path / "models" / "second")
    with pytest.raises(ReleaseError, match="2 models are released and none is the champion"):
        release.champion()
    pointer = tmp_path / "models" / "champion.json"
    pointer.write_text('{"model": "second"}')
    assert release.champion() == second
    for bad in ('{"model": "../second"}', '{"model": 2}', "{}"):
        pointer.write_text(bad)
        with pytest.raises(ReleaseError, match="has to name a folder beside it"):
            release.champion()
    monkeypatch.setenv(release.ENVIRONMENT, str(first))
    assert release.champion() == first
