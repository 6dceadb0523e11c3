"""The ``selector`` command: each sub-command parses, calls the Python API and prints."""

from selector.cli.main import app

__all__ = ["app"]
