"""What callers hand in - text or token ids, one or many - as token ids that fit the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Union

import numpy as np

from pyengine.canonical.config import ModelConfig
from pyengine.errors import InputError, OptionError
from pyengine.scheduling.deadline import Deadline
from pyengine.text.tokenizer import Tokenizer, checked_ids

__all__ = ["Inputs", "Sentence", "Sentences", "Source", "is_one", "prefixes", "seconds", "whole"]

Sentence = Union[str, Sequence[int], np.ndarray]
"""Text, or token ids that stand for it."""

Sentences = Union[
    "list[str]", "list[list[int]]", "list[np.ndarray]", "list[Sentence]", "tuple[Sentence, ...]"
]


@dataclass(frozen=True, eq=False)
class Source:
    """int32 ids for the encoder, and whether they were cut to fit. No ids: an empty text."""

    ids: np.ndarray
    truncated: bool


def is_one(value: object) -> bool:
    """Whether `value` is one sentence, rather than a collection of them. An empty list is no sentences."""
    if isinstance(value, (str, bytes)):
        return True
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != object
    if not isinstance(value, (list, tuple)):
        kind = type(value).__name__
        raise InputError(f"expected text, token ids or a list of these, found {kind} (see translate_iter)")
    return bool(value) and _is_id(value[0])


def _is_id(value: object) -> bool:
    try:
        index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


class Inputs:
    """Turns sentences into ids for one model, whose end tokens are `end`."""

    def __init__(self, config: ModelConfig, end: Iterable[int], tokenizer: Tokenizer | None) -> None:
        self._config = config
        self._end = tuple(end)
        self._tokenizer = tokenizer
        self._blank = [] if tokenizer is None else list(tokenizer.encode_source(""))

    def source(self, sentence: Sentence, *, truncate: bool, name: str = "the input") -> Source:
        """Ids are taken as they are, end token and all. InputError: too long, unless `truncate`."""
        ids = self._ids(sentence, "source", name)
        if isinstance(sentence, str) and ids == self._blank:
            ids = []
        most = self._config.max_positions
        cut = len(ids) > most
        if cut:
            if not truncate:
                raise InputError(
                    f"{name} has {len(ids)} tokens; the model has {most} positions (truncate=True cuts it)"
                )
            has_end = ids[-1] in (*self._end, *self._blank)
            ids = ids[: most - 1] + ids[-1:] if has_end else ids[:most]
        return Source(np.array(ids, np.int32), cut)

    def target(self, sentence: Sentence, name: str = "the target") -> np.ndarray:
        """int32 ids of a whole target with its end token, which is added where it is missing."""
        ids = self._ids(sentence, "target", name)
        if not ids or ids[-1] not in self._end:
            ids.append(self._end[0])
        most = self._config.max_positions
        if len(ids) > most:
            raise InputError(f"{name} has {len(ids)} tokens; the model has {most} positions")
        return np.array(ids, np.int32)

    def forced(self, sentence: Sentence, *, truncate: bool, name: str = "the source") -> Source:
        """A source for teacher forcing, where even an empty text is read by the model. InputError as `source`."""
        read = self.source(sentence, truncate=truncate, name=name)
        if not len(read.ids):
            raise InputError(f"{name} is empty; expected text or token ids")
        return read

    def pairs(
        self, sources: Any, targets: Any, *, truncate: bool, one: bool, deadline: Deadline
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[bool]]:
        """Ids of as many sources as targets for teacher forcing, and which sources were cut; `one`: how to call it."""
        if is_one(sources):
            raise InputError("expected a list of sources, found one")
        if is_one(targets):
            raise InputError(f"expected a list of {len(sources)} targets, one for each source, found one")
        if len(sources) != len(targets):
            raise InputError(f"{len(sources)} sources, but {len(targets)} targets; expected as many")
        pairs, cut = [], []
        for number, (left, right) in enumerate(zip(sources, targets, strict=True)):
            deadline.check()
            read = self.forced(left, truncate=truncate, name="the source" if one else f"source {number + 1}")
            given = self.target(right, "the target" if one else f"target {number + 1}")
            pairs.append((read.ids, given))
            cut.append(read.truncated)
        return pairs, cut

    def prefix(self, sentence: Sentence | None, name: str = "target_prefix") -> np.ndarray:
        """int32 ids that hypotheses begin with, without start token; none for None."""
        return np.array([] if sentence is None else self._ids(sentence, "prefix", name), np.int32)

    def _ids(self, sentence: Sentence, role: str, name: str) -> list[int]:
        size = self._config.source_vocab if role == "source" else self._config.target_vocab
        if isinstance(sentence, str):
            if self._tokenizer is None:
                raise InputError(f"{name} is text, but the model has no tokenizer; give token ids")
            try:
                if role == "source":
                    return list(self._tokenizer.encode_source(sentence))
                return list(self._tokenizer.encode_target(sentence, end=role == "target"))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        if not isinstance(sentence, (list, tuple, np.ndarray)):
            raise InputError(f"{name}: expected text or token ids, found {type(sentence).__name__}")
        try:
            return checked_ids(sentence, size)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def prefixes(target_prefix: Any, sentences: Sequence[Any], one: bool) -> Iterable[Any]:
    """A prefix, or None, for each sentence."""
    if target_prefix is None:
        return itertools.repeat(None, len(sentences))
    if one:
        return [target_prefix]
    if not isinstance(target_prefix, (list, tuple)) or len(target_prefix) != len(sentences):
        raise InputError(f"target_prefix: expected a list of {len(sentences)}, one or None for each input")
    return target_prefix


def seconds(timeout: float | None) -> float | None:
    """A time limit as float; OptionError unless it is more than 0."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise OptionError(f"timeout is {timeout!r}; expected seconds, more than 0")
    try:
        return float(timeout)
    except OverflowError:
        raise OptionError(f"timeout is {timeout!r}; expected seconds, more than 0 and a float") from None


def whole(name: str, value: int) -> int:
    """A count as int; OptionError unless it is at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise OptionError(f"{name} is {value!r}; expected a whole number, at least 1")
    return int(value)
