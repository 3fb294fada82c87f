"""Strict JSON: values by name and type, and messages that stay short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest

from pyengine.errors import ModelFileError
from pyengine.formats.strict_json import Fields, load_object, parse_object, shorten

LIMIT = 1 << 20


def fields(**values: Any) -> Fields:
    return Fields(values, "place", ModelFileError)


WRONG: dict[str, tuple[Any, Callable[[Fields], Any]]] = {
    "true is no integer": (True, lambda f: f.integer("x", 0, 9)),
    "3.0 is no integer": (3.0, lambda f: f.integer("x", 0, 9)),
    "10 is above 9": (10, lambda f: f.integer("x", 0, 9)),
    "null is no integer": (None, lambda f: f.integer("x", 0, 9)),
    "true is no number": (True, lambda f: f.number("x")),
    "text is no number": ("1", lambda f: f.number("x")),
    "NaN is not finite": (float("nan"), lambda f: f.number("x")),
    "infinity is not finite": (float("inf"), lambda f: f.number("x")),
    "10^400 is no float": (10**400, lambda f: f.number("x")),
    "-1 is below 0": (-1, lambda f: f.number("x", 0.0)),
    "1 is no flag": (1, lambda f: f.flag("x")),
    "1 is no text": (1, lambda f: f.text("x")),
    "0 is not false": (0, lambda f: f.choice("x", (False, True))),
    "a list is no choice": ([], lambda f: f.choice("x", ("a", "b"))),
    "a flag among integers": ([1, True], lambda f: f.integers("x", 0, 9)),
    "no list": ("12", lambda f: f.integers("x", 0, 9)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values(name: str) -> None:
    value, read = WRONG[name]
    with pytest.raises(ModelFileError, match="^place: x: expected .*, found "):
        read(fields(x=value))


def test_right_values() -> None:
    f = fields(i=3, n=2, t="a", b=False, c="never", l=[1, 2])
    assert f.integer("i", 0, 3) == 3
    number = f.number("n")
    assert number == 2.0 and type(number) is float
    assert f.text("t") == "a" and f.flag("b") is False
    assert f.choice("c", (False, True, "never")) == "never" and f.integers("l", 1, 2) == (1, 2)
    assert f.integer("absent", 0, 9, 5) == 5
    f.finish()


def test_missing_and_unknown_fields() -> None:
    with pytest.raises(ModelFileError, match="place: field 'x' is missing"):
        fields().integer("x", 0, 9)
    with pytest.raises(ModelFileError, match="place: unknown fields: 'a', 'b'"):
        fields(b=1, a=2).finish()
    with pytest.raises(ModelFileError, match="place: expected an object"):
        Fields([1], "place", ModelFileError)


@pytest.mark.parametrize(
    "data", (b"", b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 500_000, b"1" * 10_000, b"NaN")
)
def test_what_is_no_object(data: bytes) -> None:
    with pytest.raises(ModelFileError, match="place") as info:
        parse_object(data, "place", ModelFileError, LIMIT)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("names", ([r"\"", r"\u0022"], [r"\\\"", r"\u005c\""], ["a", r"\u0061"], [r"\\", r"\\"]))
@pytest.mark.parametrize("value", ("1", '"x"', "{}"))
def test_a_name_that_occurs_twice_in_different_spellings(names: list[str], value: str) -> None:
    text = "{" + ",".join(f'"{name}":{value}' for name in names) + "}"
    with pytest.raises(ModelFileError, match="place: not valid JSON: the name .* occurs twice"):
        parse_object(text.encode(), "place", ModelFileError, LIMIT)


def test_names_with_quotes_and_backslashes() -> None:
    for value in ({'"': 1, "\\": 2, '\\"': 3, ":": 4, '":"': 5, "": 6}, {'"': '"', ":": '":"'}, {"": {'"': {}}}):
        assert parse_object(json.dumps(value).encode(), "place", ModelFileError, LIMIT) == value


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="missing.json: cannot be read: No such file"):
        load_object(tmp_path / "missing.json", ModelFileError, LIMIT)
    with pytest.raises(ModelFileError, match="expected a regular file"):
        load_object(tmp_path, ModelFileError, LIMIT)
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(ModelFileError, match="larger than 1048576 bytes"):
        load_object(tmp_path / "large.json", ModelFileError, LIMIT)


def test_messages_stay_short() -> None:
    nested: Any = []
    for _ in range(100):
        nested = [nested, nested]
    for value in ("x" * 10_000, b"x" * 10_000, list(range(10_000)), 10**500, nested, {"a": nested}):
        assert len(shorten(value)) <= 80
