"""How much to remove: shares of a model, and what of them goes from each layer, given what it costs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pyengine.canonical import StackConfig
from pyengine.errors import OptionError

__all__ = ["PRUNABLE", "check_shares", "layers_to_remove", "refused_share", "split_removals"]

PRUNABLE = ("ffn", "heads", "encoder_layers", "decoder_layers")


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise OptionError unless these are shares of PRUNABLE from 0 up to, not including, 1."""
    for name, share in shares.items():
        if name not in PRUNABLE:
            raise OptionError(f"prune: expected {', '.join(PRUNABLE)}, blocks, weights or N:M, found {name!r}")
        if not 0 <= share < 1:
            raise refused_share(name, f"of at least 0 and less than 1, found {share}")


def layers_to_remove(stack: str, sizes: StackConfig | None, share: float) -> int:
    """How many layers a share of a stack are. OptionError if that leaves none, or the model has no such stack."""
    if sizes is None and share:
        raise OptionError(f"prune: {stack}-layers: the model has no {stack}", keywords=("prune",))
    if sizes is None:
        return 0
    count = len(sizes.layers)
    wanted = round(share * count)
    if share and not wanted:
        raise refused_share(f"{stack}_layers", f"that removes at least one of {count}, found {share}")
    if wanted >= count:
        raise refused_share(f"{stack}_layers", f"that leaves a layer of {count}, found {share}")
    return wanted


def refused_share(what: str, expected: str) -> OptionError:
    """What to raise for a share of ``prune``."""
    return OptionError(f"prune: {what.replace('_', '-')}: expected a share {expected}", keywords=("prune",))


def split_removals(curves: Sequence[Sequence[float] | np.ndarray], total: int) -> list[int]:
    """How many steps to remove from each layer, ``total`` together, so that the sum of the losses is least.

    ``curves[i][n]`` is the loss of layer i after n steps, ``curves[i][0]`` that of removing nothing. Where losses
    grow ever faster, this is taking the cheapest next step again and again; it is exact for any curves, by dynamic
    programming over the layers. Of equal sums that which removes less from later layers. OptionError: ``total``
    exceeds the steps that there are, or a loss is not finite.
    """
    steps = [len(curve) - 1 for curve in curves]
    if min(steps, default=0) < 0 or not all(np.isfinite(curve).all() for curve in curves):
        raise OptionError("curves: expected finite losses, at least that of removing nothing, for each layer")
    if not 0 <= total <= sum(steps):
        raise OptionError(f"total: expected 0 to {sum(steps)} steps, found {total}")
    best = np.full(total + 1, np.inf)  # the least loss of the layers so far, by the steps removed
    best[0] = 0.0
    chosen = []
    for curve in curves:
        candidates = np.full((len(curve), total + 1), np.inf)
        for n, loss in enumerate(curve[: total + 1]):
            candidates[n, n:] = best[: total + 1 - n] + loss
        chosen.append(candidates.argmin(axis=0))
        best = candidates.min(axis=0)
    counts = []
    for choice in reversed(chosen):
        counts.append(int(choice[total]))
        total -= counts[-1]
    return counts[::-1]
