"""Statistics of inputs: against NumPy, however the stream is cut, stored or merged."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import InputError
from pyengine.quantize.seeing.statistics import InputStatistics

from ..layers import inputs


def gather(x: np.ndarray, cuts: list[int], **options: int) -> InputStatistics:
    statistics = InputStatistics(x.shape[1], **options)
    for part in np.split(x, cuts):
        statistics.add(part)
    return statistics


def test_against_numpy() -> None:
    x = inputs(1000, 40)
    found = gather(x, [1, 1, 300, 999])
    wide = x.astype(np.float64)
    assert found.count == 1000
    np.testing.assert_array_equal(found.absmax, np.abs(x).max(axis=0))
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.mean_abs, np.abs(wide).mean(axis=0), rtol=1e-9)
    # A float32 sum of 256 products is within 256 rounding errors of what their magnitudes add up to.
    bound = 256 * np.finfo(np.float32).eps * (np.abs(wide).T @ np.abs(wide))
    assert (np.abs(found.gram - wide.T @ wide) <= bound).all()
    np.testing.assert_allclose(found.second_moment, np.square(wide).mean(axis=0), rtol=256 * 2.0**-23)
    assert np.linalg.eigvalsh(found.gram).min() > -1e-6 * np.trace(found.gram)


def test_the_sample_depends_on_the_seed_and_not_on_the_cuts() -> None:
    x = inputs(700, 5)
    whole = gather(x, [], reservoir=64, seed=3)
    cut = gather(x, list(range(13, 700, 13)), reservoir=64, seed=3)
    np.testing.assert_array_equal(cut.rows, whole.rows)
    assert len({row.tobytes() for row in whole.rows} & {row.tobytes() for row in x}) == 64
    other = gather(x, [], reservoir=64, seed=4)
    assert not np.array_equal(other.rows, whole.rows)
    few = gather(x[:10], [], reservoir=64)
    assert {row.tobytes() for row in few.rows} == {row.tobytes() for row in x[:10]}
    assert len(gather(x, [], reservoir=0).rows) == 0


def test_the_sample_is_even() -> None:
    """Each tenth of a stream gives a tenth: within five standard deviations of a draw without replacement."""
    stream = np.arange(10_000, dtype=np.float32)[:, None]
    for seed in range(5):
        rows = gather(stream, [4000], reservoir=1000, seed=seed).rows
        counts = np.histogram(rows, 10, (0, 10_000))[0]
        assert np.abs(counts - 100).max() <= 5 * (1000 * 0.1 * 0.9 * 0.9) ** 0.5


def test_a_resumed_calibration_is_the_same() -> None:
    x = inputs(600, 12)
    whole = gather(x, [250], reservoir=50, seed=9)
    first = InputStatistics(12, reservoir=50, seed=9)
    first.add(x[:250])
    stored = {name: array.copy() for name, array in first.state().items()}
    first.add(x[:1])  # what is done to the first does not reach what was stored
    resumed = InputStatistics.from_state(stored)
    resumed.add(x[250:])
    for name, array in whole.state().items():
        np.testing.assert_array_equal(resumed.state()[name], array)


def test_a_merge() -> None:
    x = inputs(900, 8)
    left, right = gather(x[:500], [], reservoir=80, seed=1), gather(x[500:], [], reservoir=80, seed=2)
    every = {row.tobytes() for row in x}
    left.merge(right)
    assert left.count == 900 and len(left.rows) == 80
    np.testing.assert_array_equal(left.absmax, np.abs(x).max(axis=0))
    np.testing.assert_allclose(left.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    wide = x.astype(np.float64)
    assert (np.abs(left.gram - wide.T @ wide) <= 256 * 2.0**-23 * (np.abs(wide).T @ np.abs(wide))).all()
    assert {row.tobytes() for row in left.rows} <= every
    from_right = {row.tobytes() for row in x[500:]}
    assert 15 < sum(row.tobytes() in from_right for row in left.rows) < 60
    with pytest.raises(InputError, match="statistics: expected rows of 8 values, found 9"):
        left.merge(InputStatistics(9))


def test_errors_name_the_layer_and_take_in_nothing() -> None:
    statistics = InputStatistics(4)
    x = np.ones((3, 4), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        x[2, 1] = value
        message = rf"encoder.qkv, line 7: expected finite numbers, found {value} at \[2, 1\]"
        with pytest.raises(InputError, match=message):
            statistics.add(x, name="encoder.qkv, line 7")
    with pytest.raises(InputError, match=r"inputs: expected rows of 4 values, found shape \[2, 5\]"):
        statistics.add(np.ones((2, 5), np.float32))
    assert statistics.count == 0 and not statistics.gram.any() and not len(statistics.rows)
    assert not statistics.mean.any() and not statistics.second_moment.any()
    state = statistics.state()
    with pytest.raises(InputError, match=r"statistics.gram: expected shape \[4, 4\], found \[3, 3\]"):
        InputStatistics.from_state({**state, "gram": np.eye(3)})
    del state["keys"]
    with pytest.raises(InputError, match="statistics: expected the array keys"):
        InputStatistics.from_state(state)
