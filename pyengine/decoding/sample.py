"""Sampling: transformers' `_sample`, where each token is drawn by a number of its own.

Processors act on raw logits, then the user's own, then the filters: temperature, top-k, top-p, min-p and typical-p
(csrc/search/draw.h). The number that draws a token depends on seed, sample and position alone, so that the same seed
gives the same text in any company. Several samples of a prompt run it once: the others are forks of the first.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np

from pyengine.decoding.greedy import GreedySearch
from pyengine.decoding.processors import Candidates
from pyengine.decoding.search import Best, Finished, IdPool, Process, Start, Written
from pyengine.errors import OptionError
from pyengine.options import SearchOptions
from pyengine.plan import Ahead, StepResult

__all__ = ["MOST_CANDIDATES", "SampleSearch", "WholeRowSearch"]

MOST_CANDIDATES = 64
"""Above this top-k, and without one, whole rows of logits are looked at."""

PLACES = 64
"""Whose best tokens there is room for at first."""


class SampleSearch(GreedySearch):
    """Each sample has a slot. A score sums the model's own log-probabilities, as that of greedy search does."""

    def __init__(self, options: SearchOptions, sequences: IdPool, *, slots: int, vocab: int) -> None:
        super().__init__(options, sequences, slots=slots, vocab=vocab)
        from pyengine._core import Lottery, uniforms  # converting needs no core

        self._samples = options.num_return_sequences if options.do_sample else 1
        self._few = options.top_k if 0 < options.top_k <= MOST_CANDIDATES else 0
        self._uniforms = uniforms
        self._lottery = Lottery(
            temperature=options.temperature or 1.0,
            top_k=min(options.top_k, vocab) if options.do_sample else 1,
            top_p=options.top_p if options.do_sample else 1.0,
            min_p=options.min_p if options.do_sample else 0.0,
            typical_p=options.typical_p if options.do_sample else 1.0,
        )
        self._seed = np.zeros(slots, np.uint64)
        self._number = np.zeros(slots, np.int32)
        self._others: dict[int, np.ndarray] = {}  # slot of a first sample -> those of the others, which wait for it

    @classmethod
    def samples_of(cls, options: SearchOptions) -> int:
        return options.num_return_sequences if options.do_sample else 1

    @classmethod
    def rows_of(cls, options: SearchOptions) -> int:
        return cls.samples_of(options)

    @property
    def top_k(self) -> int:
        return self._few or 1

    @property
    def full_logits(self) -> bool:
        return not self._few

    def add(self, starts: Sequence[Start]) -> np.ndarray:
        slots = np.empty((len(starts), self._samples), np.intp)
        slots[:, :1] = super().add(starts)
        slots[:, 1:] = self._slots.take(slots[:, 1:].size).reshape(len(starts), -1)
        self._number[slots] = np.arange(self._samples)
        for own, start in zip(slots, starts, strict=True):
            self._seed[own] = secrets.randbits(63) if start.seed is None else start.seed
            self._others[int(own[0])] = own[1:]
        return slots

    def ahead(self, most: int, seconds: float) -> Ahead | None:
        return None

    def advance(self, scores: StepResult) -> list[Finished]:
        begun = self.live - self._fresh
        candidates = self._candidates(scores, normalize=False) if self._few else self._whole(scores)
        rows = self._join_others(begun)
        live = self._live
        numbers = self._uniforms(self._seed[live], self._number[live], self._length[live] - self._prompt[live])
        drawn = rows, self._lottery.draw(np.ascontiguousarray(candidates.values), rows, numbers)
        return self._go_on(candidates.ids[drawn], candidates.unprocessed[drawn] - scores.log_normalizer[rows])

    def _whole(self, scores: StepResult) -> Candidates:
        """All ids of each row, after the processors."""
        assert scores.logits is not None  # they were asked for
        logits = scores.logits.astype(np.float64)
        values = self._processors.whole(self._edits, logits)
        return Candidates(np.broadcast_to(np.arange(values.shape[1], dtype=np.int32), values.shape), values, logits)

    def _join_others(self, begun: int) -> np.ndarray:
        """Samples whose first has had its prompt run join the live ones; the row of scores of each live one."""
        first = self._live[begun:]
        rows = np.arange(len(self._live))
        if self._samples == 1:
            return rows
        others = [self._others.pop(slot) for slot in first.tolist()]
        joined = np.concatenate([first[:0], *others])
        parents = first.repeat(self._samples - 1)
        self._histories.reserve(joined, self._length[parents] + 1)
        for slot, parent in zip(joined.tolist(), parents.tolist(), strict=True):
            length = self._length[parent]
            self._histories[slot][0, :length] = self._histories[parent][0, :length]
        limits, places = (self._length, self._prompt, self._minimum, self._maximum), (self._memories, self._rope_sets)
        for each in (*limits, *places, self._last):
            each[joined] = each[parents]
        self._sequences[joined, 0] = self._pool.take(len(joined))
        pairs = np.stack([self._sequences[parents, 0], self._sequences[joined, 0]], axis=1)
        self._forks = np.concatenate([self._forks, pairs])
        self._live = np.concatenate([self._live, joined])
        return np.concatenate([rows, rows[begun:].repeat(self._samples - 1)])


