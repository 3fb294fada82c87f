"""What becomes of a list some of which failed while they ran: the rule of all tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, Union

from pyengine.errors import PartialError

__all__ = ["all_answered", "answered"]

T = TypeVar("T")


def answered(outcome: Union[T, Exception]) -> T:
    """Of one that was asked for alone: raises what ended it."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def all_answered(outcomes: Iterable[Union[T, Exception]]) -> list[T]:
    """Of a list, whose others have gone on. Raises PartialError unless all are there."""
    each = list(outcomes)
    errors = {i: outcome for i, outcome in enumerate(each) if isinstance(outcome, Exception)}
    results = [outcome for outcome in each if not isinstance(outcome, Exception)]
    if errors:
        raise PartialError([None if i in errors else outcome for i, outcome in enumerate(each)], errors)
    return results
