"""What users can get wrong about training; free of imports, since every command tells these errors from failures."""

from __future__ import annotations


class RecipeError(ValueError):
    """The recipe cannot be used; the message says which file and entry."""


class UnknownModel(ValueError):
    """The registry has no such version; the message says what it has."""
