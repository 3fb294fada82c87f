"""The values of a GGUF file's metadata that describe a tokenizer, each checked when it is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn

from pyengine.errors import TokenizerError
from pyengine.formats.strict_json import shorten

__all__ = ["NAMED", "TOKENS", "Metadata", "TokenType", "Vocabulary"]

TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_SCORES = "tokenizer.ggml.scores"

# Tokens with a part to play, under tokenizer_config.json's names.
NAMED = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # so spelled by the format
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}


class TokenType(IntEnum):
    """What ``tokenizer.ggml.token_type`` says of a token."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2  # stands for what has no token
    CONTROL = 3  # begins, ends, pads
    USER_DEFINED = 4  # is cut out of a text before anything else looks at it
    UNUSED = 5
    BYTE = 6  # "<0x0A>", a byte of a character that has no token


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id and what the file says of each. No token is empty, none is there twice."""

    tokens: list[str]
    types: list[TokenType]
    named: dict[str, int]  # ids of those of ``NAMED`` that the file names

    def of_type(self, *types: TokenType) -> dict[str, int]:
        """Token -> id of those of these types, in order of their ids."""
        return {token: index for index, token in enumerate(self.tokens) if self.types[index] in types}


class Metadata:
    """Takes values by key. Raises TokenizerError: the key, what was expected, what was found."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._values = values

    def fail(self, key: str, expected: str, found: object) -> NoReturn:
        """Raise: the value of ``key`` should be ``expected`` and is ``found``."""
        raise TokenizerError(f"{self.where}: {key}: expected {expected}, found {shorten(found)}")

    def text(self, key: str) -> str | None:
        """A text, None where there is none."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(key, "a text", value)
        return value

    def flag(self, key: str) -> bool | None:
        """True or false, None where the file does not say."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, "true or false", value)
        return value

    def texts(self, key: str) -> list[str]:
        """An array of texts."""
        values = self._values.get(key)
        if not isinstance(values, list):
            self.fail(key, "an array of texts", values)
        for value in values:
            if not isinstance(value, str):
                self.fail(key, "an array of texts", value)
        return values

    def vocabulary(self) -> Vocabulary:
        """The tokens, their types, and those that have a part to play."""
        tokens = self.texts(TOKENS)
        self.check_tokens(tokens)
        named = {name: self._id(key, len(tokens)) for name, key in NAMED.items() if self._values.get(key) is not None}
        if self._values.get(_TYPES) is None:
            types = [TokenType.NORMAL] * len(tokens)
            for index in named.values():
                types[index] = TokenType.CONTROL
            return Vocabulary(tokens, types, named)
        known = {int(each): each for each in TokenType}
        types = []
        for value in self._list(_TYPES, len(tokens)):
            if type(value) is not int or value not in known:
                self.fail(_TYPES, f"types from 0 to {max(known)}", value)
            types.append(known[value])
        return Vocabulary(tokens, types, named)

    def check_tokens(self, tokens: list[str]) -> None:
        """Raise where there is no token, an empty one, or one twice: as the file has them or as they are spelled."""
        if not tokens:
            self.fail(TOKENS, "at least one token", tokens)
        ids: dict[str, int] = {}
        for index, token in enumerate(tokens):
            if not token:
                self.fail(TOKENS, "tokens of at least one character", f"none for the id {index}")
            if (other := ids.setdefault(token, index)) != index:
                self.fail(TOKENS, "every token once", f"{token[:40]} for the ids {other} and {index}")

    def scores(self, count: int) -> list[float]:
        """A score for each of ``count`` tokens."""
        values = self._list(_SCORES, count)
        for value in values:
            if type(value) not in (int, float) or not math.isfinite(value):
                self.fail(_SCORES, "finite numbers", value)
        return values

    def _id(self, key: str, count: int) -> int:
        value = self._values[key]
        if type(value) is not int or not 0 <= value < count:
            self.fail(key, f"an id below {count}", value)
        return value

    def _list(self, key: str, count: int) -> list[Any]:
        values = self._values.get(key)
        if not isinstance(values, list):
            self.fail(key, "an array", values)
        if len(values) != count:
            self.fail(key, f"{count} values, one for each token", f"{len(values)} values")
        return values
