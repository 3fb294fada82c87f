"""The text of a hypothesis while it is written: whole characters, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from pyengine.text.tokenizer import Stream

__all__ = ["Words", "Writer", "watch"]

CONTEXT = 8
"""Tokens of a prompt before the new ones that a tokenizer looks at: whether a space belongs between them, say."""


class Words(Protocol):
    """Of a tokenizer."""

    def stream(self) -> Stream: ...
    def pieces(self, ids: Iterable[int]) -> list[str]: ...


class Writer:
    """Takes ids one after another and gives the text that they stand for, up to the first of the stop strings."""

    def __init__(self, tokenizer: Words, prompt: np.ndarray, stop: Sequence[str] = ()) -> None:
        self._stream, other = tokenizer.stream(), tokenizer.stream()
        for id in prompt[-CONTEXT:].tolist():
            self._stream.push(id)
            other.push(id)
        self._rest = other.finish()  # of the prompt, which comes with the new ids
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._given = 0  # characters that `take` has given
        self.text = ""
        self.stopped = False

    def push(self, ids: Iterable[int]) -> int | None:
        """None: it goes on after `ids`; else how many of them there are up to the end of a stop string."""
        for count, id in enumerate(ids, 1):
            self._add(self._stream.push(id))
            if self.stopped:
                return count
        return None

    def take(self) -> str:
        """What has come since the last call, but for an end that may be the beginning of a stop string."""
        end = len(self.text)
        if not self.stopped:
            begun = range(max(end - self._longest + 1, self._given), end)
            end = next((i for i in begun if any(each.startswith(self.text[i:]) for each in self._stop)), end)
        begin, self._given = self._given, max(end, self._given)
        return self.text[begin:end]

    def finish(self) -> str:
        """All that is left to give; characters that were never completed among it."""
        if not self.stopped:
            self._add(self._stream.finish())
        begin, self._given = self._given, len(self.text)
        return self.text[begin:]

    def _add(self, new: str) -> None:
        if self._rest and new:
            new, self._rest = new.removeprefix(self._rest), ""
        begin = max(len(self.text) - self._longest + 1, 0)
        self.text += new
        places = [place for each in self._stop if new and (place := self.text.find(each, begin)) >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True


def watch(writer: Callable[[], Writer]) -> Callable[[int, np.ndarray], int | None]:
    """What looks for stop strings in the hypotheses of a request (`Request.watch`), each with a writer of its own."""
    writers: dict[int, Writer] = {}

    def look(sample: int, ids: np.ndarray) -> int | None:
        if sample not in writers:
            writers[sample] = writer()
        return writers[sample].push(ids.tolist())

    return look
