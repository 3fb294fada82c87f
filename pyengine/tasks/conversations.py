"""A conversation as a prompt: by the model's chat template, and without its oldest turns where it is too long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from pyengine.errors import InputError

__all__ = ["Message", "Turns", "is_conversation"]

Message = Mapping[str, Any]

_BEFORE = ("system", "developer")
"""Roles of messages that come before all turns."""


class Turns:
    """A conversation in turns, each of which begins with a user's message; the messages before them stay."""

    def __init__(self, encode: Callable[[Sequence[Message]], list[int]], messages: Sequence[Message]) -> None:
        """`encode` gives the ids of messages, and raises InputError for what are none."""
        self._encode = encode
        self._ids = {0: encode(messages)}
        roles = [message["role"] for message in messages]
        before = next((i for i, role in enumerate(roles) if role not in _BEFORE), len(roles) - 1)
        self._before, self._messages = list(messages[:before]), messages
        self._begins = [before, *(i for i, role in enumerate(roles) if role == "user" and i > before)]

    @property
    def count(self) -> int:
        """At least one."""
        return len(self._begins)

    def ids(self, first: int) -> list[int]:
        """Ids of the conversation whose first turn is this one."""
        if first not in self._ids:
            self._ids[first] = self._encode([*self._before, *self._messages[self._begins[first] :]])
        return self._ids[first]

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """Ids of the last turn's conversation before and behind the text of the turn's first message, whatever that
        text is.
        """
        first, *behind = self._messages[self._begins[-1] :]
        changed = self._encode([*self._before, {**first, "content": _other(first.get("content"))}, *behind])
        ids = self.ids(self.count - 1)
        head = commonprefix([ids, changed])
        backwards = [each[len(head) :][::-1] for each in (ids, changed)]
        return list(head), list(commonprefix(backwards)[::-1])


def _other(content: Any) -> Any:
    """A content whose texts, those of its parts, begin and end in another way."""
    if isinstance(content, str):
        said = content.strip()
        return next(letter for letter in "abc" if letter not in (said[:1], said[-1:]))
    if isinstance(content, (list, tuple)):
        return [_other(part) for part in content]
    if isinstance(content, Mapping) and "text" in content:
        return {**content, "text": _other(content["text"])}
    return content


def is_conversation(messages: Any) -> bool:
    """Whether these are the messages of one, rather than a list of conversations."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError("expected messages, [{\"role\": ..., \"content\": ...}, ...], or a list of such lists")
    return isinstance(messages[0], Mapping)
