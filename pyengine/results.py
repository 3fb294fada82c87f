"""What the tasks return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyengine.errors import UnsupportedError

__all__ = [
    "Best",
    "Decoded",
    "Echo",
    "FileResult",
    "GenerationResult",
    "Hypothesis",
    "Piece",
    "ScoreResult",
    "TranslationResult",
    "Trial",
    "Usage",
]


@dataclass(frozen=True)
class Decoded:
    """What a tokenizer makes of ids: a text, and the pieces that they stand for."""

    text: str
    tokens: tuple[str, ...]


FinishReason = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Best:
    """The best tokens at a place, best first, as (id, log-probability): by the model alone, and of what processors and
    filters left of its distribution.
    """

    before: tuple[tuple[int, float], ...]
    after: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Hypothesis:
    """One translation of a sentence, or continuation of a prompt.

    ids            of a translation: target ids, a target prefix among them, without start token; of a continuation: the
                   new ones. Both without the end token
    score          sum of the log-probabilities of the tokens after the prefix or prompt, the end token among them, over
                   their number to the length penalty
    finish_reason  "end": the model wrote an end token; "stop": a stop string; "length": the maximum length cut it, or
                   the context was full
    truncated      whether the source or prompt was cut to fit the model
    decoded        its text and tokens; None where the model has no tokenizer. The text ends before a stop string, whose
                   tokens are among the others
    log_probs      the model's own log-probability of each new token, the end token among them; None from beam search
    best           the `logprobs` best tokens at each of these, if they were asked for
    """

    ids: tuple[int, ...]
    score: float
    finish_reason: FinishReason
    truncated: bool
    decoded: Decoded | None
    log_probs: tuple[float, ...] | None = None
    best: tuple[Best, ...] | None = None

    @property
    def text(self) -> str:
        """UnsupportedError where the model has no tokenizer."""
        return self._decoded().text

    @property
    def tokens(self) -> tuple[str, ...]:
        """The pieces of `ids`. UnsupportedError where the model has no tokenizer."""
        return self._decoded().tokens

    def _decoded(self) -> Decoded:
        if self.decoded is None:
            raise UnsupportedError("the model has no tokenizer: a result has .ids, but no .text and no .tokens")
        return self.decoded


@dataclass(frozen=True)
class _Hypotheses:
    """Hypotheses, best first; at least one. The other attributes are the best one's."""

    hypotheses: tuple[Hypothesis, ...]

    @property
    def text(self) -> str:
        """UnsupportedError where the model has no tokenizer."""
        return self.hypotheses[0].text

    @property
    def tokens(self) -> tuple[str, ...]:
        """UnsupportedError where the model has no tokenizer."""
        return self.hypotheses[0].tokens

    @property
    def ids(self) -> tuple[int, ...]:
        return self.hypotheses[0].ids

    @property
    def score(self) -> float:
        return self.hypotheses[0].score

    @property
    def finish_reason(self) -> FinishReason:
        return self.hypotheses[0].finish_reason

    @property
    def truncated(self) -> bool:
        return self.hypotheses[0].truncated


@dataclass(frozen=True)
class TranslationResult(_Hypotheses):
    """The hypotheses of a sentence, best first; at least one. The other attributes are the best one's.

    There are fewer than asked for where the search found fewer.
    """


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written: of the prompt as the model read it, and of all hypotheses, their end tokens
    left out.
    """

    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Echo:
    """A prompt as the model read it.

    decoded    its text and tokens; None where the model has no tokenizer
    log_probs  the model's own log-probability of each token but the first, which nothing comes before; None without
               `logprobs`
    best       the `logprobs` best tokens at each of these places, best first, as (id, log-probability)
    """

    ids: tuple[int, ...]
    decoded: Decoded | None
    log_probs: tuple[float, ...] | None = None
    best: tuple[tuple[tuple[int, float], ...], ...] | None = None


@dataclass(frozen=True)
class GenerationResult(_Hypotheses):
    """How a prompt goes on: hypotheses of beam search best first, samples as they were drawn; at least one. The other
    attributes are the first one's.

    prompt  what went on, with `echo`: then texts begin with its text; ids and tokens are the new ones all the same
    """

    usage: Usage
    prompt: Echo | None = None


@dataclass(frozen=True)
class Piece:
    """What `stream` gives after a step: the new ids, and the whole characters that they complete.

    A text that may be the beginning of a stop string comes when it is none. The last piece has the `result`: its text
    is that of all pieces, and so are its ids.
    """

    text: str
    ids: tuple[int, ...]
    result: GenerationResult | None = None


@dataclass(frozen=True)
class ScoreResult:
    """How probable the model finds a given text.

    ids        of a translation: the target's ids and the end token. Of a text: its ids; without the first where the
               model has no start token to read before it
    tokens     their pieces; None where the model has no tokenizer
    log_probs  the natural logarithm of each one's probability, given the source and the ones before it
    total      their sum
    truncated  whether the source was cut to fit the model
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...] | None
    log_probs: tuple[float, ...]
    total: float
    truncated: bool


@dataclass(frozen=True)
class Trial:
    """A way to use the threads: `replicas` streams of `threads` each, and what it reached at its best."""

    replicas: int
    threads: int
    tokens_a_second: float


@dataclass(frozen=True)
class FileResult:
    """What `translate_file` did, tokens being those written, and how: `replicas` streams of `threads` each.

    trials: the ways that were measured on the file's first lines; a short file may not come to all of them.
    """

    lines: int
    tokens: int
    seconds: float
    replicas: int
    threads: int
    trials: tuple[Trial, ...]
