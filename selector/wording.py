"""Words of what is printed."""


def counted(count: int, noun: str) -> str:
    """A number and what it counts, e.g. ``1 layer``, ``2 layers``; the last word takes the plural."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def last_line(error: Exception) -> str:
    """The line of an error that says what is wrong; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
