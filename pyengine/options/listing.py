"""Options where a caller looks for them: `inspect.signature`, `help()`, and a notebook's `?` and completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from pyengine.canonical.search import OPTIONS

__all__ = ["lists_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def lists_options(function: Function) -> Function:
    """`function`, which takes options as `**keywords`, with the names of all of them in its signature, and a line about
    each in its docstring.
    """
    signature = inspect.signature(function)
    only = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, only, default=None, annotation=f"{option.kind.accepts} | None")
        for option in OPTIONS.values()
        for name in option.names
    ]
    kept = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    if function.__doc__:  # python -OO has none
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), "", *_lines(), ""])
    return function


def _lines() -> list[str]:
    names = [" or ".join(option.names) for option in OPTIONS.values()]
    width = max(map(len, names))
    pairs = zip(names, OPTIONS.values(), strict=True)
    return [f"{name:{width}}  {option.line} ({option.kind.values})" for name, option in pairs]
