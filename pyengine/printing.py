"""Text that a terminal may be given, whatever file it came from: escaped, and not too long."""

from __future__ import annotations

import re

__all__ = ["harmless", "printable"]

LONGEST = 2000
"""Characters of a line: what says how to go on is at its end, so the middle is left out."""


# Control characters, but for the line feed and the tab; what turns the direction of a text; halves of surrogates.
_ACTING = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def harmless(text: str) -> str:
    """`text` with its lines and all characters but those that a terminal would act on, which are escapes."""
    return _ACTING.sub(lambda found: _escape(found[0]), text)


def printable(text: str) -> str:
    """`text` with control characters, and whatever else does not print, as escapes; of a long one both ends."""
    # Cut before, or megabytes would be escaped, and after, since an escape has up to ten characters.
    return _cut("".join(each if each.isprintable() else _escape(each) for each in _cut(text)))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    kept = LONGEST // 2 - 5
    return f"{text[:kept]} [...] {text[-kept:]}"
