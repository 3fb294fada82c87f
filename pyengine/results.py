"""What the tasks return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyengine.errors import UnsupportedError

__all__ = ["Decoded", "FileResult", "Hypothesis", "ScoreResult", "TranslationResult", "Trial"]


@dataclass(frozen=True)
class Decoded:
    """What a tokenizer makes of ids: a text, and the pieces that they stand for."""

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence.

    ids            target ids, a target prefix among them, without start and end token
    score          sum of the log-probabilities of the tokens after the prefix, the end token among them, over
                   their number to the length penalty
    finish_reason  "end": the model wrote the end token; "length": the maximum length cut it
    truncated      whether the source was cut to fit the model
    decoded        its text and tokens; None where the model has no tokenizer
    """

    ids: tuple[int, ...]
    score: float
    finish_reason: Literal["end", "length"]
    truncated: bool
    decoded: Decoded | None

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
class TranslationResult:
    """The hypotheses of a sentence, best first; at least one. The other attributes are the best one's.

    There are fewer than asked for where the search found fewer.
    """

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
    def finish_reason(self) -> Literal["end", "length"]:
        return self.hypotheses[0].finish_reason

    @property
    def truncated(self) -> bool:
        return self.hypotheses[0].truncated


@dataclass(frozen=True)
class ScoreResult:
    """How probable the model finds a given target.

    ids        the target's ids and the end token
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
