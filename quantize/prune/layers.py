"""Remove whole layers: which matter least, and what to do where one is cut out.

Block influence 1 - E[cos(x_l, x_l+1)]: "ShortGPT: Layers in Large Language Models are More Redundant Than You
Expect", with x_l the vectors that go into layer l. At the cut y ~ scale * x + shift is fitted per channel, from x,
what comes out of the layer before, to y, what came out of the last layer removed; a norm right before the cut
takes it in, or as much of it as has a place.
"""

from __future__ import annotations

import numpy as np

__all__ = ["block_influence", "fit_channels", "fold_into_norm"]


def block_influence(before: np.ndarray, after: np.ndarray) -> float:
    """1 - E[cos] over the rows of ``before`` and ``after`` [T, D]: 0 for a layer that turns nothing, at most 2.

    A row of zeros has no direction and counts as turned by a right angle.
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    products = np.einsum("td,td->t", before, after)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return 1.0 - float(cosines.mean())


def fit_channels(
    mean_x: np.ndarray,
    mean_y: np.ndarray,
    mean_xx: np.ndarray,
    mean_xy: np.ndarray,
    *,
    scales: bool = True,
    shifts: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), float32 [D], that minimise E[(scale * x + shift - y)^2] in each channel.

    The arguments are means over all rows, [D]: of x, y, x * x and x * y. A channel of x that hardly varies keeps
    the scale 1, and its mean is corrected. Without ``scales`` all of them are 1, without ``shifts`` all shifts 0.
    """
    mean_x, mean_y, mean_xx, mean_xy = (np.asarray(a, np.float64) for a in (mean_x, mean_y, mean_xx, mean_xy))
    if not shifts:
        mean_x = mean_y = np.zeros_like(mean_x)
    variance = mean_xx - mean_x * mean_x
    # Below this the variance is what float64 leaves of a difference of equal numbers.
    varies = (variance > 1e-12 * mean_xx) & scales
    scale = np.divide(mean_xy - mean_x * mean_y, variance, out=np.ones_like(variance), where=varies)
    return scale.astype(np.float32), (mean_y - scale * mean_x).astype(np.float32)


def fold_into_norm(
    gain: np.ndarray, bias: np.ndarray, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias, float32 [D], of the norm that gives ``scale`` * x + ``shift`` where the given one gives x."""
    return (gain * scale).astype(np.float32), (bias * scale + shift).astype(np.float32)
