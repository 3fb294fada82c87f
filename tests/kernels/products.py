"""Random products for the tests of the matrix kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.modelfile import layout

from .memory import output, placed

__all__ = [
    "ACTIVATIONS",
    "SHAPES",
    "Product",
    "float32_product",
    "int4_product",
    "int8_product",
    "pack_floats",
    "pack_int4",
    "pack_int8",
    "run",
    "thinned",
]

FLOATS = {"float32": "gemm_f32", "uint16": "gemm_bf16", "float16": "gemm_f16"}
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "tanh", "sigmoid", "linear")

# (rows, K, blocks of 16 channels): each size through its edges while the others stay small, then model shapes.
SHAPES = (
    *((m, 20, 5) for m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 31, 33, 64)),
    *((7, k, 1) for k in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 257)),
    *((3, 37, blocks) for blocks in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17)),
    (1, 512, 96),
    (5, 512, 32),
    (13, 256, 16),
    (2, 2048, 32),
    (1, 1023, 4),
    (6, 1025, 4),
)


def pack_int8(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(layout.pack_int8(w))


def pack_int4(w: np.ndarray, group: int) -> np.ndarray:
    return np.ascontiguousarray(layout.pack_int4(w, group))


def pack_floats(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(layout.pack_floats(w))


def padded(values: np.ndarray, n: int) -> np.ndarray:
    result = np.zeros(n, values.dtype)
    result[: len(values)] = values
    return result


@dataclass(frozen=True)
class Product:
    """Y = activate(X W^T + bias) + residual; x_scale and w_scale only with int8 rows, group_scale with int4 weights."""

    x: np.ndarray  # [m, K]
    w: np.ndarray  # [16 blocks, K], uint8 values 0..15 for int4, uint16 for bfloat16
    bias: np.ndarray | None  # [16 blocks]
    residual: np.ndarray | None  # [m, 16 blocks]
    x_scale: np.ndarray | None = None  # [m]
    w_scale: np.ndarray | None = None  # [16 blocks]
    group: int = 0  # columns
    group_scale: np.ndarray | None = None  # float16 [16 blocks, ceil(K / group)]
    group_zero: np.ndarray | None = None  # uint8, the same


def _epilogue(rng: np.random.Generator, m: int, n: int) -> dict[str, np.ndarray]:
    return {
        "bias": rng.normal(0, 1, n).astype(np.float32),
        "residual": rng.normal(0, 3, (m, n)).astype(np.float32),
    }


def int8_product(seed: int, m: int, k: int, blocks: int) -> Product:
    """Values over all of [-127, 127], results of about [-8, 8], where every activation bends."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, (m, k)).astype(np.int8)
    w = rng.integers(-127, 128, (16 * blocks, k)).astype(np.int8)
    x_scale = rng.uniform(0.5, 1.5, m).astype(np.float32)
    w_scale = (rng.uniform(1, 3, 16 * blocks) / (73 * 73 * np.sqrt(k))).astype(np.float32)
    return Product(x, w, x_scale=x_scale, w_scale=w_scale, **_epilogue(rng, m, 16 * blocks))


