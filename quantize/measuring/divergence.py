"""How far a model's next-token distributions are from another's, over given targets; and what encoders alone give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyengine.errors import InputError

if TYPE_CHECKING:
    from pyengine.quantize.measuring.reading import Reader
    from pyengine.quantize.seeing.text import Line, Text
    from pyengine.quantize.vocabulary.trim import KeptTokens

__all__ = [
    "Divergence",
    "LineDivergence",
    "StateError",
    "divergence",
    "line_divergences",
    "mean_divergence",
    "state_error",
    "token_divergence",
]

_ROWS = 64  # distributions held in float64 at a time


@dataclass(frozen=True)
class Divergence:
    """Means over ``tokens`` places of the targets, end tokens included.

    kl    sum p (ln p - ln q), p the reference's next-token distribution and q the other's
    top1  share of places at which both find the same token likeliest
    kept  probability that the reference gives to tokens that the other has
    """

    kl: float
    top1: float
    tokens: int
    kept: float = 1.0


@dataclass(frozen=True, eq=False)
class LineDivergence:
    """What ``Divergence`` has the means of, at each place of a target: float64, bool and float64 [T]."""

    kl: np.ndarray
    same: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class StateError:
    """Of what the encoder of another model gives, over ``tokens``: sum |y' - y|^2 / sum |y|^2, and the mean cosine."""

    error: float
    cosine: float
    tokens: int


def token_divergence(exact: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """float64 [T]: KL divergence of the distributions of logits float32 [T, vocab], ``exact`` the true ones."""
    found = np.empty(len(exact))
    for start in range(0, len(exact), _ROWS):
        (x, p, ln_p), (y, _, ln_q) = (_shifted(each[start : start + _ROWS]) for each in (exact, rounded))
        p /= np.exp(ln_p)[:, None]
        # Of what has no probability nothing is expected, whatever the other makes of it.
        difference = np.subtract(x, y, out=np.zeros_like(x), where=x > -np.inf)
        found[start : start + _ROWS] = np.einsum("tv,tv->t", p, difference) + (ln_q - ln_p)
    return found


def _shifted(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [t, vocab] less their largest, e to these, and ln of the sum of that [t], in float64."""
    shifted = np.subtract(logits, logits.max(axis=1, keepdims=True), dtype=np.float64)
    powers = np.exp(shifted)
    return shifted, powers, np.log(powers.sum(axis=1))


def _require_finite(logits: np.ndarray, never: np.ndarray, expected: str) -> None:
    """Raise InputError unless all are finite; on the mask ``never``, minus infinity will do."""
    if not (np.isfinite(logits) | (never & np.isneginf(logits))).all():
        raise InputError(f"{expected}, found others")


def _share(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """float64 [T]: the probability of all ``ids`` together, by logits float32 [T, vocab]."""
    found = np.empty(len(logits))
    for start in range(0, len(logits), _ROWS):
        _, powers, ln_sum = _shifted(logits[start : start + _ROWS])
        found[start : start + _ROWS] = powers[:, ids].sum(axis=1) / np.exp(ln_sum)
    return found


def divergence(
    reference: Reader,
    other: Reader,
    text: Text,
    progress: Callable[[int, int], None] | None = None,
    *,
    kept: KeptTokens | None = None,
) -> Divergence:
    """The means of ``line_divergences``, whose arguments and errors these are.

    ``progress`` is told the lines done and their number.
    """
    found = []
    for each in line_divergences(reference, other, text, kept=kept):
        found.append(each)
        if progress:
            progress(len(found), len(text))
    return mean_divergence(found)


def mean_divergence(found: Sequence[LineDivergence]) -> Divergence:
    """Over all places of one line at least."""
    tokens = sum(len(each.kl) for each in found)
    total = sum(float(each.kl.sum()) for each in found)
    same = sum(int(each.same.sum()) for each in found)
    return Divergence(total / tokens, same / tokens, tokens, sum(float(each.kept.sum()) for each in found) / tokens)


def line_divergences(
    reference: Reader, other: Reader, text: Text, *, kept: KeptTokens | None = None
) -> Iterator[LineDivergence]:
    """Run both over the targets of ``text`` (source, target), each token given those before it.

    ``kept``: the other model has these tokens of the reference only. The text is then the reference's ids, all of them
    kept, and the reference's distribution is that of the kept tokens, its share of the others put aside.
    Raises InputError if there is no text, or if a model's logits are not finite.
    """
    if not text:
        raise InputError("a divergence needs text, found none")
    theirs = text if kept is None else [kept.renumbered(*_ids(line)) for line in text]
    runs = (reader.logits(each) for reader, each in ((reference, text), (other, theirs)))
    for number, (exact, rounded) in enumerate(zip(*runs, strict=True), 1):
        # Minus infinity is fine where the bias is that: of what is never written, by either.
        _require_finite(exact, np.isneginf(exact), f"line {number}: expected finite logits of the reference")
        share = np.ones(len(exact)) if kept is None else _share(exact, kept.target)
        if kept is not None:
            exact = exact[:, kept.target]
        _require_finite(rounded, np.isneginf(exact), f"line {number}: expected finite logits of the other model")
        same = exact.argmax(axis=1) == rounded.argmax(axis=1)
        yield LineDivergence(token_divergence(exact, rounded), same, share)


def _ids(line: Line) -> tuple[np.ndarray | None, np.ndarray | None]:
    source, target = (None if side is None else np.asarray(side) for side in line)
    return source, target


def state_error(reference: Reader, other: Reader, text: Text) -> StateError:
    """Run the encoders of two models without a decoder over ``text``, and compare what they give.

    Raises InputError if there is no text, or if a state is not finite.
    """
    if not text:
        raise InputError("a comparison needs text, found none")
    noise = signal = cosines = 0.0
    tokens = 0
    for number, states in enumerate(zip(reference.states(text), other.states(text), strict=True), 1):
        exact, found = (each.astype(np.float64) for each in states)
        for each, whose in ((exact, "the reference"), (found, "the other model")):
            _require_finite(each, np.zeros(each.shape, bool), f"line {number}: expected finite states of {whose}")
        lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
        products = np.einsum("tc,tc->t", exact, found)
        cosines += float(np.divide(products, lengths, out=np.zeros(len(exact)), where=lengths > 0).sum())
        noise += float(np.square(found - exact).sum())
        signal += float(np.square(exact).sum())
        tokens += len(exact)
    return StateError(noise / (signal or 1.0), cosines / tokens, tokens)
