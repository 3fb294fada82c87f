"""Divergence of two models: its formula in one line of float64, and what it is of a model and itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from pyengine.errors import EngineError, InputError
from pyengine.quantize.measuring.divergence import divergence, line_divergences, mean_divergence, token_divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.quantize.vocabulary.trim import KeptTokens

from ...oracle.tiny import generation, model_config, random_sources, random_tensors

CONFIG = model_config()
TENSORS = random_tensors(CONFIG, 5, 0.2)
PAIRS = list(zip(random_sources(1, 20), random_sources(2, 20), strict=True))


def reader(tensors: dict[str, np.ndarray] = TENSORS) -> Reader:
    return Reader(in_memory_engine(CONFIG, generation(), tensors, threads=1))


def changed(std: float) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    return {name: (each + rng.normal(0, std, each.shape)).astype(np.float32) for name, each in TENSORS.items()}


def test_the_divergence_of_tokens_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(0, 3, (150, 1000)).astype(np.float32)  # more than two pieces
    rounded = exact + rng.normal(0, 0.01, exact.shape).astype(np.float32)
    p, q = (np.exp(logits.astype(np.float64)) for logits in (exact, rounded))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    assert np.abs(token_divergence(exact, rounded) - (p * np.log(p / q)).sum(axis=1)).max() < 1e-13
    assert not token_divergence(exact, exact).any()


def test_large_logits_do_not_overflow() -> None:
    exact, rounded = np.float32([[3e4, 0]]), np.float32([[0, 3e4]])
    assert token_divergence(exact, rounded) == pytest.approx([3e4])


def test_a_model_and_itself() -> None:
    found = divergence(reader(), reader(), PAIRS)
    assert (found.kl, found.top1, found.tokens) == (0.0, 1.0, sum(len(target) for _, target in PAIRS))


def test_two_models() -> None:
    exact, other = reader(), reader(changed(0.02))
    steps: list[tuple[int, int]] = []
    found = divergence(exact, other, PAIRS, lambda done, total: steps.append((done, total)))
    a, b = (np.concatenate(list(each.logits(PAIRS))) for each in (exact, other))
    assert found.kl == pytest.approx(token_divergence(a, b).mean(), rel=1e-12)
    assert found.top1 == (a.argmax(axis=1) == b.argmax(axis=1)).mean()
    assert found.kl > 0 and 0 < found.top1 <= 1
    assert divergence(exact, reader(changed(0.2)), PAIRS).kl > found.kl  # a tenfold change of weights
    assert steps == [(i + 1, 20) for i in range(20)]


def test_lines_and_their_means() -> None:
    exact, other = reader(), reader(changed(0.02))
    found = list(line_divergences(exact, other, PAIRS))
    for each, pair in zip(found, PAIRS, strict=True):
        (a,), (b,) = (one.logits([pair]) for one in (exact, other))
        assert each.kl.tolist() == token_divergence(a, b).tolist()
        assert each.same.tolist() == (a.argmax(axis=1) == b.argmax(axis=1)).tolist() and (each.kept == 1).all()
    assert mean_divergence(found) == divergence(exact, other, PAIRS)


class Given:
    """In a reader's place: these logits, whatever it is asked."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, text: object) -> Iterator[np.ndarray]:
        return iter([self._logits])


def test_ids_that_are_never_written_in_a_trimmed_model() -> None:
    """Among those that were kept, and among the others."""
    kept, pairs = KeptTokens(np.arange(6), np.array([0, 4, 2, 3])), [([0], [0])]
    exact = np.random.default_rng(0).normal(0, 2, (3, 6)).astype(np.float32)
    exact[:, [1, 4]] = -np.inf
    rounded = exact[:, kept.target] + np.float32(0.1)
    rounded[:, 0] += 1
    (found,) = line_divergences(Given(exact), Given(rounded), pairs, kept=kept)
    share = np.exp(exact[:, kept.target]).sum(axis=1) / np.exp(exact).sum(axis=1)
    np.testing.assert_allclose(found.kept, share, rtol=1e-6)
    assert found.kl.tolist() == token_divergence(exact[:, kept.target], rounded).tolist() and (found.kl > 0).all()
    exact[1, 5] = math.nan
    with pytest.raises(InputError, match="line 1: expected finite logits of the reference"):
        list(line_divergences(Given(exact), Given(rounded), pairs, kept=kept))
    exact[1, 5], rounded[2, 2] = 0, -np.inf
    with pytest.raises(InputError, match="line 1: expected finite logits of the other model"):
        list(line_divergences(Given(exact), Given(rounded), pairs, kept=kept))


def test_errors() -> None:
    with pytest.raises(InputError, match="a divergence needs text, found none"):
        divergence(reader(), reader(), [])
    broken = {**TENSORS, "output.bias": np.full(23, math.nan, np.float32)}
    with pytest.raises(EngineError, match="the normalizer of row 0 is"):
        divergence(reader(), reader(broken), PAIRS)
    broken["output.bias"] = np.where(np.arange(23) == 5, -np.inf, TENSORS["output.bias"]).astype(np.float32)
    with pytest.raises(InputError, match="line 1: expected finite logits of the other model"):
        divergence(reader(), reader(broken), PAIRS)
