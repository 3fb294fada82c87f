"""Remove whole layers of a stack: those that turn its vectors least, with a fit where the stack is cut.

The model runs on the text once. A layer's influence is measured between what goes into it and what comes out
(``layers.block_influence``); where a run of layers is cut out, the norm before it is scaled and shifted, channel by
channel, to what the last of them gave. The first layer of a stack stays: no norm lies before it. Where the end of a
stack is cut off, the norm before the cut becomes that of the last layer: the layer before it is then to give what the
last one gave to its norm, and ``teacher`` fits it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.quantize.calibration import in_memory_engine, paired_inputs
from pyengine.quantize.prune.layers import BEHIND, block_influence, fit_channels, fold_into_norm
from pyengine.tasks.inputs import Sentence
from pyengine.text import Tokenizer

__all__ = ["Cut", "cut_layers", "plan_cuts"]

Norm = tuple[np.ndarray, np.ndarray]  # gain and bias


@dataclass(frozen=True)
class Cut:
    """Layers [first, end) of ``stack`` ("encoder" or "decoder") go, and ``scale`` and ``shift``, float32 [width], take
    what layer first - 1 gives to what layer end - 1 gave. Errors are shares of the variance of that.

    ``last``: they are the end of the stack.
    """

    stack: str
    first: int
    end: int
    last: bool
    scale: np.ndarray
    shift: np.ndarray
    error_before: float
    error: float


def plan_cuts(
    model: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Sequence[tuple[Sentence, Sentence | None]],
    counts: Mapping[str, int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Cut]:
    """What to cut so that each stack loses ``counts[stack]`` layers, in ascending order, the encoder first.

    ``text`` and the errors raised are as in ``calibration.calibrate``: as many rows are needed as the feed-forward
    layers have neurons, because ``teacher`` fits these next. ``progress`` is told the lines done, of all.
    """
    seen = {stack: _Vectors(_readers(model, stack)) for stack, count in counts.items() if count}
    names = [name for vectors in seen.values() for name in vectors.readers]
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    for done, (rows,) in paired_inputs([engine], tokenizer, text, [names], needed=_needed(model)):
        for vectors in seen.values():
            vectors.add(rows)
        if progress:
            progress(done, len(text))
    engine.close()
    return [
        vectors.cut(stack, first, end, _norms(model, stack, first, end))
        for stack, vectors in seen.items()
        for first, end in vectors.runs(counts[stack])
    ]


def cut_layers(model: CanonicalModel, cuts: Sequence[Cut], *, fit: bool) -> CanonicalModel:
    """The model without the layers of ``cuts``; with ``fit`` the norms before them take in the fits."""
    tensors = dict(model.tensors)
    for cut in cuts if fit else ():
        before, behind = _norms(model, cut.stack, cut.first, cut.end)
        fitted = behind if cut.last else fold_into_norm(*before, cut.scale, cut.shift)
        for part, values in zip(("weight", "bias"), fitted, strict=True):
            name = f"{cut.stack}.layers.{cut.first - 1}.ffn.norm.{part}"
            tensors[name] = LazyTensor.of(name, values)
    stacks: dict[str, Any] = {}
    for stack, sizes in model.config.stacks():
        layers = sizes.layers
        gone = {i for cut in cuts if cut.stack == stack for i in range(cut.first, cut.end)}
        kept = [i for i in range(len(layers)) if i not in gone]
        stacks[stack] = replace(sizes, layers=tuple(layers[i] for i in kept))
        tensors = _renumbered(tensors, f"{stack}.layers.", {old: new for new, old in enumerate(kept)})
    smaller = replace(model, config=replace(model.config, **stacks), tensors=tensors)
    smaller.validate()
    return smaller


def _readers(model: CanonicalModel, stack: str) -> list[str]:
    """Packed names of what reads the vectors before each layer of a stack, and behind the last."""
    count = len(dict(model.config.stacks())[stack].layers)
    return [*(f"{stack}.layers.{i}.self_attention.qkv" for i in range(count)), BEHIND[stack]]


def _needed(model: CanonicalModel) -> int:
    return max(layer.feed_forward.width for _, stack in model.config.stacks() for layer in stack.layers)


def _norms(model: CanonicalModel, stack: str, first: int, end: int) -> tuple[Norm, Norm]:
    """Gain and bias before a cut, and of the last layer that goes."""

    def norm(layer: int) -> Norm:
        name = f"{stack}.layers.{layer}.ffn.norm"
        return model.tensors[f"{name}.weight"].read(), model.tensors[f"{name}.bias"].read()

    return norm(first - 1), norm(end - 1)


def _renumbered(tensors: Mapping[str, LazyTensor], prefix: str, numbers: Mapping[int, int]) -> dict[str, LazyTensor]:
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            if int(number) not in numbers:
                continue
            name = f"{prefix}{numbers[int(number)]}.{rest}"
        found[name] = tensor
    return found


class _Vectors:
    """Moments of the vectors [rows, width] between the layers of a stack; place i is before layer i."""

    def __init__(self, readers: list[str]) -> None:
        self.readers = readers
        self.rows = 0
        self._turned = np.zeros(len(readers) - 1)  # sum of 1 - cos of each layer
        self._sums: np.ndarray | float = 0.0  # [places, width]
        self._products: np.ndarray | float = 0.0  # [places, places, width]

    def add(self, seen: Mapping[str, np.ndarray]) -> None:
        """Take in what the readers read of some tokens."""
        x = np.stack([seen[name] for name in self.readers]).astype(np.float64)
        count = x.shape[1]
        self.rows += count
        self._turned += [count * block_influence(*pair) for pair in zip(x, x[1:])]
        self._sums = self._sums + x.sum(axis=1)
        self._products = self._products + np.einsum("itc,jtc->ijc", x, x, optimize=True)

    def runs(self, count: int) -> list[tuple[int, int]]:
        """The ``count`` layers that turn least, in runs [first, end)."""
        order = 1 + np.argsort(self._turned[1:], kind="stable")
        found: list[tuple[int, int]] = []
        for layer in sorted(order[:count].tolist()):
            joined = found and found[-1][1] == layer
            first = found.pop()[0] if joined else layer
            found.append((first, layer + 1))
        return found

    def cut(self, stack: str, first: int, end: int, norms: tuple[Norm, Norm]) -> Cut:
        """Of a run, between the ``norms`` before it and of its last layer."""
        means, products = np.asarray(self._sums) / self.rows, np.asarray(self._products) / self.rows
        x, y, xx, xy, yy = means[first], means[end], products[first, first], products[first, end], products[end, end]
        last = end == len(self.readers) - 1
        scale, shift = _from_norm_to_norm(*norms) if last else fit_channels(x, y, xx, xy)
        variance = float((yy - y * y).sum()) or 1.0

        def error(a: np.ndarray, b: np.ndarray) -> float:
            """E |a x + b - y|^2."""
            whole = a * a * xx + b * b + yy + 2 * (a * b * x - a * xy - b * y)
            return max(0.0, float(whole.sum())) / variance

        before = error(np.ones_like(x), np.zeros_like(x))
        after = error(scale.astype(np.float64), shift.astype(np.float64))
        return Cut(stack, first, end, last, scale, shift, before, after)


def _from_norm_to_norm(before: Norm, behind: Norm) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) that take what one norm gives to what the other gives of the same vectors."""
    scale = np.divide(behind[0], before[0], out=np.zeros_like(before[0]), where=before[0] != 0)
    return scale, behind[1] - scale * before[1]
