"""Continuous batching: requests enter the running batch as others leave it, results come out in order.

A step runs one row for every beam that is searching, then what it can of prompts, the oldest first, and encodes new
sources beside them, at most `budget` rows in all where one request does not need more by itself. A prompt that is
longer than what is left of a step goes on in the next one, so that it keeps nobody waiting for more than a step; where
somebody listens to the others, it runs PROMPT_ROWS at a time, so that this step is short. A request comes in when the
key-value cache has room for all that it may come to need, so that no step finds the cache full, but for one that alone
is too large. There is no padding, so requests of any lengths go together.

Requests with the same options are searched together: there is a search for each set of options, and the rows of all of
them are one plan. A result depends on the request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np

from pyengine.decoding.beam import BeamSearch
from pyengine.decoding.greedy import GreedySearch
from pyengine.decoding.sample import MOST_CANDIDATES
from pyengine.decoding.search import Finished, Found, IdPool, Rows, Start, Written
from pyengine.errors import CacheFullError, OptionError
from pyengine.options import SearchOptions
from pyengine.plan import NO_IDS, Plan, Session
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.groups import Group, Running
from pyengine.scheduling.joining import join, split
from pyengine.scheduling.requests import Event, Outcome, Queue, Request
from pyengine.scheduling.slicing import run_plan

__all__ = ["Event", "Outcome", "Request", "Scheduler"]

STEPS_AHEAD, SECONDS_AHEAD = 32, 0.02
"""How many steps may run without coming back to Python, and how long: a deadline or Ctrl-C need not wait."""
PROMPT_ROWS = 256
"""Of prompts in a step beside others that somebody listens to. Products of more rows are no faster."""


class Scheduler:
    """Runs searches on one session, which it leaves empty, however it ends."""

    def __init__(
        self,
        session: Session,
        *,
        vocab: int,
        budget: int,
        deadline: Deadline | None = None,
        allowed: Callable[[np.ndarray], np.ndarray] | None = None,
        rope_set: Callable[[int], int] = lambda length: 0,
    ) -> None:
        """`budget`: rows of a step, all in all.

        `allowed`: gives the ids that hypotheses of int32 source ids may take, int32, ascending; None: all of them.
        `rope_set`: the model's `ModelConfig.rope_set`.
        """
        self._session = session
        self._vocab = vocab
        self._budget = budget
        self._deadline = deadline or Deadline()
        self._allowed = allowed
        self._rope_set = rope_set
        self._groups: dict[tuple[SearchOptions, bool], Group] = {}  # by options, and whether whole rows are looked at
        self._latest: tuple[SearchOptions, bool, Group] | None = None  # most requests have the options of the last one
        self._running: dict[int, Running] = {}  # by index
        self._prompt: Running | None = None  # whose prompt has begun and goes on
        self._cancelled: set[int] = set()
        self._done: dict[int, Outcome] = {}
        self._events: list[Event] | None = None  # None: nobody listens
        self._sequences, self._memories = IdPool(session.max_sequences), IdPool(session.max_memories)
        self._freed_sequences = NO_IDS  # that the next plan frees
        self._freed_memories: list[int] = []
        self._watched = self._remembered = 0  # requests under way that are watched, and that have a memory
        self._wide = self._held = self._room = 0  # rows, sequences and bytes that the requests under way may need
        self._low = 1  # so many requests should wait
        self._most = budget  # requests that may come: a search of one needs no room for a thousand

    @property
    def history_bytes(self) -> int:
        """Bytes that the tokens of its sentences take, and those that are kept for them."""
        return sum(group.search.history_bytes for group in list(self._groups.values()))

    def run(
        self, requests: Iterable[Request], window: int | None = None
    ) -> Generator[Outcome, None, None]:
        """What becomes of each request, in the order of the requests.

        Reads `requests` lazily, up to `window` at a time, longest first among these, and never more than four
        windows ahead of what it has yielded; None: all at once. What `requests` raises is raised here once
        the requests before it are done. Closing the generator cancels the rest.
        """
        self._most = len(requests) if isinstance(requests, list) else self._budget
        queue = Queue(requests, window)
        for _ in self._steps(queue):
            while queue.passed_on in self._done:
                yield self._done.pop(queue.passed_on)
                queue.passed_on += 1

    def events(self, requests: Iterable[Request]) -> Generator[Event, None, None]:
        """What each step brings to each request, as they come; requests begin in their order. What `requests` raises is
        raised once those before it are done. Closing the generator cancels the rest.
        """
        self._events = []
        for _ in self._steps(Queue(requests, None, by_length=False)):
            events, self._events = self._events, []
            self._done.clear()
            yield from events

    def cancel(self, index: int) -> None:
        """End a request before the next step, which is at most SECONDS_AHEAD away; from any thread."""
        self._cancelled.add(index)

    def _steps(self, queue: Queue) -> Iterator[None]:
        """Runs step after step, and returns after each of them."""
        try:
            while True:
                queue.refill(self._low)
                self._drop_cancelled()
                plan = self._plan(queue)
                if plan is not None:
                    self._step(*plan)
                yield
                if not self._running and queue.exhausted:
                    break
            if queue.error is not None:
                raise queue.error
        finally:
            # Not by ids: an interrupt may come between a step and its bookkeeping.
            self._session.clear()

    def _drop_cancelled(self) -> None:
        for index in self._cancelled & self._running.keys() if self._cancelled else ():
            self._abandon(self._running[index], [])

    def _abandon(self, running: Running, result: Outcome) -> None:
        """The request ends as it is."""
        group = running.group
        if self._events is not None and isinstance(result, Exception):
            self._events.append(Event(running.index, 0, NO_IDS, error=result))
        for slot in [slot for slot, (owner, _) in group.owners.items() if owner is running]:
            del group.owners[slot]
            group.search.drop(slot)
        if running is self._prompt:
            self._prompt = None
            group.search.free(np.array([running.sequence], np.int32))
        self._leave(running, result)

    def _leave(self, running: Running, result: Outcome) -> None:
        group = running.group
        if running.memory >= 0:
            self._freed_memories.append(running.memory)
            self._memories.give(running.memory)
            self._remembered -= 1
        self._watched -= running.request.watch is not None
        self._wide -= group.rows
        self._held -= group.sequences
        self._room -= running.room
        group.members -= 1
        del self._running[running.index]
        self._cancelled.discard(running.index)
        self._done[running.index] = result

    def _admit(self, queue: Queue, rows: int) -> Running | None:
        """The next request, if a step that has so many rows already, and the cache, have room for it."""
        while queue.waiting:
            index, request = queue.waiting[0]
            if index in self._cancelled:
                queue.waiting.popleft()
                self._cancelled.discard(index)
                self._done[index] = []
                continue
            source, prompt, options = request.source, request.prompt, request.options
            if source is not None and not len(source):
                queue.waiting.popleft()
                self._finish_empty(index)
                continue
            group = self._group_of(request)
            encoded = 0 if source is None else len(source)
            longest = options.length_limits(len(prompt))[1]
            room = group.rows * self._session.sequence_bytes(longest)
            if encoded:
                room += self._session.memory_bytes(encoded)
            full = (
                rows + encoded >= self._budget
                or self._wide + group.rows > self._budget
                or self._room + room > self._session.max_bytes
                or self._held + group.sequences > self._session.max_sequences
                or (encoded > 0 and self._remembered == self._session.max_memories)
            )
            if full and self._running:
                return None
            queue.waiting.popleft()
            self._low = max(1, self._budget // group.rows)
            self._remembered += encoded > 0
            memory = self._memories.take_one() if encoded else -1
            sequence = self._sequences.take_one()
            # A last token is never read.
            running = Running(index, request, group, room, sequence, memory, self._rope_set(longest - 1))
            self._running[index] = running
            group.members += 1
            self._watched += request.watch is not None
            self._wide += group.rows
            self._held += group.sequences
            self._room += room
            return running
        return None

    def _finish_empty(self, index: int) -> None:
        found = Found(NO_IDS, 0.0, "end")
        self._done[index] = [found]
        if self._events is not None:
            self._events.append(Event(index, 0, NO_IDS, None, found))

    def _group_of(self, request: Request) -> Group:
        options = request.options
        whole = request.process is not None or options.logprobs > 0
        if self._latest is not None and self._latest[0] is options and self._latest[1] == whole:
            return self._latest[2]
        key = options, whole
        group = self._groups.get(key)
        if group is None:
            group = Group(*key, self._sequences, budget=self._budget, most=self._most, vocab=self._vocab)
            if self._allowed is not None and group.search.full_logits:
                raise OptionError(
                    f"top_k is {options.top_k}; with a shortlist, samples need 1..{MOST_CANDIDATES}, and no "
                    "logprobs or processors of their own",
                    keywords=("top_k",),
                )
            self._groups[key] = group
        self._latest = options, whole, group
        return group

    def _plan(self, queue: Queue) -> tuple[Plan, list[Group], list[Rows]] | None:
        """The next step, and whose rows it has; None if nobody has any."""
        self._release()
        rows = sum(group.search.rows_alive for group in self._groups.values())
        most = self._budget if self._events is None or not rows else min(self._budget, rows + PROMPT_ROWS)
        starting: dict[Group, list[tuple[Running, Start]]] = {}
        sources: list[Running] = []
        more = None
        while rows < most and (queue.waiting or self._prompt is not None):
            running, self._prompt = self._prompt or self._admit(queue, rows), None
            if running is None:
                break
            prompt, source = running.request.prompt, running.request.source
            if source is not None and not running.ran:
                sources.append(running)
                rows += len(source)
            left = len(prompt) - running.ran
            count = min(left, max(most - rows, 1))
            rows += count
            if count < left:
                more = running.prompt_rows(count)
                running.ran += count
                self._prompt = running
                break
            request = running.request
            place = running.ran, running.sequence, running.memory, running.rope_set
            start = Start(prompt, *place, request.options.seed, request.process)
            starting.setdefault(running.group, []).append((running, start))
        if not rows:
            return None
        for group, begun in starting.items():
            slots = group.search.add([start for _, start in begun]).tolist()
            for (running, _), own in zip(begun, slots, strict=True):
                for number, slot in enumerate(own):
                    group.owners[slot] = running, number
        live = [group for group in self._groups.values() if group.search.live]
        parts = [group.search.rows() for group in live]
        ahead = None
        if len(live) == 1 and more is None and not queue.waiting:
            ahead = live[0].search.ahead(STEPS_AHEAD, SECONDS_AHEAD)
        freed, self._freed_sequences = self._freed_sequences, NO_IDS
        freed_memories, self._freed_memories = self._freed_memories, []
        plan = Plan(
            **join(parts, more),
            free_sequences=freed,
            **(self._encoded(sources) if sources else {}),
            free_memories=np.array(freed_memories, np.int32) if freed_memories else NO_IDS,
            top_k=max([group.search.top_k for group in live], default=0),
            full_logits=any(group.search.full_logits for group in live),
            ahead=ahead,
        )
        return plan, live, parts

    def _encoded(self, sources: list[Running]) -> dict[str, Any]:
        """Parts of a plan: the sources of these requests."""
        lists = [] if self._allowed is None else [self._allowed(each.source) for each in sources]
        return {
            "encode_tokens": np.concatenate([each.source for each in sources]),
            "encode_lengths": np.array([len(each.source) for each in sources], np.int32),
            "encode_memories": np.array([each.memory for each in sources], np.int32),
            "list_offsets": np.cumsum([0, *map(len, lists)], dtype=np.int32) if lists else NO_IDS,
            "list_ids": np.concatenate(lists) if lists else NO_IDS,
        }

    def _release(self) -> None:
        """Takes back the ids of sequences that no search needs. Not sooner: a plan forks before it frees, so that an id
        of this step cannot be the child of one of its forks.
        """
        freed = [group.search.released() for group in self._groups.values()]
        ids = freed[0] if len(freed) == 1 else np.concatenate([NO_IDS, *freed])
        if len(ids):
            self._sequences.give(ids)
            self._freed_sequences = np.concatenate([self._freed_sequences, ids])
        if len(self._groups) > 1:
            self._groups = {key: group for key, group in self._groups.items() if group.members}
            self._latest = None

    def _step(self, plan: Plan, live: list[Group], parts: list[Rows]) -> None:
        self._deadline.check()
        try:
            result = run_plan(self._session, plan)
        except CacheFullError as error:
            if len(self._running) > 1:  # no request comes in beside others without its room
                raise
            [alone] = self._running.values()
            self._abandon(alone, error)  # the cache cannot hold it: those that wait go on
            self._begin_anew()
            return
        for group, own in zip(live, split(result, [group.search for group in live], parts), strict=True):
            finished = group.search.advance(own)
            if isinstance(group.search, BeamSearch):
                self._finish_beams(group, finished)
            else:
                self._learn(group, group.search, finished)

    def _begin_anew(self) -> None:
        """After a step that failed in the middle, when no request is under way any more: nothing of before is left."""
        self._session.clear()
        self._groups, self._latest, self._prompt = {}, None, None
        self._sequences, self._memories = IdPool(self._session.max_sequences), IdPool(self._session.max_memories)
        self._freed_sequences, self._freed_memories = NO_IDS, []

    def _finish_beams(self, group: Group, finished: list[Finished]) -> None:
        for slot, hypotheses in finished:
            running, _ = group.owners.pop(slot)
            if self._events is not None:
                self._events += [Event(running.index, i, each.ids, None, each) for i, each in enumerate(hypotheses)]
            self._leave(running, hypotheses)

    def _learn(self, group: Group, search: GreedySearch, finished: list[Finished]) -> None:
        """What a step brought to hypotheses that grow token by token."""
        for slot, error in search.failures():
            if slot in group.owners:
                self._abandon(group.owners[slot][0], error)
        for slot, [found] in finished:
            if slot in group.owners:  # unless what its request called for another hypothesis has just ended it
                self._look(search, slot, *group.owners.pop(slot), found)
        if self._events is not None or self._watched:
            for slot in list(group.owners):
                if slot in group.owners:
                    self._look(search, slot, *group.owners[slot], None)

    def _look(self, search: GreedySearch, slot: int, running: Running, number: int, found: Found | None) -> None:
        """Shows a hypothesis to whoever wants to see what each step brings, and keeps it once it has ended."""
        watch = running.request.watch
        if self._events is not None or watch is not None:
            written = _written(found) if found is not None else search.written(slot)
            first = running.shown.get(number, 0)
            try:
                kept = None if watch is None else watch(number, written.ids[first:])
            except Exception as error:  # the caller's: the other requests go on
                self._abandon(running, error)
                return
            if kept is not None:
                if found is None:
                    search.drop(slot)
                    del running.group.owners[slot]
                written = written.first(first + kept)
                found = search.scored(written, "stop")
            running.shown[number] = len(written.ids)
            if self._events is not None:
                new = written.ids[first:], written.log_probs[first:]
                self._events.append(Event(running.index, number, *new, found))
        if found is not None:
            running.found[number] = found
            if len(running.found) == running.group.samples:
                self._leave(running, [running.found[i] for i in range(running.group.samples)])


def _written(found: Found) -> Written:
    assert found.log_probs is not None  # there are no beams
    return Written(found.ids, found.log_probs, found.best)
