"""What running a chat template may cost, counted as it runs: no clock stops Python in the middle of an operation.

So a step is paid before or while it is done: each pass through a loop or macro by the size of its body, each call,
filter and comparison by the size of what it reads, each new text or list by its size. Nested values may share parts,
and their text be larger than memory: where something reads them as a whole, they are walked first.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any

import jinja2.utils

__all__ = ["BUDGET", "DEPTH", "ROOM", "STEPS", "Budget", "OverBudgetError"]

STEPS = 1_000_000
"""Steps of one rendering, of a few microseconds at most."""
ROOM = 1 << 27
"""Characters, and 32 for each item of a list, that one rendering may make in all."""
DEPTH = 64
"""Of nested lists and mappings."""

_ITEM = 32
_ESCAPED = 12  # characters that one becomes at most where text is written as Python or JSON writes it
_CHARACTERS = 1000  # a step goes over so many
_ITEMS = 4  # or walks so many values
_BITS = 4096  # of an integer
_NUMBER = re.compile(r"[0-9]+")
_NESTED = re.compile(r"\{[^{}]*\{")
_CONTAINERS = (dict, list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)


class OverBudgetError(Exception):
    """A template would take more than its budget; the message says of what."""


class Budget:
    """What is left for one rendering. Every method raises OverBudgetError."""

    def __init__(self) -> None:
        self._steps, self._room = STEPS, ROOM

    def spend(self, steps: int) -> None:
        """Pays for work."""
        self._steps -= steps
        if self._steps < 0:
            raise OverBudgetError(f"it takes more than {STEPS:,} steps")

    def make(self, characters: int) -> None:
        """Pays for text that is about to be made, or has been."""
        self._room -= characters
        if self._room < 0:
            raise OverBudgetError(f"it makes more than {ROOM:,} characters")
        self.spend(1 + characters // _CHARACTERS)

    def read(self, value: Any) -> None:
        """Pays for going over a value's own characters or items, once."""
        if isinstance(value, (str, bytes)):
            self.spend(1 + len(value) // _CHARACTERS)
        elif isinstance(value, _CONTAINERS):
            self.spend(1 + len(value) // _ITEMS)
        else:
            self.spend(1)

    def walk(self, value: Any) -> tuple[int, int]:
        """Pays for going over a value and all that is in it; gives the characters and the number of values in it."""
        if isinstance(value, str):
            self.read(value)
            return len(value), 1
        characters, count = 0, 0
        level = [value]
        for _ in range(DEPTH):
            most = _ITEMS * self._steps
            inside: list[Any] = []
            for each in level:
                if isinstance(each, str):
                    characters += len(each)
                elif isinstance(each, int):
                    characters += each.bit_length() // 3
                elif isinstance(each, jinja2.utils.Namespace):
                    inside.extend(_attributes(each))
                elif isinstance(each, _CONTAINERS):
                    inside.extend(each)
                    if isinstance(each, dict):
                        inside.extend(each.values())
                    if len(inside) > most:
                        break
            count += len(level)
            self.spend(1 + max(len(level), len(inside)) // _ITEMS)
            if not inside:
                self.spend(characters // _CHARACTERS)
                return characters, count
            level = inside
        raise OverBudgetError(f"it nests values in more than {DEPTH} levels")

    def made(self, value: Any) -> None:
        """Pays for a value that an operation made whose size its operands bound."""
        if isinstance(value, (str, bytes)):
            self.make(len(value))
        elif isinstance(value, (list, tuple, dict, set)):
            self.make(_ITEM * len(value))
        elif isinstance(value, int):
            self.integer(value.bit_length())
        else:
            self.spend(1)

    def items(self, count: int) -> None:
        """Pays for a list that is about to be made."""
        self.make(_ITEM * count)

    def integer(self, bits: int) -> None:
        """Pays for an integer of so many bits."""
        if bits > _BITS:
            raise OverBudgetError(f"it makes integers of more than {_BITS} bits")
        self.spend(1)

    def text_of(self, value: Any) -> None:
        """Pays for the text of a value, as Python or JSON writes it, which is about to be made."""
        if isinstance(value, str):
            self.make(len(value))
        else:
            characters, count = self.walk(value)
            self.make(_ESCAPED * characters + _ITEM * count)

    def formatted(self, text: str, values: Any) -> None:
        """Pays for what ``text % values`` or ``text.format(values)`` makes."""
        numbers = _NUMBER.findall(text)
        if any(len(number) > 6 for number in numbers):
            raise OverBudgetError(f"it makes more than {ROOM:,} characters")
        characters, count = self.walk(values)
        fields = text.count("%") + text.count("{")
        if "*" in text or _NESTED.search(text):  # widths that are values
            given = values if isinstance(values, (list, tuple)) else [values]
            characters += sum(abs(each) for each in given if isinstance(each, int))
        self.make(len(text) + sum(map(int, numbers)) + fields * (_ESCAPED * characters + _ITEM * count))


def _attributes(namespace: jinja2.utils.Namespace) -> list[Any]:
    """What a namespace holds: templates reach its attributes alone."""
    attributes: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return list(attributes.values())


BUDGET: ContextVar[Budget] = ContextVar("BUDGET")
"""That of the rendering under way in this thread."""
