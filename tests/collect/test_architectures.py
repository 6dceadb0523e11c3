"""The published architectures: as their generator writes them, and as large as their papers say."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from selector.collect.architectures import (
    Architecture,
    ArchitectureError,
    load_architecture,
    load_architectures,
)
from selector.workload import ConvWorkload

FOLDER = Path(__file__).parents[2] / "datasets" / "architectures"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
GOOD: dict[str, Any] = {
    "name": "tiny",
    "source": "a test",
    "published_macs": None,
    "layers": [{"input": [8, 8, 3], "out_channels": 4, "kernel": [3, 3]}],
}


@functools.cache
def architecture(name: str) -> Architecture:
    return load_architecture(FOLDER / f"{name}.json")


def test_there_are_many() -> None:
    found = load_architectures(FOLDER)
    assert [item.name for item in found] == NAMES
    assert len(found) >= 50
    kinds = {layer.workload().kind for item in found for layer in item.layers}
    assert kinds == {"first", "1x1", "dense", "depthwise", "grouped"}


@pytest.mark.parametrize("name", NAMES)
def test_layers_add_up_to_the_published_size(name: str) -> None:
    item = architecture(name)
    assert len(set(item.layers)) == len(item.layers)
    if item.published_macs is not None:
        assert item.macs() == pytest.approx(item.published_macs, rel=0.03)


def test_files_are_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER / "generator")
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    generate = importlib.import_module("generate")
    contents = generate.architectures()
    assert sorted(contents) == NAMES
    for name, content in contents.items():
        assert (FOLDER / f"{name}.json").read_text() == generate.text(content)


def test_defaults_of_a_layer(tmp_path: Path) -> None:
    (layer,) = load_architecture(_written(tmp_path, GOOD)).layers
    assert layer.count == 1
    assert layer.workload() == ConvWorkload(1, 8, 8, 3, 4, 3, 3)


def _with_layer(**changes: Any) -> dict[str, Any]:
    return GOOD | {"layers": [*GOOD["layers"], GOOD["layers"][0] | changes]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "Expected `object`, got `array`"),
        (GOOD | {"colour": 1}, "unknown field 'colour'"),
        ({key: value for key, value in GOOD.items() if key != "source"}, "Object missing required field `source`"),
        (GOOD | {"name": ""}, "Expected `str` of length >= 1 - at `$.name`"),
        (GOOD | {"published_macs": "many"}, "Expected `int | null`, got `str` - at `$.published_macs`"),
        (GOOD | {"layers": []}, "Expected `array` of length >= 1 - at `$.layers`"),
        (GOOD | {"layers": 3}, "Expected `array`, got `int` - at `$.layers`"),
        (_with_layer(speed=1), "unknown field 'speed'"),
        (GOOD | {"layers": [{"kernel": [1, 1]}]}, "Object missing required field `input` - at `$.layers[0]`"),
        (_with_layer(kernel=[3]), "Expected `array` of length 2, got 1 - at `$.layers[1].kernel`"),
        (_with_layer(count=0), "Expected `int` >= 1 - at `$.layers[1].count`"),
        (_with_layer(padding=[0, 0, 0, -1]), "Expected `int` >= 0 - at `$.layers[1].padding[3]`"),
        (_with_layer(groups=2), "groups must divide both channel counts"),
        (_with_layer(kernel=[9, 9]), "the kernel 9x9 is larger than the padded input 8x8"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path: Path, content: Any, reason: str) -> None:
    path = _written(tmp_path, content)
    with pytest.raises(ArchitectureError) as error:
        load_architectures(tmp_path)
    assert str(error.value).startswith(f"{path}: {reason}")


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.json"
    path.write_text('{"name": ')
    with pytest.raises(ArchitectureError, match=r"half\.json: not valid JSON"):
        load_architecture(path)


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="has no architecture files"):
        load_architectures(tmp_path)


def _written(folder: Path, content: Any) -> Path:
    path = folder / "tiny.json"
    path.write_text(json.dumps(content))
    return path
