"""What the value of an option may be, wherever it comes from: Python, a command line, or a file of JSON.

A kind reads all three into the same value, and says of a wrong one what was expected, in the words of where it came
from.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyengine.arguments import real, scalar, whole
from pyengine.canonical.config import MAX_POSITIONS
from pyengine.errors import OptionError
from pyengine.formats.strict_json import Fields, shorten

__all__ = ["Biases", "Ids", "Kind", "Length", "OneId", "OneOf", "Phrases", "Real", "Whole"]


class Kind(ABC):
    """What a value may be, and how each of its sources is read."""

    @property
    @abstractmethod
    def accepts(self) -> str:
        """The type of the keyword in Python."""

    @property
    @abstractmethod
    def gives(self) -> str:
        """The type of what `check` makes of it."""

    @property
    @abstractmethod
    def metavar(self) -> str:
        """What stands for a value on the command line."""

    @property
    @abstractmethod
    def values(self) -> str:
        """Which there are."""

    @property
    def words(self) -> str:
        """The same on the command line."""
        return self.values

    @abstractmethod
    def check(self, name: str, value: Any) -> Any:
        """`value` from Python, NumPy's numbers and arrays among them. OptionError, which calls it `name`."""

    @abstractmethod
    def read(self, name: str, word: str) -> Any:
        """What `word` says on the command line. OptionError, which calls it `name`."""

    @abstractmethod
    def take(self, fields: Fields, name: str, top: int) -> Any:
        """Of the field `name` of a file; ids are in [0, top]. The error of `fields`."""

    def of_checkpoint(self, value: Any) -> Any:
        """`value` of a training checkpoint in the form that `take` reads."""
        return value

    def fit(self, value: Any, max_positions: int) -> Any:
        """A default, made to fit a model."""
        return value

    def settled(self, value: Any) -> Any:
        """What a search is told of what `check` gave."""
        return value

    def ids(self, value: Any) -> tuple[int, ...]:
        """The ids in a settled value."""
        return ()

    def renumbered(self, value: Any, number: Mapping[int, int]) -> Any:
        """A settled value in which each id is its ``number``; ids without one are dropped."""
        return value


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number of at least `low`, and at most `high`."""

    low: int
    high: int | None = None

    accepts, gives, metavar = "int", "int", "N"

    @property
    def values(self) -> str:
        return f"{self.low}.." if self.high is None else f"{self.low}..{self.high}"

    def check(self, name: str, value: Any) -> int:
        return whole(name, value, self.low, self.high)

    def read(self, name: str, word: str) -> int:
        return self.check(name, int(word) if re.fullmatch(r"[+-]?[0-9]{1,18}", word) else word)

    def take(self, fields: Fields, name: str, top: int) -> int:
        return fields.integer(name, self.low, MAX_POSITIONS if self.high is None else self.high)


@dataclass(frozen=True)
class Length(Whole):
    """A number of tokens, at most the model's positions; `start`: with the start token, as the last is never read."""

    start: bool = False

    def most(self, max_positions: int) -> int:
        return max_positions + self.start

    def take(self, fields: Fields, name: str, top: int) -> int:
        return fields.integer(name, self.low, self.most(MAX_POSITIONS))

    def fit(self, value: Any, max_positions: int) -> Any:
        return min(value, self.most(max_positions)) if type(value) is int else value


