"""What callers hand in as options: numbers and booleans, from Python or NumPy, and names that are none.

All raise OptionError, which names the option, what was expected and what was found.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pyengine.errors import OptionError
from pyengine.formats.strict_json import shorten
from pyengine.foreign import FOREIGN

__all__ = ["KEYWORDS", "choice", "flag", "real", "scalar", "unknown_option", "whole"]

_TRANSLATING = "translate, translate_iter, translate_file"
_WRITING = "generate, stream, chat and chat_stream"

KEYWORDS = {
    "source": "translate, translate_iter and translate_file",
    "target": "translate, translate_iter and translate_file",
    "target_prefix": "translate, translate_iter and translate_file",
    "options": f"{_TRANSLATING}, {_WRITING}",
    "max_batch_tokens": f"{_TRANSLATING}, logits_iter, score, perplexity, {_WRITING}",
    "truncate": f"{_TRANSLATING}, score, {_WRITING}",
    "timeout": f"{_TRANSLATING}, score, logits, perplexity, {_WRITING}",
    "stop": _WRITING,
    "processor": _WRITING,
    "split_special_tokens": "generate and stream",
    "tools": "chat and chat_stream",
    "chat_template_kwargs": "chat and chat_stream",
    "window": "perplexity",
    "overwrite": "translate_file",
    "render": "translate_file",
    **dict.fromkeys(("task", "threads", "replicas", "compute", "kv", "load", "shortlist", "cache_bytes", "verify"),
                    "pyengine.load"),
}
"""Keywords beside those of `GenerationOptions` -> the calls that take them."""


def whole(name: str, value: Any, low: int, high: int | None = None, remark: str = "") -> int:
    """`value`, anything with __index__ but a boolean, as int, in [low, high]; `remark`: more of what is expected."""
    value = scalar(value)
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        span = f"at least {low}" if high is None else f"{low}..{high}"
        raise OptionError(f"{name} is {shorten(value)}; expected a whole number, {span}{remark}")
    return number


def real(value: Any) -> float | None:
    """`value`, a number but no boolean, as float; None if it is no such thing, or too large for a float."""
    value = scalar(value)
    try:
        return None if isinstance(value, (bool, str, bytes, np.ndarray)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def flag(name: str, value: Any, expected: str = "True or False") -> bool:
    """`value`, which has to be a boolean: "no" and 0 would be taken for one by accident."""
    value = scalar(value)
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {shorten(value)}; expected {expected}")
    return value


def choice(name: str, value: Any, names: tuple[str, ...]) -> str:
    """`value`, one of `names`."""
    if not (isinstance(value, str) and value in names):
        expected = " or ".join(f'"{each}"' for each in names)
        raise OptionError(f"{name} is {shorten(value)}; expected {expected}")
    return value


def scalar(value: Any) -> Any:
    """NumPy's scalars and arrays without axes as Python's."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def unknown_option(name: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> OptionError:
    """What to say of a keyword that a call does not have: what to do in its place, which calls have it (`elsewhere`),
    or which of the `known` ones was meant.
    """
    if name in FOREIGN:
        return OptionError(f"{name}: no such option here; {FOREIGN[name]}")
    if name in elsewhere:
        return OptionError(f"{name}: no such option here; it is one of {elsewhere[name]}")
    near = _near(name, known)
    return OptionError(f"{name}: no such option" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Those of `known` that `name` is a slip of; several if it is as near to each. Never a name of another meaning:
    what other libraries call theirs is in FOREIGN, and a slip leaves most letters as they are.
    """
    letters = difflib.SequenceMatcher(b=_letters(name))
    ratios = {}
    for each in known:
        letters.set_seq1(_letters(each))
        ratios[each] = letters.ratio()
    best = max(ratios.values(), default=0.0)
    return [each for each, ratio in ratios.items() if ratio == best] if best >= 0.85 else []


def _letters(name: str) -> str:
    return name.replace("_", "").casefold()
