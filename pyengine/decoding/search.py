"""The state that greedy and beam search share: slots of sentences, their beams, histories and sequences.

A search holds up to `slots` sentences with the same options, each with one row per beam and step. All bookkeeping is
done for all live sentences at once. Ids of sequences come out of a pool that all searches of a session share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from pyengine.decoding.histories import Histories
from pyengine.decoding.processors import Candidates, Context, Edits, Processors
from pyengine.options import SearchOptions
from pyengine.plan import NO_IDS, NO_PAIRS, Ahead, StepResult

__all__ = ["Best", "Finish", "Finished", "Found", "IdPool", "Process", "Rows", "Search", "Start", "Written"]

Process = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Given a hypothesis, int32 ids from its prompt on, and float64 logits [vocab] after all other processors, those that
take their place."""

Finish = Literal["end", "length", "stop"]


class Best(NamedTuple):
    """The best k tokens at each of n places, best first; -1 and minus infinity where there are fewer.

    ids, log_probs            int32, float64 [n, k]: of the model's own distribution
    left_ids, left_log_probs  likewise, of what processors and filters left of it
    """

    ids: np.ndarray
    log_probs: np.ndarray
    left_ids: np.ndarray
    left_log_probs: np.ndarray


class Written(NamedTuple):
    """int32 ids, float64 log-probabilities of them, and the best tokens at each."""

    ids: np.ndarray
    log_probs: np.ndarray
    best: Best | None = None

    def first(self, count: int) -> Written:
        """The first so many of them."""
        best = None if self.best is None else Best(*(each[:count] for each in self.best))
        return Written(self.ids[:count], self.log_probs[:count], best)


@dataclass(frozen=True, eq=False)
class Found:
    """A hypothesis: int32 ids behind the prompt, the end token among them if it ended.

    score      the sum of log-probabilities over length**length_penalty, as transformers' `sequences_scores`: the prompt
               counts neither in the sum nor in the length, the end token in both
    finish     "end": by an end token; "length": the maximum length cut it; "stop": whoever watched it ended it
    log_probs  float64, the model's own log-probability of each id; None from beam search
    best       the `logprobs` best tokens at each id, if they were asked for
    """

    ids: np.ndarray
    score: float
    finish: Finish
    log_probs: np.ndarray | None = None
    best: Best | None = None


class Start(NamedTuple):
    """A sentence that begins with the int32 ids `prompt`, the first `ran` of which are in `sequence` already, and whose
    rows read `memory`, or -1, and take the set `rope_set` of frequencies. Samples are drawn by `seed`, None for any;
    `process` is the sentence's own processor.
    """

    prompt: np.ndarray
    ran: int
    sequence: int
    memory: int
    rope_set: int = 0
    seed: int | None = None
    process: Process | None = None


class Finished(NamedTuple):
    """A sentence's slot and its hypotheses, best first."""

    slot: int
    hypotheses: list[Found]


@dataclass(frozen=True, eq=False)
class Rows:
    """The next step's rows, and the forks before; arrays as in `pyengine.plan.Plan`."""

    forks: np.ndarray
    tokens: np.ndarray
    sequences: np.ndarray
    memories: np.ndarray
    logit_rows: np.ndarray
    edits: Edits
    rope_sets: np.ndarray


class IdPool:
    """Small numbers that are in use or not; hands out the lowest first, so that runs repeat exactly."""

    def __init__(self, size: int) -> None:
        self.used = np.zeros(size, bool)

    @property
    def free(self) -> int:
        return len(self.used) - int(np.count_nonzero(self.used))

    def take(self, count: int) -> np.ndarray:
        """There must be so many."""
        ids = (~self.used).nonzero()[0][:count]
        assert len(ids) == count
        self.used[ids] = True
        return ids

    def take_one(self) -> int:
        """There must be one."""
        id = int(self.used.argmin())
        assert not self.used[id]
        self.used[id] = True
        return id

    def give(self, ids: np.ndarray | int) -> None:
        self.used[ids] = False


_processors = lru_cache(64)(Processors)
"""Most calls have the options of the last one."""


