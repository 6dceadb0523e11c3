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
from selector.lowering.fingerprint import kernel_fingerprint
from selector.policy import release
from selector.policy.release import ReleaseError, Thresholds
from selector.policy.roofline import RATIO
from selector.target import profile
from tests.policy import released


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def sign(folder: Path, **changes: Any) -> None:
    """Change entries of the manifest and make its checksum fit again."""
    values = manifest(folder) | changes
    values["digest"] = release._digest(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def test_round_trip(tmp_path: Path) -> None:
    folder = released.write(tmp_path / "models" / "test", thresholds={"band": 0.05})
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "manifest.json", "model-0.txt", "model-1.txt", "model-2.txt",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["test"]
    model = release.load(folder)
    assert (model.name, model.version, model.targets) == ("test", "3", released.TARGETS)
    assert model.thresholds == Thresholds(band=0.05)
    assert model.metrics == {"mean": 0.98}
    assert model.extra == {"rows": len(released.training_features())}
    assert model.stale is None
    x = released.training_features()
    assert model.ranges["in_channels"] == (4.0, 7.0)
    assert model.instruction_sets == {release.instruction_set(profile(name)) for name in released.TARGETS}
    mean, spread = model.predict(x)
    each = model.forest.predict(x)
    np.testing.assert_array_equal(mean, each.mean(axis=0))
    np.testing.assert_array_equal(spread, each.std(axis=0))
    assert spread.max() > 0


def test_prior_is_added_to_what_the_members_predict(tmp_path: Path) -> None:
    plain, started = (release.load(released.write(tmp_path / str(share), prior=share)) for share in (0.0, 0.5))
    x = released.training_features()
    added = 0.5 * np.clip(x[:, RATIO], -2, 2)
    (mean, spread), (other, as_wide) = plain.predict(x), started.predict(x)
    np.testing.assert_allclose(other, mean + added)
    np.testing.assert_array_equal(as_wide, spread)
    explained, _, changes = started.explain(x)
    np.testing.assert_allclose(explained, other)
    np.testing.assert_allclose(changes.sum(axis=1) + started.forest.bias, other)


def test_instruction_sets() -> None:
    v3 = profile("x86-64-v3")
    assert release.instruction_set(v3) == release.instruction_set(replace(v3, name="other", l2_bytes=1))
    assert release.instruction_set(v3) != release.instruction_set(profile("cascadelake"))
    assert release.instruction_set(v3) != release.instruction_set(profile("cortex-a72"))


def test_kernels_have_changed(tmp_path: Path) -> None:
    model = release.load(released.write(tmp_path / "test", fingerprint="0" * 16))
    assert model.fingerprint != kernel_fingerprint()
    assert "test 3 was trained on other kernels" in (model.stale or "")
    assert "`selector train`" in (model.stale or "")


def truncate(folder: Path) -> None:
    path = folder / "model-1.txt"
    path.write_bytes(path.read_bytes()[:-200])


def flip(folder: Path) -> None:
    path = folder / "model-2.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=9", 1))


def edit_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"band": 0.0', '"band": 9.0'))


def other_members(folder: Path) -> None:
    text = released.boosters()[0].replace("macs ", "Macs ", 1).encode()
    (folder / "model-0.txt").write_bytes(text)
    files = manifest(folder)["files"] | {"model-0.txt": hashlib.sha256(text).hexdigest()}
    sign(folder, files=files, members=["model-0.txt"])


def not_a_model(folder: Path) -> None:
    sign(folder, members=["README.md"])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "model-1.txt is not the file that was released"),
        (flip, "model-2.txt is not the file that was released"),
        (edit_manifest, "manifest.json was changed since it was written"),
        (other_members, "trained on other features than the manifest says"),
        (not_a_model, "not a LightGBM text model"),
        (lambda folder: (folder / "model-0.txt").unlink(), "cannot read model-0.txt: No such file"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot read .*manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "has to be a JSON object"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "schema None is unknown, this version reads 2"),
        (lambda folder: sign(folder, schema=99), "schema 99 is unknown"),
        (
            lambda folder: sign(folder, features={"version": "f00", "names": list(features.NAMES)}),
            "made for features of version f00, .* `selector train`",
        ),
        (lambda folder: sign(folder, files={"../README.md": ""}), "names '../README.md', which is not in the folder"),
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
        ({"boosters": ["tree\n"]}, "not a LightGBM text model"),
        ({"boosters": []}, "at least one model"),
        ({"ranges": {"macs": (0, 1)}}, "ranges must be given for every feature"),
        ({"ranges": dict.fromkeys(features.NAMES, (1, 0))}, "a least and a largest value"),
        ({"thresholds": {"courage": 1.0}}, "unknown thresholds courage: there are band, spread, margin"),
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
