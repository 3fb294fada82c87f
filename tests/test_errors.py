"""Errors as values: in another process they say what they said in this one."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from pyengine import errors
from pyengine.errors import CacheFullError, PartialError, PyengineError

FIRST = errors.InputError("input 2 is too long (truncate=True cuts it)", keywords=("truncate=True",))
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "CacheFullError": (7, 3),
    "PartialError": (["one", None, None, "four"], {2: ValueError("third"), 1: FIRST}),
}


def error_of(name: str) -> PyengineError:
    kind = getattr(errors, name)
    arguments = ARGUMENTS.get(name)
    error: PyengineError = kind("a\x1b[31m \\ b=True", keywords=("b=True",)) if arguments is None else kind(*arguments)
    return error


def said(error: BaseException | None) -> Any:
    """All that there is to an error; of an error that it holds, too."""
    if error is None:
        return None
    own = {name: repr(value) for name, value in vars(error).items()}
    return type(error), str(error), error.args, own, said(error.__cause__), getattr(error, "keywords", None)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_can_be_pickled_and_copied(name: str) -> None:
    error = error_of(name)
    error.note = "told by the caller"  # type: ignore[attr-defined]
    found = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for each in (*found, copy.copy(error), copy.deepcopy(error)):
        assert said(each) == said(error)


def test_what_errors_hold() -> None:
    full = pickle.loads(pickle.dumps(error_of("CacheFullError")))
    assert isinstance(full, CacheFullError) and (full.needed, full.available) == (7, 3)
    partial = pickle.loads(pickle.dumps(error_of("PartialError")))
    assert isinstance(partial, PartialError) and partial.results == ["one", None, None, "four"]
    assert list(partial.errors) == [2, 1] and partial.__cause__ is partial.errors[1]
    assert said(partial.errors[1]) == said(FIRST)
