"""What a scheduler is asked for, what it tells meanwhile, and who waits."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Union

import numpy as np

from pyengine.decoding.search import Found, Process
from pyengine.errors import OptionError
from pyengine.options import SearchOptions

__all__ = ["Event", "Outcome", "Queue", "Request"]

Outcome = Union["list[Found]", Exception]
"""The hypotheses of a request, best first, none of one that was cancelled; or what ended this request alone."""


@dataclass(frozen=True, eq=False)
class Request:
    """A text to be written.

    source   int32 ids for the encoder, end token included; None where the model has none. An empty one has one
             hypothesis, empty, of score 0
    prompt   int32 ids that hypotheses begin with, one at least: a start token and what follows it, or a prompt
    options  its own; those of requests that run together may differ
    watch    is shown the number of a hypothesis and its new int32 ids, one or more at a time, the end token among
             them. None: it goes on; else how many of these stay, and it ends with "stop". Of a search without beams.
             What it raises ends the request
    process  the request's own processor, of a search without beams: slow, since it sees whole rows of logits, one by
             one. What it raises ends the request
    """

    source: np.ndarray | None
    prompt: np.ndarray
    options: SearchOptions
    watch: Callable[[int, np.ndarray], int | None] | None = None
    process: Process | None = None

    def __post_init__(self) -> None:
        if self.options.num_beams > 1 and (self.watch or self.process or self.options.logprobs):
            message = f"num_beams is {self.options.num_beams}; a request with a watch, a processor or logprobs takes 1"
            raise OptionError(message, keywords=("num_beams",))

    @property
    def length(self) -> int:
        """By which requests that are read together are ordered."""
        return len(self.prompt if self.source is None else self.source)


class Event(NamedTuple):
    """What a step brought to one hypothesis of a request, by its index: new int32 ids and their float64
    log-probabilities, and at last the hypothesis itself. Those of beam search come whole when it is done, without
    log_probs.

    error: what ended the request alone: its own function raised, or it is too large for the cache by itself. Then there
    is nothing else.
    """

    request: int
    sample: int
    ids: np.ndarray
    log_probs: np.ndarray | None = None
    found: Found | None = None
    error: Exception | None = None


class Queue:
    """Requests that wait, with their indices; each window of them longest first."""

    def __init__(self, requests: Iterable[Request], window: int | None, *, by_length: bool = True) -> None:
        """`window` None: all at once. by_length False: in their order."""
        self._requests = enumerate(requests)
        self._window = window
        self._by_length = by_length
        self._read = 0
        self._ended = False
        self.passed_on = 0
        """How many results have left; never more than four windows are read beyond them."""
        self.error: Exception | None = None
        self.waiting: deque[tuple[int, Request]] = deque()

    @property
    def exhausted(self) -> bool:
        return self._ended and not self.waiting

    def refill(self, low: int) -> None:
        """Read another window unless `low` wait, or too many were read already."""
        while not self._ended and len(self.waiting) < low:
            if self._window is not None and self._read + self._window > self.passed_on + 4 * self._window:
                return
            chunk: list[tuple[int, Request]] = []
            try:
                for item in itertools.islice(self._requests, self._window):
                    chunk.append(item)
            except Exception as error:  # raised again by the scheduler after the requests before it
                self.error = error
                self._ended = True
            if self._window is None or len(chunk) < self._window:
                self._ended = True
            self._read += len(chunk)
            if self._by_length:
                chunk.sort(key=lambda item: -item[1].length)
            self.waiting.extend(chunk)
