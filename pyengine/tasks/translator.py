"""Translation: the task around an encoder-decoder model.

>>> import pyengine
>>> translator = pyengine.load("de-en-int8", threads=2)
>>> result = translator.translate("Ein Mann fährt Fahrrad.", beam_size=4, num_hypotheses=2)
>>> result.text, [hypothesis.score for hypothesis in result.hypotheses]
>>> for result in translator.translate_iter(open("big.txt")):
...     print(result.text)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pyengine.arguments import flag, whole
from pyengine.canonical import ModelConfig
from pyengine.decoding.search import Found
from pyengine.errors import InputError, OptionError
from pyengine.formats.strict_json import shorten
from pyengine.options import GenerationKeywords, GenerationOptions, SearchOptions
from pyengine.options.listing import lists_options
from pyengine.output import Target
from pyengine.plan import NO_IDS
from pyengine.results import Decoded, FileResult, Hypothesis, TranslationResult
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Outcome, Request
from pyengine.tasks.files import text_line, translate_lines
from pyengine.tasks.hints import hint, warn
from pyengine.tasks.inputs import Sentence, Sentences, is_one, prefixes, seconds
from pyengine.tasks.opinions import opinions
from pyengine.tasks.outcomes import all_answered, answered
from pyengine.tasks.task import BATCH_TOKENS
from pyengine.tasks.transducer import Transducer
from pyengine.text import MultilingualTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Translator"]

WINDOW = 1024
"""Sentences that `translate_iter` reads ahead at a time, to run the longest of them first."""


@dataclass(frozen=True, eq=False)
class _Way:
    """From which language into which. source: a code, None: nothing is said; settled: with what tells the target;
    first: int32 ids that a target begins with where it has a prefix."""

    source: str | None
    settled: SearchOptions
    first: np.ndarray


class Translator(Transducer):
    """A loaded model; `loading.load` makes one. May be used from several threads at once, and as a context manager.

    A sentence is a text, or a list or array of token ids in its place: source ids as the encoder reads them,
    end token included; target ids without start token. One sentence in gives one result, a list of sentences
    gives a list of results in the same order. A result never depends on the sentences around it.

    Search options are keywords, named as in transformers or CTranslate2 (the help of `translate` lists them), or
    one `options=GenerationOptions(...)`. Other keywords of several methods:

    source, target    codes of the languages of a model that is told them: "eng_Latn". Texts without a source are in the
                      one that the tokenizer takes them for; a target has to be said, unless the checkpoint says it
    target_prefix     what every hypothesis begins with
    max_batch_tokens  rows of a step, encoder and decoder together
    truncate          cut an input that is longer than the model's positions, instead of an InputError
    timeout           seconds after which the call ends in a DeadlineError, checked between steps; time that
                      the caller of translate_iter takes between two results does not count

    A text with line breaks, or with more sentences than its translation, is worth a warning (`warnings`), one a call.
    """

    purpose = "translate with, an encoder and a decoder (pyengine translate, Translator.translate)"

    @classmethod
    def fits(cls, config: ModelConfig) -> bool:
        return config.encoder is not None and config.decoder is not None

    @overload
    def translate(
        self,
        sentence: Sentence,
        /,
        *,
        source: str | None = ...,
        target: str | None = ...,
        target_prefix: Sentence | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> TranslationResult: ...
    @overload
    def translate(
        self,
        sentence: Sentences,
        /,
        *,
        source: str | None = ...,
        target: str | None = ...,
        target_prefix: Sequence[Sentence | None] | None = ...,
        max_batch_tokens: int = ...,
        truncate: bool = ...,
        timeout: float | None = ...,
        options: GenerationOptions | None = ...,
        **keywords: Unpack[GenerationKeywords],
    ) -> list[TranslationResult]: ...

    @lists_options(prompted=False)
    def translate(
        self,
        sentence: Any,
        /,
        *,
        source: str | None = None,
        target: str | None = None,
        target_prefix: Any = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Any:
        """Translate one sentence or a list of them: a TranslationResult, or a list of them.

        target_prefix: what every hypothesis begins with: one, or for a list of sentences a list with one or
        None for each. As in transformers, it is part of the output but neither of the score nor of its
        length. An empty text has one hypothesis, empty, with score 0.
        """
        deadline = Deadline(seconds(timeout))
        settled = self._settle(options, keywords)
        budget, truncate = whole("max_batch_tokens", max_batch_tokens, 1), flag("truncate", truncate)
        way = self._way(source, target, settled)
        one = is_one(sentence, " (see translate_iter)")
        sentences = [sentence] if one else sentence
        given = prefixes(target_prefix, sentences, one)
        requests, cut = [], []
        for number, (each, prefix) in enumerate(zip(sentences, given, strict=True)):
            deadline.check()
            name = "the input" if one else f"input {number + 1}"
            read = self._inputs.source(each, truncate=truncate, name=name, language=way.source)
            requests.append(self._request(read.ids, self._inputs.prefix(prefix), way, name))
            cut.append(read.truncated)
        replicas = min(self._replicas, max(1, len(requests)))
        with self._translations(requests, way.settled, budget, deadline, replicas) as found:
            outcomes = [self._outcome(*each) for each in zip(requests, found, cut, strict=True)]
        results = [answered(outcomes[0])] if one else all_answered(outcomes)
        warn(hint(zip(sentences, results, strict=True)))
        return results[0] if one else results

    @lists_options(prompted=False)
    def translate_iter(
        self,
        sources: Iterable[Sentence],
        *,
        source: str | None = None,
        target: str | None = None,
        target_prefix: Sentence | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> Iterator[TranslationResult]:
        """Translate any number of sentences in constant memory; results come in order.

        Reads `sources` lazily, a window of sentences ahead; line ends of texts are stripped. `target_prefix`
        is for all of them. An error in a sentence is raised after the results of the sentences before it;
        closing the iterator cancels what is under way.
        """
        if isinstance(sources, (str, bytes)):
            raise InputError(
                f"translate_iter takes any number of sentences, found one {type(sources).__name__}"
            )
        try:
            iterator = iter(sources)
        except TypeError:
            raise InputError(
                f"translate_iter takes any number of sentences, found {type(sources).__name__}"
            ) from None
        settled = self._settle(options, keywords)
        budget, truncate = whole("max_batch_tokens", max_batch_tokens, 1), flag("truncate", truncate)
        prefix = self._inputs.prefix(target_prefix)
        settled.check_lengths(len(prefix) + 1)
        way, limit = self._way(source, target, settled), seconds(timeout)
        return self._translated(iterator, way, prefix, budget, truncate, limit)

    def _translated(
        self,
        sources: Iterator[Sentence],
        way: _Way,
        prefix: np.ndarray,
        budget: int,
        truncate: bool,
        limit: float | None,
    ) -> Iterator[TranslationResult]:
        deadline = Deadline(limit)
        begun: deque[tuple[Sentence, Request, bool]] = deque()  # and whether it was cut
        said = None

        def requests() -> Iterator[Request]:
            for number, sentence in enumerate(sources):
                deadline.check()
                text = sentence.rstrip("\r\n") if isinstance(sentence, str) else sentence
                name = f"input {number + 1}"
                read = self._inputs.source(text, truncate=truncate, name=name, language=way.source)
                request = self._request(read.ids, prefix, way, name)
                begun.append((text, request, read.truncated))
                yield request

        with self._translations(requests(), way.settled, budget, deadline, self._replicas, WINDOW) as found:
            for each in found:
                text, request, truncated = begun.popleft()
                result = answered(self._outcome(request, each, truncated))
                if not said:
                    warn(said := hint([(text, result)]))
                with deadline.held():
                    yield result

    @lists_options(prompted=False)
    def translate_file(
        self,
        path: str | Path,
        output: Target,
        /,
        *,
        source: str | None = None,
        target: str | None = None,
        overwrite: bool = False,
        render: Callable[[int, TranslationResult], str] = text_line,
        target_prefix: Sentence | None = None,
        max_batch_tokens: int = BATCH_TOKENS,
        truncate: bool = False,
        timeout: float | None = None,
        options: GenerationOptions | None = None,
        **keywords: Unpack[GenerationKeywords],
    ) -> FileResult:
        """Translate a UTF-8 file, a sentence a line, into another; it appears when it is complete.

        `render` makes of a line's number and its result what is written of it, without a line end; by default the best
        text in one line. `target_prefix` is for all lines.

        Runs in one stream with all threads or in a stream a thread, whichever is faster on the first lines; the
        result says which. A link is followed, and what is replaced keeps its mode. An `output` that is a binary file,
        open already, gets lines as they are done. Raises InputError; OptionError if `output` exists, unless it is a
        regular file and `overwrite` is given; OutputError if it cannot be written.
        """
        deadline = Deadline(seconds(timeout))
        settled = self._settle(options, keywords)
        budget, truncate = whole("max_batch_tokens", max_batch_tokens, 1), flag("truncate", truncate)
        overwrite = flag("overwrite", overwrite)
        prefix, way = self._inputs.prefix(target_prefix), self._way(source, target, settled)
        said: list[str | None] = [None]

        def translate(first: int, lines: list[str], replicas: int) -> list[TranslationResult]:
            requests, cut = [], []
            for number, line in enumerate(lines, first):
                deadline.check()
                name = f"line {number} of {path}"
                read = self._inputs.source(line, truncate=truncate, name=name, language=way.source)
                requests.append(self._request(read.ids, prefix, way, f"line {number}"))
                cut.append(read.truncated)
            with self._translations(requests, way.settled, budget, deadline, replicas) as found:
                results = [answered(self._outcome(*each)) for each in zip(requests, found, cut, strict=True)]
            said[0] = said[0] or hint(zip(lines, results, strict=True))
            return results

        ways = sorted({1, self._engine.threads})
        done = translate_lines(
            Path(path), output, translate, render, ways=ways, threads=self._engine.threads, overwrite=overwrite
        )
        warn(said[0])
        return done

    def _translations(
        self,
        requests: Iterable[Request],
        settled: SearchOptions,
        budget: int,
        deadline: Deadline,
        replicas: int,
        window: int | None = None,
    ) -> AbstractContextManager[Iterator[Outcome]]:
        allowed = None if self._shortlist is None else self._shortlist.lists(settled.always)
        return self._searching(requests, budget, deadline, replicas, window, allowed)

    def _way(self, source: str | None, target: str | None, settled: SearchOptions) -> _Way:
        """OptionError: no such language, none of a target, or a model that is told none."""
        if not isinstance(self._tokenizer, MultilingualTokenizer):
            for name, code in (("source", source), ("target", target)):
                if code is not None:
                    raise OptionError(f"{name} is {shorten(code)}; {self._no_languages()}", keywords=(name,))
            return _Way(None, settled, NO_IDS)
        languages = self._tokenizer.languages
        if source is not None:
            languages.id(source, "source")
        if target is None:
            own = settled.start if languages.starts else settled.forced_bos_token_id
            if own in languages:
                return _Way(source, settled, NO_IDS if languages.starts else np.array([own], np.int32))
            few, count = ", ".join(languages.codes[:5]), len(languages.codes)
            message = f"target is not given; expected the code of one of {count} languages, such as {few}"
            raise OptionError(message, keywords=("target",))
        id = languages.id(target, "target")
        if languages.starts:
            return _Way(source, replace(settled, start=id), NO_IDS)
        return _Way(source, replace(settled, forced_bos_token_id=id), np.array([id], np.int32))

    def _no_languages(self) -> str:
        prefixes = self._engine.generation.prefixes.values()
        said = f"; texts begin with their task: {', '.join(map(repr, prefixes))}" if prefixes else ""
        return f"expected none: the model is told no languages{said}"

    def _request(self, source: np.ndarray, prefix: np.ndarray, way: _Way, name: str) -> Request:
        settled = way.settled
        if len(prefix):  # what forces the first token forces no other
            prefix = np.concatenate([way.first, prefix])
        prompt = len(prefix) + 1
        longest = settled.length_limits(prompt)[1]
        if prompt >= longest:
            raise InputError(
                f"target_prefix of {name} has {len(prefix)} tokens; hypotheses may have {longest - 1} in all",
                keywords=("target_prefix",),
            )
        settled.check_lengths(prompt)
        start = np.array([settled.start], np.int32)
        return Request(source, np.concatenate([start, prefix]) if len(prefix) else start, settled)

    def _outcome(self, request: Request, found: Outcome, truncated: bool) -> TranslationResult | Exception:
        if isinstance(found, Exception):
            return found
        prefix = request.prompt[1:].tolist() if request.source is not None and len(request.source) else []
        return TranslationResult(tuple(self._hypothesis(prefix, each, truncated) for each in found))

    def _hypothesis(self, prefix: list[int], found: Found, truncated: bool) -> Hypothesis:
        ids = prefix + found.ids.tolist()
        if ids and ids[-1] in self._engine.generation.eos_token_id:
            ids.pop()
        words = self._tokenizer
        return Hypothesis(
            ids=tuple(ids),
            score=found.score,
            finish_reason=found.finish,
            truncated=truncated,
            decoded=None if words is None else Decoded(words.decode(ids), tuple(words.pieces(ids))),
            **opinions(found),
        )
