"""Text that a terminal may be given."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` with control characters, and whatever else does not print, as escapes."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