@dataclass(frozen=True)
class Real(Kind):
    """A number in [low, high]."""

    low: float
    high: float

    accepts, gives, metavar = "float", "float", "X"

    @property
    def values(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    def check(self, name: str, value: Any) -> float:
        number = real(value)
        if number is None or not self.low <= number <= self.high:
            raise OptionError(f"{name} is {shorten(value)}; expected a number, {self.values}")
        return number

    def read(self, name: str, word: str) -> float:
        try:
            number: float | str = float(word)
        except ValueError:
            number = word
        return self.check(name, number)

    def take(self, fields: Fields, name: str, top: int) -> float:
        return fields.number(name, self.low, self.high)


@dataclass(frozen=True)
class OneOf(Kind):
    """One of a few booleans and strings. On the command line all are words, such as "true"."""

    choices: tuple[bool | str, ...]

    metavar = "WORD"

    @property
    def accepts(self) -> str:
        words = [f'"{each}"' for each in self.choices if isinstance(each, str)]
        flags = ["bool"] if len(words) < len(self.choices) else []
        return " | ".join([*flags, *([f"Literal[{', '.join(words)}]"] if words else [])])

    @property
    def gives(self) -> str:
        return self.accepts

    @property
    def values(self) -> str:
        return _or([f'"{each}"' if isinstance(each, str) else str(each) for each in self.choices])

    @property
    def words(self) -> str:
        return _or([str(each).lower() for each in self.choices])

    def check(self, name: str, value: Any) -> bool | str:
        value = scalar(value)
        for each in self.choices:  # 1 equals True, and would be taken for it by accident
            if type(value) is type(each) and value == each:
                return each
        raise OptionError(f"{name} is {shorten(value)}; expected {self.values}")

    def read(self, name: str, word: str) -> bool | str:
        for each in self.choices:
            if word == str(each).lower():
                return each
        raise OptionError(f"{name} is {shorten(word)}; expected {self.words}")

    def take(self, fields: Fields, name: str, top: int) -> bool | str:
        value: bool | str = fields.choice(name, self.choices)
        return value


class Ids(Kind):
    """Token ids; one stands for a list of one."""

    accepts, gives, metavar = "int | Sequence[int]", "tuple[int, ...]", "IDS"
    values, words = "ids; (): none", "token ids, such as 3,4, or none"

    def check(self, name: str, value: Any) -> tuple[int, ...]:
        return _ids(name, value)

    def read(self, name: str, word: str) -> tuple[int, ...]:
        return _read_ids(name, word, self.words)

    def take(self, fields: Fields, name: str, top: int) -> tuple[int, ...]:
        return fields.integers(name, 0, top)

    def of_checkpoint(self, value: Any) -> Any:
        return [value] if type(value) is int else value

    def ids(self, value: Any) -> tuple[int, ...]:
        return tuple(value)

    def renumbered(self, value: Any, number: Mapping[int, int]) -> Any:
        return tuple(number[id] for id in value if id in number)


class OneId(Kind):
    """One token id, or none, which is () where a caller says it and None in the end."""

    accepts, gives, metavar = "int | tuple[()]", "int | tuple[()]", "ID"
    values, words = "an id; (): none", "a token id, such as 3, or none"

    def check(self, name: str, value: Any) -> int | tuple[()]:
        return () if _as_tuple(value) == () else whole(name, value, 0)

    def read(self, name: str, word: str) -> int | tuple[()]:
        found = _read_ids(name, word, self.words)
        if len(found) > 1:
            raise OptionError(f"{name} is {shorten(word)}; expected {self.words}")
        return self.check(name, found[0] if found else ())

    def take(self, fields: Fields, name: str, top: int) -> int:
        return fields.integer(name, 0, top)

    def of_checkpoint(self, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    def settled(self, value: Any) -> Any:
        return None if value == () else value

    def ids(self, value: Any) -> tuple[int, ...]:
        return () if value is None else (value,)

    def renumbered(self, value: Any, number: Mapping[int, int]) -> Any:
        return number.get(value)


class Phrases(Kind):
    """Sequences of token ids, none of them empty."""

    accepts, gives, metavar = "Sequence[Sequence[int]]", "tuple[tuple[int, ...], ...]", "IDS"
    values, words = "sequences of ids; (): none", "sequences of token ids, such as '3,4 5', or none"

    def check(self, name: str, value: Any) -> tuple[tuple[int, ...], ...]:
        rows = _as_tuple(value)
        for row in rows:
            if not isinstance(found := scalar(row), Iterable):
                raise OptionError(f"{name} holds {shorten(found)}; expected {self.values}")
        phrases = tuple(_ids(name, phrase) for phrase in rows)
        if not all(phrases):
            raise OptionError(f"{name} holds an empty sequence")
        return phrases

    def read(self, name: str, word: str) -> tuple[tuple[int, ...], ...]:
        if word == "none":
            return ()
        return self.check(name, [_read_ids(name, phrase, self.words) for phrase in word.split() or [word]])

    def take(self, fields: Fields, name: str, top: int) -> tuple[tuple[int, ...], ...]:
        phrases = fields.take(name)
        if not isinstance(phrases, (list, tuple)):
            fields.fail(name, "a list of lists of ids", phrases)
        named = {f"{name}[{i}]": phrase for i, phrase in enumerate(phrases)}
        inside = Fields(named, fields.where, fields.error)
        found = tuple(inside.integers(each, 0, top) for each in named)
        if () in found:
            fields.fail(name, "lists of at least one id", phrases)
        return found

    def ids(self, value: Any) -> tuple[int, ...]:
        return tuple(id for phrase in value for id in phrase)

    def renumbered(self, value: Any, number: Mapping[int, int]) -> Any:
        """A phrase that lacks an id cannot occur."""
        return tuple(tuple(number[id] for id in phrase) for phrase in value if number.keys() >= set(phrase))


class Biases(Kind):
    """A number for each of some token ids."""

    accepts, gives, metavar = "Mapping[int, float]", "tuple[tuple[int, float], ...]", "ID:X"
    values, words = "numbers by ids, -1000..1000; {}: none", "ids and numbers, such as 3:1.5,4:-2, or none"
    _number = Real(-1000.0, 1000.0)

    def check(self, name: str, value: Any) -> tuple[tuple[int, float], ...]:
        pairs = tuple(value.items()) if isinstance(value, Mapping) else value
        rows = (list, tuple)
        if not isinstance(pairs, rows) or not all(isinstance(pair, rows) and len(pair) == 2 for pair in pairs):
            raise OptionError(f"{name} is {shorten(value)}; expected {self.values}")
        found = {whole(name, id, 0): self._number.check(name, number) for id, number in pairs}
        return tuple(sorted(found.items()))

    def read(self, name: str, word: str) -> tuple[tuple[int, float], ...]:
        if word == "none":
            return ()
        pairs = re.findall(r"([0-9]{1,18}):([^,:]+)(?:,|$)", word)
        if ",".join(map(":".join, pairs)) != word or not pairs:
            raise OptionError(f"{name} is {shorten(word)}; expected {self.words}")
        return self.check(name, [(int(id), self._number.read(name, number)) for id, number in pairs])

    def take(self, fields: Fields, name: str, top: int) -> tuple[tuple[int, float], ...]:
        pairs = fields.take(name)
        rows = (list, tuple)
        if not isinstance(pairs, rows) or not all(isinstance(pair, rows) and len(pair) == 2 for pair in pairs):
            fields.fail(name, "a list of pairs of an id and a number", pairs)
        ids = Fields({f"{name}[{i}][0]": id for i, (id, _) in enumerate(pairs)}, fields.where, fields.error)
        numbers = Fields({f"{name}[{i}][1]": number for i, (_, number) in enumerate(pairs)}, fields.where, fields.error)
        found = {
            ids.integer(f"{name}[{i}][0]", 0, top): numbers.number(f"{name}[{i}][1]", -1000.0, 1000.0)
            for i in range(len(pairs))
        }
        return tuple(sorted(found.items()))

    def ids(self, value: Any) -> tuple[int, ...]:
        return tuple(id for id, _ in value)

    def renumbered(self, value: Any, number: Mapping[int, int]) -> Any:
        return tuple(sorted((number[id], bias) for id, bias in value if id in number))


def _ids(name: str, value: Any) -> tuple[int, ...]:
    return tuple(whole(name, id, 0) for id in _as_tuple(value))


def _read_ids(name: str, word: str, expected: str) -> tuple[int, ...]:
    if word == "none":
        return ()
    if not re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", word):
        raise OptionError(f"{name} is {shorten(word)}; expected {expected}")
    return tuple(map(int, word.split(",")))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)):
        return (value,)
    try:
        return tuple(value)
    except TypeError:
        return (value,)


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]])
