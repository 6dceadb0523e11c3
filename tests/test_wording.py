"""Grammar of what is printed."""

import pytest

from selector.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "row", "0 rows"), (1, "quantized layer", "1 quantized layer"), (2, "CPU", "2 CPUs")],
)
def test_counted(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
