"""Greedy search: transformers' `_sample` with `do_sample=False`.

Processors act on raw logits; a sentence ends at its first end token or at the maximum length.
"""

from __future__ import annotations

import numpy as np

from pyengine.decoding.histories import Histories
from pyengine.decoding.search import Finish, Finished, Found, IdPool, Search, Written
from pyengine.options import SearchOptions
from pyengine.plan import Ahead, StepResult

__all__ = ["GreedySearch"]


class GreedySearch(Search):
    """A score sums the model's own log-probabilities of the chosen tokens, whatever the processors did."""

    def __init__(self, options: SearchOptions, sequences: IdPool, *, slots: int, vocab: int) -> None:
        histories = Histories(slots, 1, values=True)
        super().__init__(options, sequences, slots=slots, vocab=vocab, histories=histories)
        from pyengine._core import power, write_tokens  # converting needs no core

        self._power, self._write_tokens = power, write_tokens
        self._divisors: dict[int, float] = {}  # by length

    def ahead(self, most: int, seconds: float) -> Ahead | None:
        steps = self._steps_alike(most)
        return Ahead(steps, seconds, self._end) if steps > 1 else None

    def advance(self, scores: StepResult) -> list[Finished]:
        if self._edits.kinds is None:  # all are bans: the core's candidates, best first, are what may be taken
            tokens, logits = np.maximum(scores.top_ids[:, 0], 0), scores.top_logits[:, 0]
        else:
            candidates = self._candidates(scores, normalize=False)
            best = np.arange(len(self._live)), candidates.values.argmax(axis=1)
            tokens, logits = candidates.ids[best], candidates.unprocessed[best]
        return self._go_on(tokens, logits - scores.log_normalizer, scores.passed)

    def _go_on(
        self, tokens: np.ndarray, log_probs: np.ndarray, passed: tuple[np.ndarray, np.ndarray] | None = None
    ) -> list[Finished]:
        """Every sentence has one more token [n], behind those [m, n] that `passed`; those that finished."""
        live = self._live
        if passed is None:
            self._write(tokens[:, None], log_probs[:, None])
        else:
            pairs = zip(passed, (tokens[None], log_probs[None]), strict=True)
            self._write(*(np.concatenate([*pair]).T for pair in pairs))
        ended, at_limit = self._ends(tokens), self._length[live] >= self._maximum[live]
        done = ended | at_limit
        finished = [
            Finished(slot, [self.scored(self.written(slot), self._finish(*how))])
            for slot, *how in zip(live[done].tolist(), at_limit[done].tolist(), ended[done].tolist(), strict=True)
        ]
        self._drop(done)
        return finished

    def failures(self) -> list[tuple[int, Exception]]:
        """Slots of sentences whose own processors raised in the last step, and what; told once."""
        return []

    def written(self, slot: int) -> Written:
        """The new ids of a sentence, and their log-probabilities."""
        new = slice(int(self._prompt[slot]), int(self._length[slot]))
        return Written(self._histories[slot][0, new].copy(), self._histories.values(slot)[new].copy())

    def scored(self, written: Written, finish: Finish) -> Found:
        """The hypothesis of these new ids; one of none has the score 0."""
        if not len(written.ids):
            return Found(written.ids, 0.0, finish, written.log_probs, written.best)
        total = written.log_probs.cumsum()[-1]  # one by one: a sum must not depend on how many are added at once
        score = float(total / self._divisor(len(written.ids)))
        return Found(written.ids, score, finish, written.log_probs, written.best)

    def _divisor(self, length: int) -> float:
        if length not in self._divisors:
            self._divisors[length] = float(self._power(np.array([length]), self.options.length_penalty)[0])
        return self._divisors[length]

    def _write(self, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """Every sentence goes on with int tokens [n, m]."""
        live = self._live
        length = self._length[live]
        longer = length + tokens.shape[1]
        self._histories.reserve(live, longer)
        self._write_tokens(self._histories, live, length, tokens, log_probs)
        self._length[live] = longer
        self._last[live, 0] = tokens[:, -1]
