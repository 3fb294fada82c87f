"""The state that greedy and beam search share: slots of sentences, their beams, histories and sequences.

A search holds up to `slots` sentences. Each has a slot, which is also the id of its cross-attention memory,
and one row per beam and step. All bookkeeping is done for all live sentences at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyengine.decoding.histories import Histories
from pyengine.decoding.processors import Candidates, Context, Edits, Processors
from pyengine.options import SearchOptions
from pyengine.plan import Ahead, StepResult

__all__ = ["Finished", "Found", "IdPool", "Rows", "Search", "sequences_per_slot"]


NO_IDS, NO_PAIRS = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)


@dataclass(frozen=True, eq=False)
class Found:
    """A hypothesis: int32 ids after the start token; the prefix is among them, and the end token if it ended.

    score is the sum of log-probabilities over length**length_penalty, as transformers' `sequences_scores`:
    the prefix counts neither in the sum nor in the length, the end token in both. `cut`: stopped by the
    maximum length.
    """

    ids: np.ndarray
    score: float
    cut: bool


@dataclass(frozen=True, eq=False)
class Finished:
    """A sentence's slot and its hypotheses, best first."""

    slot: int
    hypotheses: list[Found]


@dataclass(frozen=True, eq=False)
class Rows:
    """The next step's rows, and what happens to sequences before; arrays as in `pyengine.plan.Plan`."""

    forks: np.ndarray
    free_sequences: np.ndarray
    tokens: np.ndarray
    sequences: np.ndarray
    slots: np.ndarray
    logit_rows: np.ndarray
    edits: Edits


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

    def give(self, ids: np.ndarray) -> None:
        self.used[ids] = False


class Search(ABC):
    """Base of `GreedySearch` and `BeamSearch`, which choose among candidates in `advance`."""

    def __init__(self, options: SearchOptions, *, slots: int, vocab: int, rows: int) -> None:
        """`rows` of a slot's history: the first `num_beams` are the running hypotheses."""
        self.options = options
        self.beams = options.num_beams
        self.slots = IdPool(slots)
        self._free_sequences = IdPool(slots * sequences_per_slot(self.beams))
        self._processors = Processors(options, vocab)
        self._end = np.array(options.end)
        self._live = np.zeros(0, np.intp)
        self._fresh = 0  # the last so many of _live have not had a step yet
        self._histories = Histories(slots, rows)
        self._last, self._sequences = np.zeros((2, slots, self.beams), np.int32)
        self._length, self._prompt, self._minimum, self._maximum = np.zeros((4, slots), np.int32)
        self._forks = NO_PAIRS
        self._freed = NO_IDS
        self._edits = Edits(np.zeros(1, np.int32), NO_IDS)

    @property
    def top_k(self) -> int:
        """Candidates that a row offers: even if every end token is among them, as many go on as beams."""
        return 1 if self.beams == 1 else self.beams + len(self._end)

    @property
    def live(self) -> int:
        """Sentences that are being searched."""
        return len(self._live)

    @property
    def history_bytes(self) -> int:
        """Bytes of the tokens of the sentences that are being searched."""
        return self._histories.nbytes

    @property
    def rows_next(self) -> int:
        """Decoder rows of the next step."""
        fresh = self._live[self.live - self._fresh :]
        return (self.live - self._fresh) * self.beams + int(self._prompt[fresh].sum())

    def add(self, prompts: Sequence[np.ndarray]) -> np.ndarray:
        """Begin sentences whose first tokens, the start token among them, are these, int [n] each; their slots."""
        slots, lengths = self.slots.take(len(prompts)), np.array([len(prompt) for prompt in prompts])
        self._histories.reserve(slots, lengths + 1)
        for slot, prompt in zip(slots.tolist(), prompts, strict=True):
            self._histories[slot][: self.beams, : len(prompt)] = prompt
            self._last[slot] = prompt[-1]
            self._minimum[slot], self._maximum[slot] = self.options.length_limits(len(prompt))
        self._length[slots] = self._prompt[slots] = lengths
        self._sequences[slots] = self._free_sequences.take(len(prompts))[:, None]
        self._live = np.concatenate([self._live, slots])
        self._fresh += len(prompts)
        return slots

    def rows(self) -> Rows:
        """The next step: a row for each beam of a sentence under way, the prompt's rows of one just added."""
        old, fresh = self._live[: self.live - self._fresh], self._live[self.live - self._fresh :]
        tokens = self._last[old].ravel()
        sequences, slots = self._sequences[old].ravel(), old.repeat(self.beams).astype(np.int32)
        logit_rows = np.arange(len(tokens) + len(fresh), dtype=np.int32)
        if len(fresh):
            prompts = self._prompt[fresh]
            logit_rows[len(tokens) :] += np.cumsum(prompts - 1, dtype=np.int32)
            begun = (self._histories[slot][0, : self._prompt[slot]] for slot in fresh)
            tokens = np.concatenate([tokens, *begun])
            sequences = np.concatenate([sequences, self._sequences[fresh, 0].repeat(prompts)])
            slots = np.concatenate([slots, fresh.repeat(prompts).astype(np.int32)])
        self._edits = self._processors.edits(self._context(old, fresh))
        forks, self._forks = self._forks, NO_PAIRS
        freed, self._freed = self._freed, NO_IDS
        return Rows(forks, freed, tokens, sequences, slots, logit_rows, self._edits)

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
        limit = self._maximum[self._live] - (1 if self.options.forced_eos_token_id else 0)
        short = length < self._minimum[self._live]
        limit = np.where(short, np.minimum(limit, self._minimum[self._live]), limit)
        return max(1, min(most, int((limit - length).min())))

    def _context(self, old: np.ndarray, fresh: np.ndarray) -> Context:
        """One entry a logit row: every beam of the old sentences, then one for each fresh one."""
        slots = np.concatenate([old.repeat(self.beams), fresh])
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
        ends: np.ndarray = tokens == self._end[0]
        for end in self._end[1:]:
            ends |= tokens == end
        return ends

    def _drop(self, done: np.ndarray) -> None:
        """Forget the sentences on the mask `done` over `_live`; all others have begun from here on."""
        if done.any():
            slots = self._live[done]
            self._free(np.array(sorted(set(self._sequences[slots].ravel().tolist())), np.int32))
            self._histories.release(slots)
            self.slots.give(slots)
            self._live = self._live[~done]
        self._fresh = 0

    def _free(self, sequences: np.ndarray) -> None:
        if len(sequences):
            self._free_sequences.give(sequences)
            self._freed = np.concatenate([self._freed, sequences])

    def _found(self, slot: int, ids: np.ndarray, score: float) -> Found:
        """`ids` [n] with the start token."""
        at_limit = len(ids) >= self._maximum[slot]
        cut = at_limit and (bool(self.options.forced_eos_token_id) or not bool(self._ends(ids[-1:])[0]))
        return Found(ids[1:].copy(), score, bool(cut))


def sequences_per_slot(beams: int) -> int:
    """Sequence ids that a sentence needs: children take new ones while dropped beams still hold theirs."""
    return 2 * beams if beams > 1 else 1
