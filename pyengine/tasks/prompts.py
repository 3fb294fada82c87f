"""Prompts and texts for a model that is a decoder alone, as token ids that fit it."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial

import numpy as np

from pyengine.canonical.config import ModelConfig
from pyengine.errors import InputError
from pyengine.options import SearchOptions
from pyengine.tasks.conversations import Turns
from pyengine.tasks.inputs import Sample, Sentence, read_ids
from pyengine.text import TextTokenizer

__all__ = ["Prompt", "Prompts"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """int32 ids, one at least, and whether they were cut."""

    ids: np.ndarray
    truncated: bool


class Prompts:
    """Turns texts into ids for one model; `start` is what it reads before a text, None if it has no such token."""

    def __init__(self, config: ModelConfig, tokenizer: TextTokenizer | None, start: int | None) -> None:
        decoder, self._vocab = config.target_side()
        self._positions = decoder.max_positions
        self._tokenizer = tokenizer
        self._start = start

    def prompt(
        self, sentence: Sentence, settled: SearchOptions, *, truncate: bool, split_special: bool, name: str
    ) -> Prompt:
        """What is to go on: of a text with the tokens that the tokenizer begins one with; of nothing the start token.

        InputError for one that is longer than the model's positions, unless `truncate` leaves its beginning out: then
        its end stays, and a start token, with as much room behind it as new tokens are asked for, but half of the
        positions at most.
        """
        ids = self._ids(sentence, name, special=True, split_special=split_special)
        if not ids and self._start is not None:
            ids = [self._start]
        if not ids:
            raise InputError(f"{name} is empty, and the model has no token to begin with; expected text or token ids")
        if len(ids) <= self._positions:
            return Prompt(np.array(ids, np.int32), False)
        if not truncate:
            raise self.too_long(ids, name)
        kept = self.room(settled)
        first = ids[:1] if ids[0] == self._start and kept > 1 else []
        return Prompt(np.array(first + ids[len(ids) - kept + len(first) :], np.int32), True)

    def conversation(self, turns: Turns, settled: SearchOptions, *, truncate: bool, name: str) -> Prompt:
        """What is to be answered. InputError as of `prompt`, unless `truncate` leaves its oldest turns out, and if need
        be the beginning of the text of the last one's first message; but never what comes before all turns, such as the
        system's message, nor what is said behind that text: where these alone are too long, it is an InputError, too.
        """
        ids = turns.ids(0)
        if len(ids) <= self._positions:
            return Prompt(np.array(ids, np.int32), False)
        if not truncate:
            raise self.too_long(ids, name)
        kept, last = self.room(settled), turns.count - 1
        first = bisect_left(range(1, last), True, key=lambda i: len(turns.ids(i)) <= kept) + 1  # fewer turns, fewer ids
        ids = turns.ids(min(first, last))
        if len(ids) <= kept:
            return Prompt(np.array(ids, np.int32), True)
        head, tail = turns.around
        around = len(head) + len(tail)
        if around >= kept:
            raise InputError(
                f"{name}: beside the text that its last turn begins with it has {around} tokens; there is room for "
                f"{kept} in all"
            )
        text = ids[len(head) : len(ids) - len(tail)]
        return Prompt(np.array([*head, *text[around - kept :], *tail], np.int32), True)

    def room(self, settled: SearchOptions) -> int:
        """Tokens of a prompt that is cut: so many that new ones have room, but half of the positions at least."""
        half = (self._positions + 1) // 2
        new = half if settled.max_new_tokens is None else settled.max_new_tokens
        return max(self._positions + 1 - new, half)

    def too_long(self, ids: list[int], name: str) -> InputError:
        return InputError(
            f"{name} has {len(ids)} tokens; the model has {self._positions} positions (truncate=True keeps its end)",
            keywords=("truncate=True",),
        )

    def read(self, sentence: Sentence, *, name: str) -> np.ndarray:
        """int32 ids as `prompt` reads them, for teacher forcing. InputError: none, or more than the positions."""
        ids = self._ids(sentence, name, special=True, split_special=True)
        if not ids:
            raise InputError(f"{name} is empty; expected text or token ids")
        self._check_length(len(ids), name)
        return np.array(ids, np.int32)

    def judged(self, sentence: Sentence, *, name: str) -> Sample:
        """A whole text behind a start token; without one its first token is only read.

        InputError if it has no token to judge, or more than the positions.
        """
        ids = self._text(sentence, name)
        self._check_length(len(ids), name)
        return self._sample(ids)

    def windows(self, sentence: Sentence, size: int, *, name: str) -> list[Sample]:
        """A text of any length in windows of `size` tokens that do not overlap, each as `judged` reads it.

        A last token alone is left out where nothing would come before it.
        """
        ids = self._text(sentence, name)
        windows = (ids[begin : begin + size] for begin in range(0, len(ids), size))
        return [self._sample(window) for window in windows if len(window) > self._only_read]

    @property
    def _only_read(self) -> int:
        """Tokens at the beginning of a text that nothing comes before."""
        return 1 if self._start is None else 0

    def _sample(self, ids: np.ndarray) -> Sample:
        """The first token of its target is the one that is only read."""
        return Sample(None, ids if self._start is None else np.append(np.int32(self._start), ids))

    def _text(self, sentence: Sentence, name: str) -> np.ndarray:
        """int32 ids of a text and of nothing else, a start token before it least of all. InputError: none to judge."""
        ids = self._ids(sentence, name, special=False, split_special=True)
        if ids[:1] == [self._start]:
            del ids[0]
        if len(ids) <= self._only_read:
            raise InputError(f"{name} has no token that another comes before; expected more text or token ids")
        return np.array(ids, np.int32)

    def _ids(self, sentence: Sentence, name: str, *, special: bool, split_special: bool) -> list[int]:
        encode = None
        if self._tokenizer is not None:
            encode = partial(self._tokenizer.encode, special=special, split_special=split_special)
        return read_ids(sentence, self._vocab, encode, name)

    def _check_length(self, count: int, name: str) -> None:
        if count > self._positions:
            raise InputError(f"{name} has {count} tokens; the model has {self._positions} positions")