class _Kept:
    """The best tokens at each place of a text, in arrays that grow by doubling: what was shown stays as it is."""

    def __init__(self, count: int) -> None:
        self._arrays = Best(*(np.empty((PLACES, count), kind) for kind in (np.int32, np.float64) * 2))
        self._places = 0

    def add(self, best: Best) -> None:
        if self._places == len(self._arrays.ids):
            self._arrays = Best(*(np.concatenate([each, np.empty_like(each)]) for each in self._arrays))
        for array, values in zip(self._arrays, best, strict=True):
            array[self._places] = values
        self._places += 1

    @property
    def so_far(self) -> Best:
        return Best(*(each[: self._places] for each in self._arrays))


class WholeRowSearch(SampleSearch):
    """Sentences whose whole rows are looked at: by processors of their own, and for the best tokens of each place.

    Without `do_sample` each takes its best token.
    """

    def __init__(self, options: SearchOptions, sequences: IdPool, *, slots: int, vocab: int) -> None:
        super().__init__(options, sequences, slots=slots, vocab=vocab)
        from pyengine._core import Lottery  # converting needs no core

        self._few = 0
        self._process: dict[int, Process] = {}
        self._failed: list[tuple[int, Exception]] = []
        self._best: dict[int, _Kept] = {}
        self._plain = Lottery(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)

    def add(self, starts: Sequence[Start]) -> np.ndarray:
        slots = super().add(starts)
        for own, start in zip(slots.tolist(), starts, strict=True):
            for slot in own:
                if self.options.logprobs:
                    self._best[slot] = _Kept(self.options.logprobs)
                if start.process is not None:
                    self._process[slot] = start.process
        return slots

    def failures(self) -> list[tuple[int, Exception]]:
        failed, self._failed = self._failed, []
        return failed

    def written(self, slot: int) -> Written:
        ids, log_probs, _ = super().written(slot)
        if not self.options.logprobs:
            return Written(ids, log_probs)
        return Written(ids, log_probs, self._best[slot].so_far)

    def _whole(self, scores: StepResult) -> Candidates:
        candidates = super()._whole(scores)
        for row, slot in enumerate(self._live.tolist()):
            values = candidates.values[row]
            try:
                if slot in self._process:
                    ids = self._histories[slot][0, : self._length[slot]].copy()
                    values[:] = self._processed(self._process[slot], ids, values)
            except Exception as error:  # the caller's: whoever runs this search ends the sentence
                self._failed.append((slot, error))
            if self.options.logprobs:
                best = self._best_of(candidates.unprocessed[row], values)
                for sample in (slot, *self._others.get(slot, ())):
                    self._best[int(sample)].add(best)
        return candidates

    def _processed(self, process: Process, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
        given = process(ids, values.copy())
        try:
            found = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise OptionError(f"processor gave a {type(given).__name__}; expected {len(values)} numbers") from None
        if found.shape != values.shape:
            raise OptionError(f"processor gave an array of shape {found.shape}; expected {values.shape}")
        if not (found > -np.inf).any():
            raise OptionError("processor left no token; expected a logit above minus infinity")
        return found

    def _best_of(self, logits: np.ndarray, values: np.ndarray) -> Best:
        left = self._lottery if self.options.do_sample else self._plain
        count = self.options.logprobs
        return Best(*self._plain.best(logits, count), *left.best(values, count))

    def _drop(self, done: np.ndarray) -> None:
        for slot in self._live[done].tolist():
            self._process.pop(slot, None)
            self._best.pop(slot, None)
        super()._drop(done)
