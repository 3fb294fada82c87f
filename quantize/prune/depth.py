"""Remove whole layers of a stack: those that turn its vectors least, with a fit where the stack is cut.

The model runs on the text once. A layer's influence is measured between what goes into it and what comes out
(``layers.block_influence``); where a run of layers is cut out, the norm before it is scaled and shifted, channel by
channel, to what the last of them gave. The first layer of a stack stays: no norm lies before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.quantize.calibration import in_memory_engine, paired_inputs
from pyengine.quantize.prune.layers import block_influence, fit_channels, fold_into_norm
from pyengine.tasks.inputs import Sentence
from pyengine.text import Tokenizer

__all__ = ["Cut", "cut_layers", "plan_cuts"]


@dataclass(frozen=True)
class Cut:
    """Layers [first, end) of ``stack`` ("encoder" or "decoder") go, and ``scale`` and ``shift``, float32 [width], take
    what layer first - 1 gives to what layer end - 1 gave. Errors are shares of the variance of that.
    """

    stack: str
    first: int
    end: int
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

    ``text`` and the errors raised are as in ``calibration.calibrate``; ``progress`` is told the lines done, of all.
    """
    seen = {stack: _Vectors(_readers(model, stack)) for stack, count in counts.items() if count}
    names = [name for vectors in seen.values() for name in vectors.readers]
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    for done, (rows,) in paired_inputs([engine], tokenizer, text, [names]):
        for vectors in seen.values():
            vectors.add(rows)
        if progress:
            progress(done, len(text))
    engine.close()
    return [cut for stack, vectors in seen.items() for cut in vectors.cuts(stack, counts[stack])]


def cut_layers(model: CanonicalModel, cuts: Sequence[Cut], *, fit: bool) -> CanonicalModel:
    """The model without the layers of ``cuts``; with ``fit`` the norms before them take in the fits."""
    tensors = dict(model.tensors)
    if fit:
        for cut in cuts:
            norm = f"{cut.stack}.layers.{cut.first - 1}.ffn.norm"
            gain, bias = (tensors[f"{norm}.{part}"].read() for part in ("weight", "bias"))
            for part, values in zip(("weight", "bias"), fold_into_norm(gain, bias, cut.scale, cut.shift), strict=True):
                name = f"{norm}.{part}"
                tensors[name] = LazyTensor(name, values.shape, "float32", lambda values=values: values)
    stacks = {}
    for stack in ("encoder", "decoder"):
        layers = getattr(model.config, stack).layers
        gone = {i for cut in cuts if cut.stack == stack for i in range(cut.first, cut.end)}
        kept = [i for i in range(len(layers)) if i not in gone]
        stacks[stack] = replace(getattr(model.config, stack), layers=tuple(layers[i] for i in kept))
        tensors = _renumbered(tensors, f"{stack}.layers.", {old: new for new, old in enumerate(kept)})
    smaller = replace(model, config=replace(model.config, **stacks), tensors=tensors)
    smaller.validate()
    return smaller


def _readers(model: CanonicalModel, stack: str) -> list[str]:
    """Packed names of what reads the vectors before each layer of a stack, and behind the last."""
    count = len(getattr(model.config, stack).layers)
    behind = "decoder.layers.0.cross_attention.kv" if stack == "encoder" else "output"
    return [*(f"{stack}.layers.{i}.self_attention.qkv" for i in range(count)), behind]


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

    def cuts(self, stack: str, count: int) -> list[Cut]:
        """The ``count`` layers that turn least, runs of them together."""
        order = 1 + np.argsort(self._turned[1:], kind="stable")
        gone = sorted(order[:count].tolist())
        cuts = []
        while gone:
            first = end = gone.pop(0)
            end += 1
            while gone and gone[0] == end:
                end = gone.pop(0) + 1
            cuts.append(self._cut(stack, first, end))
        return cuts

    def _cut(self, stack: str, first: int, end: int) -> Cut:
        means, products = np.asarray(self._sums) / self.rows, np.asarray(self._products) / self.rows
        x, y, xx, xy, yy = means[first], means[end], products[first, first], products[first, end], products[end, end]
        scale, shift = fit_channels(x, y, xx, xy)
        variance = float((yy - y * y).sum()) or 1.0

        def error(a: np.ndarray, b: np.ndarray) -> float:
            """E |a x + b - y|^2."""
            whole = a * a * xx + b * b + yy + 2 * (a * b * x - a * xy - b * y)
            return max(0.0, float(whole.sum())) / variance

        before = error(np.ones_like(x), np.zeros_like(x))
        return Cut(stack, first, end, scale, shift, before, error(scale.astype(np.float64), shift.astype(np.float64)))
