"""What a text probably should not be, though it can be translated: several sentences in one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from pyengine.formats.strict_json import shorten
from pyengine.results import TranslationResult

__all__ = ["hint", "warn"]

# Where a sentence surely ends, up to the letter with which another begins. A full stop behind fewer than five letters
# may be that of an abbreviation.
_BREAK = re.compile(
    r"""(?: (?<=[^\W\d_]{5})\. | (?<=[^\W\d_]{2})[!?…]+ ) ["'»”“’)\]]* \s+ ["'«„“¿¡(\[]* (?=[^\W\d_])
      | [。！？]+ (?=[^\W\d_])""",
    re.VERBOSE,
)
_MARK = re.compile("[.!?…。！？]")  # which every break has
_END = re.compile("[.!?…。！？।؟]+")
_LEAST = 8  # characters: an interjection may be translated as part of what follows
_ADVICE = "a model for single sentences may drop what follows the first; give a list of sentences"


def hint(texts: Iterable[tuple[object, TranslationResult]]) -> str | None:
    """What to say of sentences and their results: of the first text that has line breaks, or has more sentences
    than its translation ends. None: nothing.
    """
    for text, result in texts:
        if not isinstance(text, str):
            continue
        lines = text.splitlines()
        lines = [line for line in lines if line.strip()] if len(lines) > 1 else lines
        if len(lines) > 1:
            return f"{shorten(text)} has {len(lines)} lines and was read as one sentence; {_ADVICE}"
        count = _sentences(text)
        if count > 1 and count > len(_END.findall(result.text)):
            return f"{shorten(text)} has {count} sentences or more, and its translation fewer; {_ADVICE}"
    return None


def _sentences(text: str) -> int:
    """How many there are at least."""
    count, begin = 0, 0
    first = _MARK.search(text)
    if first is None or first.end() == len(text):  # most texts: looking for breaks takes ten times as long
        return int(len(text) >= _LEAST)
    for each in _BREAK.finditer(text, first.start()):
        if not text[each.end()].islower():
            count += each.start() - begin >= _LEAST
            begin = each.end()
    return count + (len(text) - begin >= _LEAST)


def warn(said: str | None) -> None:
    """Tell the caller of who calls this."""
    if said:
        warnings.warn(said, stacklevel=3)