class Search(ABC):
    """Base of `GreedySearch` and `BeamSearch`, which choose among candidates in `advance`."""

    def __init__(
        self, options: SearchOptions, sequences: IdPool, *, slots: int, vocab: int, histories: Histories
    ) -> None:
        """Takes ids of sequences out of the pool `sequences`; who gives them back is told by `released`.

        The first `num_beams` rows of a slot's history are the running hypotheses.
        """
        self.options = options
        self.beams = options.num_beams
        self._slots = IdPool(slots)
        self._pool = sequences
        self._processors = _processors(options, vocab)
        self._end = np.array(options.end, np.int32)
        self._live = np.zeros(0, np.intp)
        self._fresh = 0  # the last so many of _live have not had a step yet
        self._histories = histories
        self._last, self._sequences = np.zeros((2, slots, self.beams), np.int32)
        self._numbers = np.zeros((7, slots), np.int32)  # of each slot: these, which are its rows
        self._length, self._prompt, self._minimum, self._maximum = self._numbers[:4]
        self._ran, self._memories, self._rope_sets = self._numbers[4:]
        self._turns = False  # whether some sentence has taken another set than the first
        self._forks = NO_PAIRS
        self._freed = NO_IDS
        self._edits = Edits(np.zeros(1, np.int32), NO_IDS)

    @classmethod
    def samples_of(cls, options: SearchOptions) -> int:
        """Slots that a sentence needs."""
        return 1

    @classmethod
    def rows_of(cls, options: SearchOptions) -> int:
        """Rows of a step that a sentence needs."""
        return 1

    @classmethod
    def sequences_of(cls, options: SearchOptions) -> int:
        """Ids of sequences that a sentence needs, at most."""
        return cls.rows_of(options)

    @property
    def top_k(self) -> int:
        """Candidates that a row offers: even if every end token is among them, as many go on as beams."""
        return 1 if self.beams == 1 else self.beams + len(self._end)

    @property
    def full_logits(self) -> bool:
        """Whether whole rows of logits are needed."""
        return False

    @property
    def live(self) -> int:
        """Sentences that are being searched."""
        return len(self._live)

    @property
    def history_bytes(self) -> int:
        """Bytes that the tokens of its sentences take, and those that are kept for them."""
        return self._histories.nbytes

    @property
    def rows_alive(self) -> int:
        """Rows of the next step, but for sentences that are added before it."""
        return len(self._live) * self.beams

    def add(self, starts: Sequence[Start]) -> np.ndarray:
        """Begin these sentences; the slots of each, [n, samples]."""
        slots, lengths = self._slots.take(len(starts)), [len(each.prompt) for each in starts]
        self._histories.reserve(slots, np.array(lengths) + 1)
        limits = {length: self.options.length_limits(length) for length in set(lengths)}
        numbers = []
        for slot, length, start in zip(slots.tolist(), lengths, starts, strict=True):
            self._histories[slot][: self.beams, :length] = start.prompt
            self._last[slot], self._sequences[slot] = start.prompt[-1], start.sequence
            self._turns |= start.rope_set > 0
            numbers.append((length, length, *limits[length], start.ran, start.memory, start.rope_set))
        self._numbers[:, slots] = np.array(numbers, np.int32).T
        self._live = np.concatenate([self._live, slots])
        self._fresh += len(starts)
        return slots[:, None]

    def rows(self) -> Rows:
        """The next step: a row for each beam of a sentence under way, what is left of the prompt of one just added."""
        old, fresh = self._live[: self.live - self._fresh], self._live[self.live - self._fresh :]
        tokens = self._last[old].ravel()
        sequences, memories = self._sequences[old].ravel(), self._memories[old].repeat(self.beams)
        logit_rows = np.arange(len(tokens) + len(fresh), dtype=np.int32)
        if len(fresh):
            left = self._prompt[fresh] - self._ran[fresh]
            logit_rows[len(tokens) :] += np.cumsum(left - 1, dtype=np.int32)
            begun = (self._histories[slot][0, self._ran[slot] : self._prompt[slot]] for slot in fresh)
            tokens = np.concatenate([tokens, *begun])
            sequences = np.concatenate([sequences, self._sequences[fresh, 0].repeat(left)])
            memories = np.concatenate([memories, self._memories[fresh].repeat(left)])
        rope_sets = NO_IDS
        if self._turns:
            begun_sets = self._rope_sets[fresh].repeat((self._prompt - self._ran)[fresh])
            rope_sets = np.concatenate([self._rope_sets[old].repeat(self.beams), begun_sets])
        self._edits = self._processors.edits(self._context(old, fresh))
        forks, self._forks = self._forks, NO_PAIRS
        return Rows(forks, tokens, sequences, memories, logit_rows, self._edits, rope_sets)

    def released(self) -> np.ndarray:
        """int32 ids of sequences that are needed no longer; told once. Forks that `rows` gives may still read them."""
        freed, self._freed = self._freed, NO_IDS
        return freed

    def drop(self, slot: int) -> None:
        """Forget a sentence that has had a step."""
        self._drop(self._live == slot)

    @abstractmethod
    def ahead(self, most: int, seconds: float) -> Ahead | None:
        """Leave to run up to `most` steps for the rows that `rows` gave last; None if each needs a decision."""

    @abstractmethod
    def advance(self, scores: StepResult) -> list[Finished]:
        """Choose the next tokens by the scores of the rows that `rows` gave last; returns what finished."""

    def _steps_alike(self, most: int) -> int:
        """Steps, `most` or fewer, that have the edits that `rows` gave last, and in which no length reaches a limit."""
        if self._fresh or not self.live or self._edits.kinds is not None or self._processors.needs_history:
            return 1
        length = self._length[self._live]
        least = int((self._maximum[self._live] - length).min()) - (1 if self.options.forced_eos_token_id else 0)
        missing = self._minimum[self._live] - length
        if missing.max() > 0:
            least = min(least, int(missing[missing > 0].min()))
        return max(1, min(most, least))

    def _context(self, old: np.ndarray, fresh: np.ndarray) -> Context:
        """One entry a logit row: every beam of the old sentences, then one for each fresh one."""
        slots = self._live if self.beams == 1 else np.concatenate([old.repeat(self.beams), fresh])
        history = None
        if self._processors.needs_history:
            begun = (self._histories[slot][: self.beams, : self._length[slot]].ravel() for slot in old)
            prompts = (self._histories[slot][0, : self._prompt[slot]] for slot in fresh)
            history = np.concatenate([NO_IDS, *begun, *prompts])
        return Context(
            history, self._length[slots], self._prompt[slots], self._minimum[slots], self._maximum[slots]
        )

    def _candidates(self, scores: StepResult, normalize: bool) -> Candidates:
        """Every row's candidates; values are log-probabilities if `normalize`, else raw logits."""
        top, edited = scores.top_logits.astype(np.float64), scores.excluded_logits.astype(np.float64)
        if normalize:
            top -= scores.log_normalizer[:, None]
            if len(edited):
                edited -= np.repeat(scores.log_normalizer, np.diff(self._edits.offsets))
        candidates = self._processors.apply(self._edits, scores.top_ids, top, edited)
        if normalize and self.options.renormalize_logits:
            return self._processors.renormalize(self._edits, edited, candidates, scores.top_ids.shape[1])
        return candidates

    def _ends(self, tokens: np.ndarray) -> np.ndarray:
        """Which of `tokens` are end tokens."""
        if len(self._end) == 1:
            one: np.ndarray = tokens == self._end[0]
            return one
        ends = np.zeros(len(tokens), bool)
        for end in self._end:
            ends |= tokens == end
        return ends

    def _drop(self, done: np.ndarray) -> None:
        """Forget the sentences on the mask `done` over `_live`; all others have begun from here on."""
        self._fresh = 0
        slots = self._live[done]
        if len(slots):
            self.free(np.array(sorted(set(self._sequences[slots].ravel().tolist())), np.int32))
            self._histories.release(slots)
            self._slots.give(slots)
            self._live = self._live[~done]
            if not len(self._live):
                self._forks = NO_PAIRS  # of a sentence that was dropped

    def free(self, sequences: np.ndarray) -> None:
        """These are needed no longer."""
        if len(sequences):
            self._freed = np.concatenate([self._freed, sequences])

    def _finish(self, at_limit: bool, ended: bool) -> Finish:
        """Why a hypothesis is over that has its maximum length, or an end token, or both."""
        return "length" if at_limit and (self.options.forced_eos_token_id or not ended) else "end"