def thinned(p: Product, density: float) -> Product:
    """Only so many of the weights' lines of 16 channels x 4 columns, at random; below 1 one block has none."""
    rng = np.random.default_rng(len(p.x) + p.w.size)
    rows, columns = p.w.shape
    keep = rng.random((rows // 16, -(-columns // 4))) < density
    if density < 1:
        keep[rng.integers(len(keep))] = False
    return replace(p, w=p.w * np.repeat(np.repeat(keep, 16, axis=0), 4, axis=1)[:, :columns])


def int4_product(seed: int, m: int, k: int, blocks: int, group: int, zero_points: bool) -> Product:
    """As int8_product; group scales differ by a factor of up to 3, zero points are any of 0 to 15."""
    rng = np.random.default_rng(seed)
    n, groups = 16 * blocks, -(-k // group)
    x = rng.integers(-127, 128, (m, k)).astype(np.int8)
    q = rng.integers(0, 16, (n, k)).astype(np.uint8)
    x_scale = rng.uniform(0.5, 1.5, m).astype(np.float32)
    w_scale = (rng.uniform(1, 3, n) / (73 * 5 * np.sqrt(k))).astype(np.float32)
    group_scale = rng.uniform(0.5, 1.5, (n, groups)).astype(np.float16)
    group_zero = rng.integers(0, 16, (n, groups)).astype(np.uint8) if zero_points else None
    return Product(x, q, **_epilogue(rng, m, n), x_scale=x_scale, w_scale=w_scale, group=group,
                   group_scale=group_scale, group_zero=group_zero)  # fmt: skip


def float32_product(seed: int, m: int, k: int, blocks: int) -> Product:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (m, k)).astype(np.float32)
    w = rng.normal(0, 2 / np.sqrt(k), (16 * blocks, k)).astype(np.float32)
    return Product(x, w, **_epilogue(rng, m, 16 * blocks))


def _flipped(kernels, x: np.ndarray, k: int, edge: str, gap: int) -> np.ndarray:
    """x as the kernels read it, zeros up to column k."""
    whole = np.zeros((len(x), k), np.int8)
    whole[:, : x.shape[1]] = x
    return placed((whole.view(np.uint8) ^ np.uint8(kernels.flip)).view(np.int8), edge, k + gap)


def _grouped(values: np.ndarray) -> np.ndarray:
    """[16 blocks, groups] -> [blocks, groups, 16]."""
    return np.ascontiguousarray(values.reshape(-1, 16, values.shape[1]).transpose(0, 2, 1))


def _run_int4(kernels, p: Product, edge: str, gap: int, y: np.ndarray, options: dict[str, Any]) -> None:
    # 15 where columns are padded: there rows of X hold zeros, and the weights may hold anything.
    padding = np.full((len(p.w), -p.w.shape[1] % p.group), 15, np.uint8)
    packed = pack_int4(np.concatenate([p.w, padding], axis=1), p.group)
    k = packed.shape[1] * 8
    x = _flipped(kernels, p.x, k, edge, gap)
    group_zero = None if p.group_zero is None else placed(_grouped(p.group_zero), edge)
    kernels.gemm_q4(x, placed(p.x_scale, edge), placed(packed, edge), placed(p.w_scale, edge),
                    placed(_grouped(p.group_scale), edge), y, group_zero=group_zero, **options)  # fmt: skip


def run(
    kernels,
    p: Product,
    *,
    activation: str = "linear",
    edge: str = "end",
    in_place: bool = False,
    part: tuple[int, int] | None = None,
    gap: int = 0,
    sparse: bool = False,
) -> np.ndarray:
    """Y of the blocks in `part`, from and into guarded memory with `gap` unused elements between two rows.

    in_place: the residual lies where Y goes. sparse: by gemm_q8s, without the lines of zeros.
    Fails if anything else than those blocks of Y is written.
    """
    m, n = len(p.x), len(p.w)
    first, last = part or (0, n // 16)
    y = output((m, n), np.float32, edge, n + gap)
    residual = None
    if in_place and p.residual is not None:
        y.array[:, 16 * first : 16 * last] = p.residual[:, 16 * first : 16 * last]
        residual = y.array
    elif p.residual is not None:
        residual = placed(p.residual, edge, n + gap)
    bias = None if p.bias is None else placed(p.bias, edge)
    options = dict(bias=bias, residual=residual, activation=activation, blocks=part)
    if p.x_scale is None or p.w_scale is None:
        x = placed(p.x, edge, p.x.shape[1] + gap)
        getattr(kernels, FLOATS[p.w.dtype.name])(x, placed(pack_floats(p.w), edge), y.array, **options)
    elif p.group_scale is not None:
        _run_int4(kernels, p, edge, gap, y.array, options)
    else:
        k = layout.round_up(p.w.shape[1], 4)
        flipped = _flipped(kernels, p.x, k, edge, gap)
        sums = placed(p.w.sum(axis=1, dtype=np.int32), edge)
        scales = placed(p.x_scale, edge), placed(p.w_scale, edge)
        if sparse:
            lines = (placed(part, edge) for part in layout.pack_sparse(p.w))
            kernels.gemm_q8s(flipped, scales[0], *lines, scales[1], sums, y.array, **options)
        else:
            kernels.gemm_q8(flipped, scales[0], placed(pack_int8(p.w), edge), scales[1], sums, y.array, **options)
    y.assert_clean_outside((slice(None), slice(16 * first, 16 * last)))
    return y.array[:, 16 * first : 16 * last].copy()
