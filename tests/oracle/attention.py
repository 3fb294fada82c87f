"""Attention in float64, as the paper writes it (Vaswani et al., 2017, sections 3.2.1 and 3.2.2)."""

from __future__ import annotations

import numpy as np

__all__ = ["attention", "attention_weights", "biased", "multi_head_attention"]


def attention_weights(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """q [D], k [T, D] -> softmax(scale q K^T) [T]."""
    scores = k.astype(np.float64) @ q.astype(np.float64) * scale
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def biased(scores: np.ndarray, distance: np.ndarray, soft_cap: float, relative: np.ndarray, slope: float):
    """Scores [T] of keys at `distance` [T] from the query, capped (0: not), with a bias from `relative`
    [2 reach + 1], which is constant beyond reach, and with slope * distance (ALiBi)."""
    if soft_cap:
        scores = soft_cap * np.tanh(scores / soft_cap)
    reach = len(relative) // 2
    return scores + relative.astype(np.float64)[np.clip(distance, -reach, reach) + reach] + float(slope) * distance


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """q [D], k [T, D], v [T, D] -> [D]."""
    return attention_weights(q, k, scale) @ v.astype(np.float64)


def multi_head_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, output: np.ndarray) -> np.ndarray:
    """q [H, D], k and v [T, H, D], output [N, H D] -> [N]: the heads, concatenated and projected."""
    scale = 1 / np.sqrt(q.shape[1])
    heads = [attention(q[h], k[:, h], v[:, h], scale) for h in range(len(q))]
    return output.astype(np.float64) @ np.concatenate(heads)
