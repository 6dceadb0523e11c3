"""Grammar of what is printed."""


def counted(count: int, noun: str) -> str:
    """A number and what it counts, e.g. ``1 layer``, ``2 layers``; the last word takes the plural."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
