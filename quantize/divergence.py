"""How far a model's next-token distributions are from another's, over given translations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyengine.errors import InputError

if TYPE_CHECKING:
    from pyengine.tasks.inputs import Sentence
    from pyengine.tasks.translator import Translator

__all__ = ["Divergence", "divergence", "token_divergence"]

_ROWS = 64  # distributions held in float64 at a time


@dataclass(frozen=True)
class Divergence:
    """Means over ``tokens`` places of the targets, end tokens included.

    kl    sum p (ln p - ln q), p the reference's next-token distribution and q the other's
    top1  share of places at which both find the same token likeliest
    """

    kl: float
    top1: float
    tokens: int


def token_divergence(exact: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """float64 [T]: KL divergence of the distributions of logits float32 [T, vocab], ``exact`` the true ones."""
    found = np.empty(len(exact))
    for start in range(0, len(exact), _ROWS):
        piece = slice(start, start + _ROWS)
        p, q = _log_softmax(exact[piece]), _log_softmax(rounded[piece])
        found[piece] = np.einsum("tv,tv->t", np.exp(p), p - q)
    return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def divergence(
    reference: Translator,
    other: Translator,
    pairs: Sequence[tuple[Sentence, Sentence]],
    progress: Callable[[int, int], None] | None = None,
) -> Divergence:
    """Run both over the targets of ``pairs`` (source, target), each token given those before it.

    ``progress`` is told the pairs done and their number. Raises InputError if there are none, or if a model's logits
    are not finite.
    """
    if not pairs:
        raise InputError("a divergence needs sentences, found none")
    total, agreed, tokens = 0.0, 0, 0
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    found = zip(reference.logits_iter(sources, targets), other.logits_iter(sources, targets), strict=True)
    for number, (exact, rounded) in enumerate(found, 1):
        for which, logits in (("reference", exact), ("other model", rounded)):
            if not np.isfinite(logits).all():
                raise InputError(f"pair {number}: expected finite logits of the {which}, found others")
        total += float(token_divergence(exact, rounded).sum())
        agreed += int((exact.argmax(axis=1) == rounded.argmax(axis=1)).sum())
        tokens += len(exact)
        if progress:
            progress(number, len(pairs))
    return Divergence(total / tokens, agreed / tokens, tokens)
