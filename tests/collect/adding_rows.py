"""Adds rows to a store for ever and prints the id of each once it is kept: the process that the tests kill.

``python adding_rows.py FOLDER``.  ``selector/__init__.py`` is not executed, because TVM takes seconds to import.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(folder: str) -> None:
    package = types.ModuleType("selector")
    package.__path__ = [str(ROOT / "selector")]
    sys.modules["selector"] = package
    sys.path.insert(0, str(ROOT))
    from selector.collect.store import Store
    from tests.collect.rows import measured

    with Store.open(folder, batch=3) as store:
        number = len(store.finished())
        print("open", number, flush=True)
        while True:
            number += 1
            row = measured(channels=number, target=("x86-64-v2", "x86-64-v3")[number % 2])
            store.add(row)
            print(row.id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
