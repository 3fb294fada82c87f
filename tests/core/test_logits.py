"""Candidates, excluded ids and the normaliser, on models whose logits are known: weights of 0, so only the bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest


from .models import TinyModel, make_plan, new_session, step

from pyengine.plan import StepResult

UNIT = 2.0**-24
VOCABULARIES = (1, 2, 15, 16, 17, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 3000)  # chunks of 1024


def session_of(logits: np.ndarray, weights: str = "float32", threads: int = 2):
    """A session whose every row has these logits, exactly."""
    n = len(logits)
    tiny = TinyModel.random(weights, seed=1, target_vocab=n, source_vocab=5, share_embeddings=False, tie_output=False)
    packed = dict(tiny.packed)
    zeros = {name: np.zeros_like(packed[name]) for name in packed if name in ("output.weight", "output.scale")}
    bias = packed["output.bias"].copy()
    bias[:n] = logits
    model = TinyModel(tiny.config, weights, packed | zeros | {"output.bias": bias}, tiny.floats)
    return new_session(model.core(weights), threads=threads)


def answer(session, rows: int = 1, **options: object) -> StepResult:
    session.clear()
    return step(session, sources={0: [1, 2]}, rows=[(0, 0, [0] * rows)], **options)


def best(logits: np.ndarray, k: int, excluded: Sequence[int] = ()) -> np.ndarray:
    """Ids in the order of the contract."""
    allowed = np.setdiff1d(np.arange(len(logits)), np.array(excluded, int))
    order = allowed[np.lexsort((allowed, -logits[allowed].astype(np.float64)))][:k]
    return np.concatenate([order, np.full(k - len(order), -1)])


def random_logits(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + n).normal(-3, 4, n).astype(np.float32)


@pytest.mark.parametrize("weights", ["float32", "int8"])
@pytest.mark.parametrize("n", VOCABULARIES)
def test_candidates(n: int, weights: str) -> None:
    logits = random_logits(n)
    session = session_of(logits, weights)
    for k in (0, 1, 2, 5, 40):
        result = answer(session, rows=3, top_k=k, full_logits=True)
        expected = best(logits, k)
        assert result.top_ids.shape == result.top_logits.shape == (3, k)
        for row in range(3):
            np.testing.assert_array_equal(result.top_ids[row], expected)
            values = np.where(expected >= 0, logits[expected], -np.inf)
            np.testing.assert_array_equal(result.top_logits[row], values)
            np.testing.assert_array_equal(result.logits[row], logits)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("n", [1, 17, 1025, 3000])
def test_ties_go_to_the_lower_id(n: int, threads: int) -> None:
    """Few values for many ids; the threads take chunks in any order, so several times."""
    logits = np.random.default_rng(n).integers(-2, 3, n).astype(np.float32)
    session = session_of(logits, threads=threads)
    for _ in range(5):
        for k in (1, 4, 33):
            np.testing.assert_array_equal(answer(session, top_k=k).top_ids[0], best(logits, k))
    equal = session_of(np.full(n, 1.5, np.float32), threads=threads)
    np.testing.assert_array_equal(answer(equal, top_k=7).top_ids[0], best(np.zeros(n), 7))


def test_zeros_of_both_signs_are_equal() -> None:
    logits = np.array([-0.0, 0.0, -0.0, -1.0, 0.0], np.float32)
    np.testing.assert_array_equal(answer(session_of(logits), top_k=5).top_ids[0], [0, 1, 2, 4, 3])


@pytest.mark.parametrize("n", [3, 1030, 3000])
def test_excluded_ids(n: int) -> None:
    """They are no candidates, their raw logits come back, and the normaliser and the full logits keep them."""
    logits = random_logits(n, 1)
    session = session_of(logits)
    top = best(logits, 3)
    each = [sorted(top[:1]), [], sorted(top[:3]), [0, n - 1], list(range(n)), list(range(1, n))]
    result = answer(session, rows=len(each), exclude=each, top_k=4, full_logits=True)
    for row, excluded in enumerate(each):
        np.testing.assert_array_equal(result.top_ids[row], best(logits, 4, excluded))
        np.testing.assert_array_equal(result.logits[row], logits)
    np.testing.assert_array_equal(result.excluded_logits, np.concatenate([logits[ids] for ids in each]))
    np.testing.assert_array_equal(result.log_normalizer, answer(session).log_normalizer[0])


def test_more_rows_than_a_tile() -> None:
    """200 rows, of which 101 ask, with excluded ids of their own."""
    logits = random_logits(1500)
    session = session_of(logits)
    wanted = list(range(0, 40, 2))
    rows = [(i, 0, [0] * 40) for i in range(5)]
    ask = [40 * i + row for i in range(5) for row in wanted] + [199]
    each = [[i, 700 + i, 1400] for i in range(len(ask))]
    result = session.step(make_plan(sources={0: [1]}, rows=rows, logit_rows=ask, exclude=each, top_k=6))
    for i, excluded in enumerate(each):
        np.testing.assert_array_equal(result.top_ids[i], best(logits, 6, excluded))
        np.testing.assert_array_equal(result.excluded_logits[3 * i : 3 * i + 3], logits[excluded])


@pytest.mark.parametrize("size", [0.0, 4.0, 40.0, 1000.0])
@pytest.mark.parametrize("n", VOCABULARIES)
def test_log_normalizer_against_float64(n: int, size: float) -> None:
    """log sum e^x: e^x in float32 with its error and that of its argument, chunks of 1024 in 16 lanes, then float64."""
    logits = (random_logits(n, 2) * (size / 4)).astype(np.float32)
    wide = logits.astype(np.float64)
    shifted = wide - wide.max()
    total = np.exp(shifted).sum()
    expected = wide.max() + np.log(total)
    # A term takes e^(x - max of its chunk) e^(that - max): two errors of exp, two of arguments.
    relative = (np.exp(shifted) * (4e-7 + 2 * UNIT * np.abs(shifted))).sum() / total + (64 + 4) * UNIT
    result = answer(session_of(logits))
    assert result.log_normalizer.dtype == np.float64
    assert abs(result.log_normalizer[0] - expected) <= 1.01 * relative + 1e-12


@pytest.mark.parametrize("at", [0, 1023, 1024, 2999])
def test_one_logit_far_above_the_rest(at: int) -> None:
    logits = np.full(3000, -80.0, np.float32)
    logits[at] = 70
    result = answer(session_of(logits), top_k=2)
    assert result.log_normalizer[0] == 70
    assert result.top_ids[0].tolist() == [at, 1 if at == 0 else 0]


def test_the_largest_float() -> None:
    logits = np.array([3e38, -3e38, 3e38, 0], np.float32)
    result = answer(session_of(logits), top_k=4)
    assert result.top_ids[0].tolist() == [0, 2, 3, 1]
    assert abs(result.log_normalizer[0] - np.float64(np.float32(3e38))) <= 1e30
