"""The inverses of the packing in `pyengine.modelfile.layout`."""

from __future__ import annotations

import numpy as np

from pyengine.modelfile.layout import GROUP, PANEL


def unpack_int8(packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[N/16, K/4, 16, 4] -> int8 [rows, columns]; the inverse of ``pack_int8``."""
    panels, groups = packed.shape[:2]
    matrix = packed.transpose(0, 2, 1, 3).reshape(panels * PANEL, groups * GROUP)
    return np.ascontiguousarray(matrix[:rows, :columns])


def unpack_float32(packed: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[N/16, K, 16] -> float32 [rows, columns]; the inverse of ``pack_floats``."""
    panels, depth = packed.shape[:2]
    matrix = packed.transpose(0, 2, 1).reshape(panels * PANEL, depth)
    return np.ascontiguousarray(matrix[:rows, :columns])
