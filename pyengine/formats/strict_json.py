"""JSON from untrusted files: bounded, no duplicate names, and every value taken by name and type.

``load_object`` reads a file; ``Fields`` takes values out of one object. Both raise the error class that the
caller names (a checkpoint and a model directory are read by the same code), and a message names the file,
the field, what was expected and what was found.
"""

from __future__ import annotations

import itertools
import json
import reprlib
import sys
from pathlib import Path
from typing import Any, NoReturn

from pyengine.errors import PyengineError
from pyengine.formats.limits import EXPANSION, JSON_DEPTH
from pyengine.formats.regular_files import read_regular

__all__ = ["REQUIRED", "Fields", "check_cost", "load_object", "parse_object", "shorten"]

_LARGEST = sys.float_info.max

REQUIRED: Any = object()  # the default of a field that must be there


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python does not print integers of more than 4,300 digits
            return f"an integer of {x.bit_length()} bits"


_repr = _Repr()
_repr.maxstring = _repr.maxother = 80


def shorten(value: object, limit: int = 80) -> str:
    """``repr(value)`` cut to ``limit`` characters, for messages; bounded for deeply nested values too."""
    text = _repr.repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {shorten(name)} occurs twice")
            seen.add(name)
    return result


_PLAIN = {int, float, bool, type(None)}
_FEW = 1000

# Bytes that what follows a sign may take, here or in the tokenizers package: of an object a table and its first room,
# of a name its text and its places in two tables, of an item its value.
_COSTS = {b"{": 600, b"[": 200, b":": 300, b",": 150}


def check_cost(data: bytes, strings: int, where: str, error: type[PyengineError], limit: int) -> None:
    """Raise ``error`` if parsing the JSON ``data`` may take more memory than EXPANSION times ``limit`` bytes.

    ``limit`` is that of its kind of file, ``strings`` the size of its text once decoded. Signs inside of strings count,
    too: real files have room for them.
    """
    cost = len(data) + 2 * strings + sum(cost * data.count(sign) for sign, cost in _COSTS.items())
    if cost > EXPANSION * limit:
        raise error(f"{where}: to parse it may take {cost} bytes of memory, expected at most {EXPANSION * limit}")


def _loads(text: str) -> Any:
    """``text`` as JSON; ValueError for a name that occurs twice in one object, and where it is nested too deeply.

    A vocabulary is a flat object of numbers: there every two quotes that no backslash escapes are a name, so they
    are counted. Anything else is parsed with a list of pairs for each object.
    """
    if text.count("{") < _FEW:  # pieces may have some
        value = json.loads(text)
        if type(value) is dict and _PLAIN.issuperset(map(type, value.values())):
            escaped = text.replace("\\\\", "").count('\\"')  # a backslash may be escaped itself
            if text.count('"') - escaped == 2 * len(value):
                return value
        del value
    value = json.loads(text, object_pairs_hook=_unique)
    level: list[Any] = [[value]]
    for _ in range(1 + JSON_DEPTH):
        inside = itertools.chain.from_iterable(each.values() if type(each) is dict else each for each in level)
        level = [each for each in inside if type(each) in (dict, list)]
        if not level:
            return value
    raise RecursionError


def parse_object(data: bytes, where: str, error: type[PyengineError], limit: int) -> dict[str, Any]:
    """Parse ``data`` (UTF-8) as one JSON object; raise ``error`` naming ``where`` if it is anything else.

    ``limit`` is the most bytes of its kind of file (``limits``): it bounds the memory that parsing may take.
    """
    try:
        text = data.decode("utf-8")
        check_cost(data, sys.getsizeof(text), where, error, limit)
        value = _loads(text)
    except UnicodeDecodeError as exc:
        raise error(f"{where}: not UTF-8 at byte {exc.start}") from None
    except RecursionError:
        raise error(f"{where}: JSON nested too deeply, in more than {JSON_DEPTH} levels") from None
    except ValueError as exc:
        raise error(f"{where}: not valid JSON: {exc}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def load_object(path: Path, error: type[PyengineError], limit: int) -> dict[str, Any]:
    """Read the file ``path`` as one JSON object; raise ``error`` if it is missing, not JSON, or too large for its kind.

    ``limit``: as ``parse_object``.
    """
    return parse_object(read_regular(path, error, limit), str(path), error, limit)


class Fields:
    """The fields of one JSON object, taken by name and type; ``finish()`` refuses what was not taken.

    A field that is absent gives ``default``; without a default that is an error. ``null`` is a value like any
    other and has the wrong type, except where a method says otherwise.
    """

    def __init__(self, data: object, where: str, error: type[PyengineError]) -> None:
        self.where = where
        self.error = error
        if not isinstance(data, dict):
            raise error(f"{where}: expected an object, found {shorten(data)}")
        self._rest: dict[str, Any] = dict(data)

    def fail(self, name: str, expected: str, found: object) -> NoReturn:
        """Raise: field ``name`` should be ``expected`` and is ``found``."""
        raise self.error(f"{self.where}: {name}: expected {expected}, found {shorten(found)}")

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """The raw value of ``name``, whatever its type."""
        if name in self._rest:
            return self._rest.pop(name)
        if default is REQUIRED:
            raise self.error(f"{self.where}: field {name!r} is missing")
        return default

    def integer(self, name: str, low: int, high: int, default: Any = REQUIRED) -> int:
        """An integer in [low, high]; true and 3.0 are not integers."""
        value = self.take(name, default)
        if type(value) is not int or not low <= value <= high:
            self.fail(name, f"an integer from {low} to {high}", value)
        return value

    def number(
        self, name: str, low: float = -_LARGEST, high: float = _LARGEST, default: Any = REQUIRED
    ) -> float:
        """A finite number in [low, high], as float."""
        value = self.take(name, default)
        if type(value) not in (int, float) or not low <= value <= high:
            self.fail(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """true or false."""
        value = self.take(name, default)
        if type(value) is not bool:
            self.fail(name, "true or false", value)
        return value

    def text(self, name: str, default: Any = REQUIRED) -> str:
        """A string of characters that can be shown: no control characters, no lone surrogates."""
        value = self.take(name, default)
        if type(value) is not str or not value.isprintable():
            self.fail(name, "a string of printable characters", value)
        return value

    def choice(self, name: str, allowed: tuple[Any, ...], default: Any = REQUIRED) -> Any:
        """One of ``allowed``, of the same type too (so that 0 is not false)."""
        value = self.take(name, default)
        if not any(type(value) is type(one) and value == one for one in allowed):
            self.fail(name, "one of " + ", ".join(json.dumps(one) for one in allowed), value)
        return value

    def integers(self, name: str, low: int, high: int, default: Any = REQUIRED) -> tuple[int, ...]:
        """A list of integers in [low, high]."""
        value = self.take(name, default)
        numbers = value if isinstance(value, (list, tuple)) else (None,)
        if not all(type(x) is int and low <= x <= high for x in numbers):
            self.fail(name, f"a list of integers from {low} to {high}", value)
        return tuple(value)

    def remaining(self) -> dict[str, Any]:
        """The fields not taken so far."""
        return dict(self._rest)

    def finish(self) -> None:
        """Raise if any field was not taken."""
        if self._rest:
            names = ", ".join(shorten(name) for name in sorted(self._rest))
            raise self.error(f"{self.where}: unknown fields: {names}")
