"""What each operation of a chat template costs: methods of text, filters, tests and operators, and which there are.

jinja's others are left out: they make nothing that a conversation needs, and some take a square of what they read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyengine.text.template_budget import DEPTH, Budget, OverBudgetError

__all__ = ["FILTERS", "METHODS", "TESTS", "pay_filter", "pay_method", "pay_operator", "pay_test"]

METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(name for name in dir(str) if name[0] != "_") - {"encode", "translate", "maketrans"},
    bytes: frozenset(),
    bool: frozenset(),
    int: frozenset(),
    float: frozenset(),
}
"""The methods that values of these types have; those of others the sandbox chooses."""

_LOOKING = frozenset("count endswith find index rfind rindex startswith".split())

FILTERS = frozenset(
    "abs attr batch capitalize count d default dictsort e escape first float format groupby indent int items join "
    "last length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string "
    "sum title tojson trim truncate unique upper wordcount".split()
)
# These look at what they get, and hand it on; what they do with its items, other filters and tests pay for.
_SHALLOW = frozenset(
    "attr batch count d default first items last length list map reject rejectattr reverse select selectattr".split()
)
_LISTING = frozenset(  # of text: its characters, or its words
    "batch groupby join list map reject rejectattr select selectattr sort title unique wordcount".split()
)
_SORTING = frozenset("dictsort groupby max min sort unique".split())
_COMPARING = frozenset("!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne".split())
TESTS = _COMPARING | frozenset(
    "boolean callable defined divisibleby escaped even false filter float integer iterable lower mapping none number "
    "odd sameas sequence string test true undefined upper".split()
)
_LOG = 20  # comparisons an item in sorting
_DIGITS = 300  # of decimals, and of a number as text ten times as many
"""A double has no more."""


def pay_method(budget: Budget, owner: Any, name: str, given: list[Any]) -> None:
    """Pays for ``owner.name(*given)`` before it is called."""
    characters, _ = budget.walk(given)
    if not isinstance(owner, str):
        if given and isinstance(owner, (list, tuple)):
            budget.walk(owner)  # each item is compared
        return
    budget.read(owner)
    if name.startswith("r") or name.endswith("strip"):
        budget.spend(len(owner) * characters // 1000)  # for each character of one they may look at each of the other
    if name in _LOOKING or name.startswith("is"):
        return
    budget.make(len(owner))
    if name == "join" and given:
        budget.make(characters + len(owner) * _length(given[0]))
        budget.items(_length(given[0]))
    elif name == "replace" and len(given) > 1:
        _pay_replace(budget, owner, given[0], given[1])
    elif name in ("center", "ljust", "rjust", "zfill"):
        budget.make(max(_integers(given), default=0))
    elif name == "expandtabs":
        budget.make(owner.count("\t") * max(_integers(given), default=8))
    elif name.endswith(("split", "splitlines")):
        cut = given[0] if given and isinstance(given[0], str) and given[0] else None
        budget.items(len(owner) // 2 if cut is None else owner.count(cut))


def pay_filter(budget: Budget, name: str, given: list[Any], named: dict[str, Any]) -> None:
    """Pays for a filter before it runs: ``given`` begins with the value."""
    arguments = [*given[1:], *named.values()]
    value = given[0] if given else None
    characters, _ = budget.walk(arguments)
    if isinstance(value, str):
        budget.read(value)
        if name in _LISTING:
            budget.items(len(value))
    elif name in _SHALLOW:
        budget.read(value)
    else:
        budget.text_of(value)
    if name in _SORTING:
        inside, values = budget.walk(value)
        budget.spend(_LOG * (values + inside // 1000))
    elif name == "batch":
        budget.items(_length(value) + max(_integers(arguments), default=0))
    elif name == "format":
        budget.formatted(str(value), arguments)
    elif name == "indent":
        text = str(value)
        budget.make(len(text) + (len(text.splitlines()) + 1) * max([4, characters, *_integers(arguments)]))
    elif name == "join":
        budget.make(characters * _length(value))
    elif name == "replace":
        named = dict(zip(("old", "new"), given[1:])) | named
        _pay_replace(budget, str(value), str(named.get("old", "")), str(named.get("new", "")))
    elif name == "tojson":
        budget.text_of([value])
        _, values = budget.walk(value)
        budget.make((characters + max(_integers(arguments), default=0) * DEPTH) * values)
    elif name == "trim":
        budget.spend(characters * len(str(value)) // 1000)
    elif name in ("round", "int", "float", "sum"):
        _check_numbers(name, value, arguments)


def pay_test(budget: Budget, name: str, given: list[Any]) -> None:
    """Pays for a test before it runs."""
    for value in given:
        budget.walk(value) if name in _COMPARING else budget.read(value)
    if name in ("divisibleby", "even", "odd") and isinstance(given[0], str):
        budget.formatted(given[0], given[1:])  # the sign of a remainder formats text


def pay_operator(budget: Budget, sign: str, left: Any, right: Any) -> None:
    """Pays for ``left sign right`` before it is done."""
    if sign == "+":
        budget.made(left)
        budget.made(right)
    elif sign == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str) and isinstance(other, int):
                return budget.make(len(one) * max(other, 0))
            if isinstance(one, (list, tuple)) and isinstance(other, int):
                return budget.items(len(one) * max(other, 0))
        budget.integer(_bits(left) + _bits(right))
    elif sign == "**":
        budget.integer(_bits(left) * abs(right) if isinstance(right, int) else 0)
    elif sign == "%" and isinstance(left, str):
        budget.formatted(left, right)
    else:
        budget.spend(1)


def _pay_replace(budget: Budget, text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        budget.make(len(text) + text.count(old) * len(new))


def _check_numbers(name: str, value: Any, arguments: list[Any]) -> None:
    """Decimals and digits of a size that numbers have; a sum that begins with a list copies it at each item."""
    if name == "sum":
        if any(isinstance(each, (list, tuple)) for each in arguments):
            raise OverBudgetError("it sums lists")
    elif name in ("int", "float"):
        if isinstance(value, str) and len(value) > 10 * _DIGITS:
            raise OverBudgetError(f"it reads a number of more than {10 * _DIGITS} characters")
    elif isinstance(value, (str, list, tuple)):
        raise OverBudgetError("it rounds what is no number")  # one method multiplies it first
    elif any(abs(each) > _DIGITS for each in _integers(arguments)):
        raise OverBudgetError(f"it rounds to more than {_DIGITS} decimals")


def _integers(values: Iterable[Any]) -> list[int]:
    return [each for each in values if isinstance(each, int)]


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _length(value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        return 0
