"""What callers hand in - text or token ids, one or many - as token ids that fit the model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any, NamedTuple, TypeGuard, Union

import numpy as np

from pyengine.arguments import real
from pyengine.canonical.config import ModelConfig
from pyengine.errors import InputError, OptionError
from pyengine.formats.strict_json import shorten
from pyengine.plan import NO_IDS
from pyengine.scheduling.deadline import Deadline
from pyengine.text.languages import MultilingualTokenizer
from pyengine.text.tokenizer import Tokenizer, checked_ids

__all__ = ["Inputs", "Sample", "Sentence", "Sentences", "Source", "is_one", "prefixes", "read_ids", "seconds"]

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


class Sample(NamedTuple):
    """What a model reads without a search: int32 ids of a source, and of a target with its end token.

    None for the stack that it does not have; or a target that it is yet to write.
    """

    source: np.ndarray | None
    target: np.ndarray | None


PIECE = re.compile(r"\s*\u2581+\w")
"""How a text begins that is a piece of SentencePiece: no one writes this for a space."""


def is_one(value: object, advice: str = "") -> bool:
    """Whether `value` is one sentence, rather than a collection of them. An empty list or array is no sentences.

    `advice`: what an InputError adds.
    """
    if isinstance(value, (str, bytes)):
        return True
    if not _is_row(value):
        kind = type(value).__name__
        raise InputError(f"expected text, token ids or a list of these, found {kind}{advice}")
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and len(value) > 0 and value.dtype.kind not in "OUS"
    return len(value) > 0 and _is_id(value[0])


def _is_row(value: object) -> TypeGuard[list[Any] | tuple[Any, ...] | np.ndarray]:
    """Whether it has items."""
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_id(value: object) -> bool:
    try:
        index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


class Inputs:
    """Turns sentences into ids for one model, whose end tokens are `end` and whose padding token is `pad`."""

    def __init__(
        self, config: ModelConfig, end: Iterable[int], tokenizer: Tokenizer | None, pad: int | None = None
    ) -> None:
        self._config = config
        self._end = tuple(end)
        self._pad = pad
        self._tokenizer = tokenizer
        self._blank = [] if tokenizer is None else list(tokenizer.encode_source(""))

    def source(
        self, sentence: Sentence, *, truncate: bool, name: str = "the input", language: str | None = None
    ) -> Source:
        """What is to be translated: of an empty text nothing, else as `read`."""
        read = self.read(sentence, truncate=truncate, name=name, language=language)
        empty = isinstance(sentence, str) and read.ids.tolist() == self._blank_in(language)
        return Source(NO_IDS, False) if empty else read

    def read(
        self, sentence: Sentence, *, truncate: bool, name: str = "the input", language: str | None = None
    ) -> Source:
        """Ids are taken as they are, end token and all, but for padding. InputError: too long, unless `truncate`.

        language: of a text, of a model that is told it; None: the one that its tokenizer takes it for.
        """
        ids = self._ids(sentence, "source", name, language)
        most = self._config.source_side()[0].max_positions
        cut = len(ids) > most
        if cut:
            if not truncate:
                raise InputError(
                    f"{name} has {len(ids)} tokens; the model has {most} positions (truncate=True cuts it)",
                    keywords=("truncate=True",),
                )
            kept = min(self._end_of(ids, language), most)
            ids = ids[: most - kept] + ids[len(ids) - kept :]
        return Source(np.array(ids, np.int32), cut)

    def _blank_in(self, language: str | None) -> list[int]:
        """What an empty text is."""
        return self._blank if language is None else self._tokens("source", language)("")

    def _end_of(self, ids: list[int], language: str | None) -> int:
        """How many ids end a source, as they end an empty one."""
        blank = self._blank_in(language)
        pairs = zip(reversed(ids), reversed(blank))
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        return same or int(ids[-1] in (*self._end, *blank))

    def target(self, sentence: Sentence, name: str = "the target") -> np.ndarray:
        """int32 ids of a whole target with its end token, which is added where it is missing."""
        ids = self._ids(sentence, "target", name)
        if self._end and (not ids or ids[-1] not in self._end):
            ids.append(self._end[0])
        most = self._config.target_side()[0].max_positions
        if len(ids) > most:
            raise InputError(f"{name} has {len(ids)} tokens; the model has {most} positions")
        return np.array(ids, np.int32)

    def pieces(self, sentence: Sentence, name: str = "the target") -> list[np.ndarray]:
        """int32 ids of a target of any length, in pieces each of which `target` takes: one, if it does as a whole."""
        ids = self._ids(sentence, "target", name)
        most = self._config.target_side()[0].max_positions
        ended = not self._end or bool(ids) and ids[-1] in self._end
        whole = len(ids) + (not ended) <= most  # with the end token that is added where it is missing
        size = most if whole else max(1, most - bool(self._end))
        return [np.array(ids[begin : begin + size], np.int32) for begin in range(0, max(len(ids), 1), size)]

    def forced(self, sentence: Sentence, *, truncate: bool, name: str = "the source") -> Source:
        """A source for teacher forcing, where even an empty text is read by the model. InputError as `source`."""
        read = self.source(sentence, truncate=truncate, name=name)
        if not len(read.ids):
            raise InputError(f"{name} is empty; expected text or token ids")
        return read

    def pairs(
        self, sources: Any, targets: Any, *, truncate: bool, one: bool, deadline: Deadline
    ) -> tuple[list[Sample], list[bool]]:
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
            pairs.append(Sample(read.ids, given))
            cut.append(read.truncated)
        return pairs, cut

    def prefix(self, sentence: Sentence | None, name: str = "target_prefix") -> np.ndarray:
        """int32 ids that hypotheses begin with, without start token; none for None."""
        if sentence is None:
            return NO_IDS
        try:
            return np.array(self._ids(sentence, "prefix", name), np.int32)
        except InputError as error:
            raise InputError(str(error), keywords=(name,)) from None

    def _ids(self, sentence: Sentence, role: str, name: str, language: str | None = None) -> list[int]:
        _, size = self._config.source_side() if role == "source" else self._config.target_side()
        if isinstance(sentence, str) and self._tokenizer is not None and PIECE.match(sentence):
            raise InputError(
                f"{name} is {shorten(str(sentence))}, a piece of a text; give the text itself, or token ids"
            )
        encode = None if self._tokenizer is None else self._tokens(role, language)
        ids = read_ids(sentence, size, encode, name)
        return ids if isinstance(sentence, str) else self._without_padding(ids, name)

    def _tokens(self, role: str, language: str | None) -> Callable[[str], list[int]]:
        """How text of a source, a target or a prefix becomes ids, where there is a tokenizer."""
        tokenizer = self._tokenizer
        assert tokenizer is not None
        if role != "source":
            return partial(tokenizer.encode_target, end=role == "target")
        if language is None:
            return tokenizer.encode_source
        assert isinstance(tokenizer, MultilingualTokenizer)  # as whoever asks for a language has seen
        return partial(tokenizer.encode_from, code=language)

    def _without_padding(self, ids: list[int], name: str) -> list[int]:
        """Cuts pads behind an end token, as rows of a padded array have them. InputError for any others."""
        if self._pad not in ids:
            return ids
        kept = len(ids)
        while kept and ids[kept - 1] == self._pad:
            kept -= 1
        if self._pad in self._end:
            return ids[: kept + 1]
        place = ids.index(self._pad)
        if place < kept or not kept or ids[kept - 1] not in self._end:
            raise InputError(
                f"{name}: the padding token {self._pad} at place {place + 1} of {len(ids)}, which no end token comes "
                "before; give ids without padding and without start token"
            )
        return ids[:kept]


def read_ids(sentence: Sentence, size: int, encode: Callable[[str], list[int]] | None, name: str) -> list[int]:
    """Ids in [0, size) of a text, by `encode`, or those that stand for it. InputError, which calls it `name`."""
    if isinstance(sentence, str):
        if encode is None:
            raise InputError(f"{name} is text, but the model has no tokenizer; give token ids")
        try:
            return list(encode(sentence))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if not _is_row(sentence):
        raise InputError(f"{name}: expected text or token ids, found {type(sentence).__name__}")
    try:
        return checked_ids(sentence, size)
    except InputError as error:
        if any(isinstance(each, str) for each in sentence):
            raise InputError(
                f"{name}: expected text or token ids, found a list of str; words and pieces are joined to one text"
            ) from None
        raise InputError(f"{name}: {error}") from None


def prefixes(target_prefix: Any, sentences: Sequence[Any], one: bool) -> Iterable[Any]:
    """A prefix, or None, for each sentence."""
    if target_prefix is None:
        return itertools.repeat(None, len(sentences))
    if one:
        return [target_prefix]
    if not _is_row(target_prefix) or len(target_prefix) != len(sentences):
        raise InputError(f"target_prefix: expected a list of {len(sentences)}, one or None for each input")
    return target_prefix


def seconds(timeout: float | None) -> float | None:
    """A time limit as float; OptionError unless it is more than 0."""
    if timeout is None:
        return None
    limit = real(timeout)
    if limit is None or not limit > 0:
        raise OptionError(f"timeout is {shorten(timeout)}; expected seconds, more than 0")
    return limit
