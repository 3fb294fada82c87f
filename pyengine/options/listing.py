"""Options where a caller looks for them: `inspect.signature`, `help()`, and a notebook's `?` and completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyengine.canonical.search import Option, options_of

__all__ = ["lists_options"]

Function = TypeVar("Function", bound=Callable[..., Any])


def lists_options(*, prompted: bool) -> Callable[[Function], Function]:
    """For a function that takes options as `**keywords`: the names of all of them in its signature, and a line about
    each in its docstring. `prompted`: it goes on with a prompt.
    """
    listed = options_of(prompted=prompted)

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        only = inspect.Parameter.KEYWORD_ONLY
        options = [
            inspect.Parameter(name, only, default=None, annotation=f"{option.kind.accepts} | None")
            for option in listed
            for name in option.names
        ]
        kept = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
        if function.__doc__:  # python -OO has none
            function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), "", *_lines(listed), ""])
        return function

    return decorate


def _lines(options: Sequence[Option]) -> list[str]:
    names = [" or ".join(option.names) for option in options]
    width = max(map(len, names))
    pairs = zip(names, options, strict=True)
    return [f"{name:{width}}  {option.line} ({option.kind.values})" for name, option in pairs]
