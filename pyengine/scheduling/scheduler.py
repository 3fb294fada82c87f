"""Continuous batching: sentences enter the running batch as others leave it, results come out in order.

A step runs the rows of all live sentences and encodes new ones beside them, at most `budget` rows in all
where one sentence does not need more by itself. A sentence comes in when the key-value cache has room for all that it
may come to need, so that no step finds the cache full, but for a sentence that alone is too large. There is no padding,
so sentences of any lengths go together; longer ones go first, so that no long one is left to run alone at the end.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np

from pyengine.decoding.beam import BeamSearch
from pyengine.decoding.greedy import GreedySearch
from pyengine.decoding.search import NO_IDS, Found, Search, sequences_per_slot
from pyengine.options import SearchOptions
from pyengine.plan import Plan, Session
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.slicing import run_plan

__all__ = ["Request", "Scheduler"]

STEPS_AHEAD, SECONDS_AHEAD = 32, 0.02
"""How many steps may run without coming back to Python, and how long: a deadline or Ctrl-C need not wait."""


@dataclass(frozen=True, eq=False)
class Request:
    """A sentence: int32 source ids, end token included, and int32 target ids that its hypotheses begin with.

    An empty source has one hypothesis, empty, of score 0.
    """

    source: np.ndarray
    prefix: np.ndarray


class Scheduler:
    """Runs one search on one session, which it leaves empty, however it ends."""

    def __init__(
        self,
        session: Session,
        options: SearchOptions,
        *,
        vocab: int,
        budget: int,
        deadline: Deadline | None = None,
        allowed: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """`budget`: rows of a step, all in all.

        `allowed`: gives the ids that hypotheses of int32 source ids may take, int32, ascending; None: all of them.
        """
        beams = options.num_beams
        slots = min(budget // beams, session.max_memories, session.max_sequences // sequences_per_slot(beams))
        kind = GreedySearch if beams == 1 else BeamSearch
        self._slots = max(1, slots)
        self._options = options
        self._beams = beams
        self._search: Search = kind(options, slots=self._slots, vocab=vocab)
        self._session = session
        self._start = np.array([options.start], np.int32)
        self._budget = budget
        self._deadline = deadline or Deadline()
        self._allowed = allowed
        self._freed_memories: list[int] = []
        self._index_of: dict[int, int] = {}  # slot -> index of the request
        self._room_of: dict[int, int] = {}  # slot -> bytes of the cache that it may come to need
        self._room = 0  # of all slots

    @property
    def history_bytes(self) -> int:
        """Bytes that the tokens of its sentences take."""
        return self._search.history_bytes

    def run(
        self, requests: Iterable[Request], window: int | None = None
    ) -> Generator[list[Found], None, None]:
        """The hypotheses of each request, best first, in the order of the requests.

        Reads `requests` lazily, up to `window` at a time, longest first among these, and never more than four
        windows ahead of what it has yielded; None: all at once. What `requests` raises is raised here once
        the requests before it are done. Closing the generator cancels the rest.
        """
        queue = _Queue(requests, window, low=self._slots)
        done: dict[int, list[Found]] = {}
        following = 0
        try:
            while True:
                queue.refill(following)
                admitted = self._admit(queue, done)
                if self._search.live:
                    self._step(self._plan(admitted, 1 if queue.waiting else STEPS_AHEAD), done)
                while following in done:
                    yield done.pop(following)
                    following += 1
                if not self._search.live and queue.exhausted:
                    break
            if queue.error is not None:
                raise queue.error
        finally:
            # Not by ids: an interrupt may come between a step and its bookkeeping.
            self._session.clear()

    def _admit(self, queue: _Queue, done: dict[int, list[Found]]) -> list[tuple[int, np.ndarray]]:
        """Add requests to the search as budget and slots allow: (slot, source ids) of each."""
        chosen: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # index, bytes, source, prompt
        rows, left, free = self._search.rows_next, self._session.max_bytes - self._room, self._search.slots.free
        while queue.waiting:
            index, request = queue.waiting[0]
            if len(request.source) == 0:
                queue.waiting.popleft()
                done[index] = [Found(np.zeros(0, np.int32), 0.0, cut=False)]
                continue
            prompt = np.concatenate([self._start, request.prefix])
            rows += len(request.source) + len(prompt)
            longest = self._options.length_limits(len(prompt))[1]
            room = self._session.memory_bytes(len(request.source)) + self._beams * self._session.sequence_bytes(longest)
            left -= room
            full = rows > self._budget or left < 0
            if len(chosen) == free or (full and (self._search.live or chosen)):
                break
            queue.waiting.popleft()
            chosen.append((index, room, request.source, prompt))
        if not chosen:
            return []
        slots = self._search.add([prompt for _, _, _, prompt in chosen]).tolist()
        for slot, (index, room, _, _) in zip(slots, chosen, strict=True):
            self._index_of[slot], self._room_of[slot] = index, room
            self._room += room
        return [(slot, source) for slot, (_, _, source, _) in zip(slots, chosen, strict=True)]

    def _plan(self, admitted: list[tuple[int, np.ndarray]], ahead: int) -> Plan:
        """The next step, and leave to run up to `ahead` without coming back."""
        rows = self._search.rows()
        freed = np.array(self._freed_memories, np.int32)
        self._freed_memories = []
        lists = [] if self._allowed is None else [self._allowed(source) for _, source in admitted]
        return Plan(
            forks=rows.forks,
            free_sequences=rows.free_sequences,
            free_memories=freed,
            encode_tokens=np.concatenate([np.zeros(0, np.int32), *(source for _, source in admitted)]),
            encode_lengths=np.array([len(source) for _, source in admitted], np.int32),
            encode_memories=np.array([slot for slot, _ in admitted], np.int32),
            list_offsets=np.cumsum([0, *map(len, lists)], dtype=np.int32) if lists else NO_IDS,
            list_ids=np.concatenate(lists) if lists else NO_IDS,
            tokens=rows.tokens,
            sequences=rows.sequences,
            memories=rows.slots,
            logit_rows=rows.logit_rows,
            top_k=self._search.top_k,
            exclude_offsets=rows.edits.offsets,
            exclude_ids=rows.edits.ids,
            ahead=self._search.ahead(ahead, SECONDS_AHEAD),
        )

    def _step(self, plan: Plan, done: dict[int, list[Found]]) -> None:
        self._deadline.check()
        for finished in self._search.advance(run_plan(self._session, plan)):
            self._freed_memories.append(finished.slot)
            self._room -= self._room_of.pop(finished.slot)
            done[self._index_of.pop(finished.slot)] = finished.hypotheses


class _Queue:
    """Requests that wait, with their indices; each window of them longest first."""

    def __init__(self, requests: Iterable[Request], window: int | None, low: int) -> None:
        """Refills when fewer than `low` wait."""
        self._requests = enumerate(requests)
        self._window = window
        self._low = low
        self._read = 0
        self._ended = False
        self.error: Exception | None = None
        self.waiting: deque[tuple[int, Request]] = deque()

    @property
    def exhausted(self) -> bool:
        return self._ended and not self.waiting

    def refill(self, yielded: int) -> None:
        """Read another window unless enough wait, or too many were read since the `yielded`-th."""
        while not self._ended and len(self.waiting) < self._low:
            if self._window is not None and self._read + self._window > yielded + 4 * self._window:
                return
            chunk: list[tuple[int, Request]] = []
            try:
                for item in itertools.islice(self._requests, self._window):
                    chunk.append(item)
            except Exception as error:  # raised again by Scheduler.run after the requests before it
                self.error = error
                self._ended = True
            if self._window is None or len(chunk) < self._window:
                self._ended = True
            self._read += len(chunk)
            chunk.sort(key=lambda item: -len(item[1].source))
            self.waiting.extend(chunk)
