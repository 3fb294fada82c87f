"""What a decoder alone expects of texts that are there."""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np

from pyengine.arguments import whole
from pyengine.errors import InputError
from pyengine.results import ScoreResult
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.author import Author
from pyengine.tasks.engine import Engine
from pyengine.tasks.forcing import judged, target_logits
from pyengine.tasks.inputs import Sample, Sentence, Sentences, is_one, seconds
from pyengine.tasks.opinions import score_result
from pyengine.tasks.outcomes import all_answered, answered
from pyengine.tasks.prompts import Prompts
from pyengine.tasks.task import BATCH_TOKENS
from pyengine.text import TextTokenizer

__all__ = ["Judge"]

WINDOW = 1024
"""Tokens of a window of `perplexity`, or the model's positions if those are fewer."""


class Judge(Author):
    """The part of a `Generator` that judges texts which are there."""

    def __init__(self, engine: Engine, tokenizer: TextTokenizer | None, about: dict[str, object]) -> None:
        super().__init__(engine, tokenizer, about)
        self._tokenizer = tokenizer
        generation = engine.generation
        start = generation.decoder_start_token_id
        self._prompts = Prompts(engine.config, tokenizer, generation.bos_token_id if start is None else start)

    @overload
    def score(
        self, text: Sentence, *, max_batch_tokens: int = ..., timeout: float | None = ...
    ) -> ScoreResult: ...
    @overload
    def score(
        self, text: Sentences, *, max_batch_tokens: int = ..., timeout: float | None = ...
    ) -> list[ScoreResult]: ...

    def score(self, text: Any, *, max_batch_tokens: int = BATCH_TOKENS, timeout: float | None = None) -> Any:
        """Log-probabilities of a text's tokens behind a start token: a ScoreResult, or a list of them for a list.

        A model without a start token judges the tokens after the first. InputError: longer than the positions.
        """
        deadline = Deadline(seconds(timeout))
        one = is_one(text)
        names = ["the text"] if one else [f"text {i + 1}" for i in range(len(text))]
        samples = [
            self._prompts.judged(each, name=name) for each, name in zip([text] if one else text, names, strict=True)
        ]
        found = self._judged(samples, whole("max_batch_tokens", max_batch_tokens, 1), deadline)
        results = [self._score(sample, log_probs) for sample, log_probs in zip(samples, found, strict=True)]
        return answered(results[0]) if one else all_answered(results)

    def perplexity(
        self,
        text: Sentence,
        *,
        window: int | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        timeout: float | None = None,
    ) -> float:
        """e to the mean negative log-probability of a token of a text of any length.

        It is read in windows of `window` tokens (1,024, or the positions if those are fewer) that do not overlap, each
        behind a start token; a model without one judges the tokens after the first of each. Infinite where a float64
        has no room for it.
        """
        deadline = Deadline(seconds(timeout))
        budget, most = whole("max_batch_tokens", max_batch_tokens, 1), self._positions
        size = min(WINDOW, most) if window is None else whole("window", window, 2, most, ", the model's positions")
        if not is_one(text):
            raise InputError("perplexity takes one text, found a list of them")
        windows = self._prompts.windows(text, size, name="the text")
        found = [answered(each) for each in self._judged(windows, budget, deadline)]
        total = math.fsum(value for each in found for value in each.tolist())
        try:
            return math.exp(-total / sum(map(len, found)))
        except OverflowError:  # less than e**-709 a token: damaged weights, or a text that nothing expects
            return math.inf

    def logits(self, text: Sentence, *, timeout: float | None = None) -> np.ndarray:
        """float32 [T, vocab]: raw logits after each of the T tokens of a text, or after each of T ids."""
        deadline = Deadline(seconds(timeout))
        ids = self._prompts.read(text, name="the text")
        sample = Sample(None, np.append(ids, np.int32(0)))  # whatever comes last is not read
        with self._engine.session(deadline, 1) as session:
            rows, config = session.max_rows, self._engine.config
            [found] = target_logits(session, config, [sample], None, budget=rows, deadline=deadline)
        return found

    @property
    def _positions(self) -> int:
        return self._engine.config.target_side()[0].max_positions

    def _judged(
        self, samples: list[Sample], budget: int, deadline: Deadline
    ) -> list[np.ndarray | Exception]:
        with self._engine.session(deadline, 1) as session:
            rows = min(budget, session.max_rows)
            return list(judged(session, self._engine.config, samples, None, budget=rows, deadline=deadline))

    def _score(self, sample: Sample, log_probs: np.ndarray | Exception) -> ScoreResult | Exception:
        if isinstance(log_probs, Exception):
            return log_probs
        assert sample.target is not None
        return score_result(sample.target[1:], log_probs, self._tokenizer, False)
