"""Writes the shape lists in the folder above this one: ``python datasets/architectures/generator/generate.py``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import classic
import detection
import mobile
import pixels


def architectures() -> dict[str, dict[str, Any]]:
    """Content of every file, by the architecture's name."""
    return {net.name: net.to_dict() for family in (classic, mobile, detection, pixels) for net in family.nets()}


def text(content: dict[str, Any]) -> str:
    """JSON with one layer a line."""
    head = {key: value for key, value in content.items() if key != "layers"}
    lines = ",\n".join(f"    {json.dumps(layer)}" for layer in content["layers"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "layers": [\n{lines}\n  ]\n}}\n'


def main() -> None:
    """Write all files."""
    folder = Path(__file__).resolve().parent.parent
    for name, content in architectures().items():
        path = folder / f"{name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text(content))
        os.replace(temporary, path)


if __name__ == "__main__":
    main()
