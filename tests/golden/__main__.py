"""``python -m tests.golden``: write the golden files anew, after the number that guards them was raised."""

from __future__ import annotations

import sys

from tests.golden import files

if __name__ == "__main__":
    for name in sys.argv[1:] or files.GUARDS:
        print(files.write(name))
