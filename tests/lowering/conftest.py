"""What the tests of kernels share."""

from __future__ import annotations

import pytest

from selector.lowering import plan


@pytest.fixture(autouse=True)
def _every_thread_is_worth_waking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes run on as many threads as they name: else only large ones would test the division of work."""
    monkeypatch.setattr(plan, "WORTH_WAKING", 0)
