"""Numbers are raised where what they stand for changes: today's values are those of the golden files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.golden import files
from tests.golden.files import GUARDS, TARGETS, GoldenError


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GUARDS)
def test_nothing_changed(name: str, target: str) -> None:
    problem = files.changed(name, target, files.read(name)[target])
    assert not problem, problem


def test_the_files_are_of_every_trained_target() -> None:
    from selector.policy import release

    assert set(TARGETS) == set(release.load(release.champion()).targets)
    assert all(set(files.read(name)) == set(TARGETS) for name in GUARDS)
    assert len(files.workloads()) == files.ROWS
    assert len({work.kind for work in files.workloads()}) == 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the golden files."""
    for name in GUARDS:
        shutil.copy(files.FOLDER / f"{name}.json", tmp_path)
    return tmp_path


def test_a_missing_file(folder: Path) -> None:
    (folder / "kernels.json").unlink()
    with pytest.raises(GoldenError, match=r"kernels.json is missing: .*`python -m tests.golden kernels` writes it"):
        files.read("kernels", folder)


@pytest.mark.parametrize(("old", "new"), [('"version": 1', '"version": 2'), ("int8", "int9")])
def test_an_edited_file(folder: Path, old: str, new: str) -> None:
    path = folder / "kernels.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(GoldenError, match=r"kernels.json was edited by hand: restore it"):
        files.read("kernels", folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checksum": 1, "version": 1}'])
def test_a_damaged_file(folder: Path, text: str) -> None:
    (folder / "features.json").write_text(text)
    with pytest.raises(GoldenError, match=r"features.json is damaged"):
        files.read("features", folder)


def test_a_raised_number_asks_for_new_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "KERNEL_VERSION", 99)
    with pytest.raises(GoldenError, match=r"is of kernels 1, these are 99: `python -m tests.golden kernels`"):
        files.read("kernels", folder)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("kernels", "raise KERNEL_VERSION in selector/lowering/version.py, run `selector collect renumber"),
        ("features", "raise FEATURE_VERSION in selector/features/table.py and train again"),
        ("decisions", "the released model decides otherwise"),
    ],
)
def test_what_changed_is_told_with_what_to_do(name: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = files.read(name)["x86-64"]
    other = json.loads(json.dumps(values))
    key, value = next(iter(other.items()))
    if isinstance(value, dict):
        inner = next(iter(value))
        value[inner] = value[inner] * 2
    else:
        other[key] = "0" * 16
    guard = GUARDS[name]
    monkeypatch.setitem(GUARDS, name, files.Guard(guard.version, lambda target: other, guard.advice))
    problem = files.changed(name, "x86-64", values)
    assert problem.startswith("1 of x86-64 differ (")
    assert advice in problem
    assert "\n" not in problem
