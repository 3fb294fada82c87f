"""What an encoder with a decoder does with any text: writes what its decoder makes of it, or judges what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pyengine.arguments import flag, whole
from pyengine.decoding.search import Process
from pyengine.errors import InputError, OptionError
from pyengine.options import GenerationKeywords, GenerationOptions, SearchOptions
from pyengine.options.listing import lists_options
from pyengine.results import GenerationResult, Piece, ScoreResult
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request
from pyengine.shortlist import Shortlist
from pyengine.tasks.author import Author, How
from pyengine.tasks.continuations import Asked
from pyengine.tasks.engine import Engine
from pyengine.tasks.forcing import judged, target_logits
from pyengine.tasks.inputs import Inputs, Sample, Sentence, Sentences, is_one, seconds
from pyengine.tasks.opinions import score_result
from pyengine.tasks.outcomes import all_answered, answered
from pyengine.tasks.task import BATCH_TOKENS
from pyengine.text import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Transducer"]


class Transducer(Author):
    """The part of a `Translator` that asks for no languages.

    Keywords of `generate` and `stream` beside those of a search:

    stop       strings that end a text, before they are in it; they may lie across tokens
    processor  a function of yours, given int32 ids from the start token on and float64 logits [vocab], which returns
               those that take their place; after all other processors, and slow
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer | None,
        about: dict[str, object],
        shortlist: Shortlist | None = None,
    ) -> None:
        super().__init__(engine, tokenizer, about)
        self._tokenizer = tokenizer
        self._shortlist = shortlist
        self._replicas = engine.replicas
        generation = engine.generation
        self._inputs = Inputs(engine.config, generation.eos_token_id, tokenizer, generation.pad_token_id)

    @overload
    def generate(
        self,
        source: Sentence,
        *,
        stop: str | Sequence[str] = ...,
        processor: Process | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        source: Sentences,
        *,
        stop: str | Sequence[str] = ...,
        processor: Process | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | Sequence[GenerationOptions] | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> list[GenerationResult]: ...

    @lists_options(prompted=False)
    def generate(
        self,
        source: Any,
        *,
        stop: str | Sequence[str] = (),
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | Sequence[GenerationOptions] | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Any:
        """What the model writes of a text, or of each of a list: a GenerationResult, or a list of them.

        A text is read as it is, with what the tokenizer adds to each: what a task begins with, such as "summarize: ",
        is the caller's to write (`info` has those that the checkpoint names). An empty text is read like any other.
        """
        deadline = Deadline(seconds(timeout))
        how, budget = self._how(stop, processor, truncate), whole("max_batch_tokens", max_batch_tokens, 1)
        one = is_one(source)
        sources = [source] if one else source
        settled = self._settled(options, keywords, len(sources), one)
        asked = []
        for number, (each, own) in enumerate(zip(sources, settled, strict=True), 1):
            deadline.check()
            asked.append(self._writing(each, own, how, "the input" if one else f"input {number}"))
        results = self._run(asked, budget, deadline)
        return answered(results[0]) if one else all_answered(results)

    @lists_options(prompted=False)
    def stream(
        self,
        source: Sentence,
        *,
        stop: str | Sequence[str] = (),
        processor: Process | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Iterator[Piece]:
        """What `generate` gives of a text, piece by piece as it is written; the last one has the result.

        Leaving the loop, or closing the iterator, cancels the request. Until then it holds a session.
        """
        how = self._how(stop, processor, truncate)
        budget, limit = whole("max_batch_tokens", max_batch_tokens, 1), seconds(timeout)
        if not is_one(source):
            raise InputError("stream takes one text, found a list of them")
        return self._stream(self._writing(source, self._settle(options, keywords), how, "the input"), budget, limit)

    @overload
    def score(
        self,
        source: Sentence,
        target: Sentence,
        *,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
    ) -> ScoreResult: ...
    @overload
    def score(
        self,
        source: Sentences,
        target: Sentences,
        *,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
    ) -> list[ScoreResult]: ...

    def score(
        self,
        source: Any,
        target: Any,
        *,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Log-probabilities of given targets, end token included: a ScoreResult, or a list of them for lists.

        `truncate` is for sources; a target longer than the model's positions is an InputError.
        """
        deadline = Deadline(seconds(timeout))
        budget, truncate = whole("max_batch_tokens", max_batch_tokens, 1), flag("truncate", truncate)
        one = is_one(source)
        sources, targets = ([source], [target]) if one else (source, target)
        pairs, cut = self._inputs.pairs(sources, targets, truncate=truncate, one=one, deadline=deadline)
        with self._engine.session(deadline, 1) as session:
            start = self._engine.generation.decoder_start_token_id
            rows = min(budget, session.max_rows)
            outcomes = list(judged(session, self._engine.config, pairs, start, budget=rows, deadline=deadline))
        asked = [target for _, target in pairs if target is not None]
        results = [self._score(*each) for each in zip(asked, outcomes, cut, strict=True)]
        return answered(results[0]) if one else all_answered(results)

    def logits(self, source: Sentence, target: Sentence, *, timeout: float | None = None) -> np.ndarray:
        """float32 [T, vocab]: raw logits before each of the T tokens of `target` and its end token."""
        deadline = Deadline(seconds(timeout))
        pair = Sample(self._inputs.forced(source, truncate=False).ids, self._inputs.target(target))
        [logits] = self._logits_stream([pair], 1, deadline)
        return logits

    def logits_iter(
        self, sources: Sentences, targets: Sentences, *, max_batch_tokens: int = BATCH_TOKENS
    ) -> Iterator[np.ndarray]:
        """What `logits` returns of each source and its target, several in a step."""
        deadline = Deadline()
        budget = whole("max_batch_tokens", max_batch_tokens, 1)
        pairs, _ = self._inputs.pairs(sources, targets, truncate=False, one=False, deadline=deadline)
        return self._logits_stream(pairs, budget, deadline)

    def _logits_stream(
        self, pairs: list[Sample], budget: int, deadline: Deadline
    ) -> Iterator[np.ndarray]:
        start = self._engine.generation.decoder_start_token_id
        with self._engine.session(deadline, 1) as session:
            rows = min(budget, session.max_rows)
            yield from target_logits(session, self._engine.config, pairs, start, budget=rows, deadline=deadline)

    def _score(
        self, ids: np.ndarray, log_probs: np.ndarray | Exception, truncated: bool
    ) -> ScoreResult | Exception:
        if isinstance(log_probs, Exception):
            return log_probs
        return score_result(ids, log_probs, self._tokenizer, truncated)

    def _resolve(self, asked: GenerationOptions, spelled: tuple[tuple[str, str], ...]) -> SearchOptions:
        if asked.echo:
            message = "echo is True; expected False: it is for language models, which go on with a prompt"
            raise OptionError(message, keywords=("echo",))
        return super()._resolve(asked, spelled)

    def _writing(self, source: Sentence, settled: SearchOptions, how: How, name: str) -> Asked:
        settled.check_lengths(1)
        read = self._inputs.read(source, truncate=how.truncate, name=name)
        return self._asked(read.ids, np.array([settled.start], np.int32), read.truncated, settled, how)

    def _allowed(self, requests: Iterable[Request]) -> Callable[[np.ndarray], np.ndarray] | None:
        if self._shortlist is None:
            return None
        return self._shortlist.lists(frozenset(id for each in requests for id in each.options.always))
