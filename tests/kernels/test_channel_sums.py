"""Sums of the weights of each channel, and the check that none of them is -128."""

from __future__ import annotations

import numpy as np
import pytest

from .memory import EDGES, output, placed
from .products import pack_int8


def channel_sums(kernels, w: np.ndarray, edge: str = "end") -> tuple[np.ndarray, bool]:
    sums = output((w.shape[0],), np.int32, edge)
    valid = kernels.channel_sums(placed(pack_int8(w), edge), sums.array)
    sums.assert_clean_outside()
    return sums.array.copy(), valid


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
@pytest.mark.parametrize("k", [*range(1, 11), 63, 64, 65, 127, 129, 512, 2049])
def test_equals_numpy(kernels, k: int, blocks: int, edge: str) -> None:
    w = np.random.default_rng(k).integers(-127, 128, (16 * blocks, k)).astype(np.int8)
    sums, valid = channel_sums(kernels, w, edge)
    assert valid is True
    np.testing.assert_array_equal(sums, w.sum(axis=1, dtype=np.int64))


@pytest.mark.parametrize("value", [127, -127])
def test_worst_case(kernels, value: int) -> None:
    sums, valid = channel_sums(kernels, np.full((16, 65536), value, np.int8))
    assert valid
    assert np.all(sums == value * 65536)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 8), (16, 3), (40, 5), (47, 8)])
def test_one_weight_of_minus_128_is_found(kernels, row: int, column: int) -> None:
    """The sign trick and the symmetric range need [-127, 127]; packing or padding must not hide the one."""
    w = np.random.default_rng(3).integers(-127, 128, (48, 9)).astype(np.int8)
    w[row, column] = -128
    assert channel_sums(kernels, w)[1] is False
