"""Remove whole layers of a stack: those that turn its vectors least, with a fit where the stack is cut.

The model runs on the text once. A layer's influence is measured between what goes into it and what comes out
(``layers.block_influence``); where a run of layers is cut out, the vectors before it are scaled and shifted, channel by
channel, to what the last of them gave, as far as there is a place for that:

    norms behind sublayers   the norm before the cut takes scales, and shifts if it has a bias. At the end of a stack it
                             becomes that of the last layer: the layer before it is then to give what the last one gave
                             to its norm, and ``teacher`` fits it to that
    norms before sublayers   scales have no place: they would have to meet the whole stream. Shifts go into the bias of
                             what the layer before the cut adds last, or of the norm that this passes, if it has one

The first layer of a stack stays: nothing lies before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor, StackConfig
from pyengine.quantize.biases import with_biases
from pyengine.quantize.prune.layers import block_influence, fit_channels, fold_into_norm
from pyengine.quantize.prune.stream import Stream
from pyengine.quantize.seeing.calibration import in_memory_engine, paired_inputs
from pyengine.quantize.seeing.text import Text
from pyengine.text import Tokenizer

__all__ = ["Cut", "cut_layers", "plan_cuts"]

Norm = tuple[np.ndarray, np.ndarray]  # gain and bias


@dataclass(frozen=True)
class Cut:
    """Layers [first, end) of ``stack`` ("encoder" or "decoder") go, and ``scale`` and ``shift``, float32 [width], take
    what layer first - 1 gives to what layer end - 1 gave. Errors are shares of the variance of that.

    ``last``: they are the end of a stack, whose norm stays.
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
    text: Text,
    counts: Mapping[str, int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Cut]:
    """What to cut so that each stack loses ``counts[stack]`` layers, in ascending order, the encoder first.

    ``text`` and the errors raised are as in ``calibration.calibrate``: as many rows are needed as the feed-forward
    layers have neurons, because ``teacher`` fits these next. ``progress`` is told the lines done, of all.
    """
    stacks = dict(model.config.stacks())
    streams = {stack: Stream(model, stack) for stack, count in counts.items() if count}
    moments = {stack: _Moments(len(stacks[stack].layers)) for stack in streams}
    views = {name: view for stream in streams.values() for name, view in stream.views.items()}
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    for done, samples, (seen,) in paired_inputs([engine], tokenizer, text, [views], needed=_needed(model)):
        for stack, stream in streams.items():
            moments[stack].add(stream.vectors(samples, {name: seen[name] for name in stream.views}))
        if progress:
            progress(done, len(text))
    engine.close()
    return [
        _cut(model, stack, each, first, end)
        for stack, each in moments.items()
        for first, end in each.runs(counts[stack])
    ]


def cut_layers(model: CanonicalModel, cuts: Sequence[Cut], *, fit: bool) -> CanonicalModel:
    """The model without the layers of ``cuts``; with ``fit`` what lies before them takes in the fits."""
    for cut in cuts if fit else ():
        model = _fitted(model, cut)
    tensors = dict(model.tensors)
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


def _needed(model: CanonicalModel) -> int:
    return max(layer.feed_forward.width for _, stack in model.config.stacks() for layer in stack.layers)


def _fitted(model: CanonicalModel, cut: Cut) -> CanonicalModel:
    """The model, layers and all, with what lies before a cut as it is to be without them."""
    stack, layer = dict(model.config.stacks())[cut.stack], f"{cut.stack}.layers.{cut.first - 1}.ffn"
    scales, shifts = _has_places(stack)
    if stack.placement == "post":
        before, behind = _norms(model, cut.stack, cut.first, cut.end)
        gain, bias = behind if cut.last else fold_into_norm(*before, cut.scale, cut.shift)
        fitted = {f"{layer}.norm.weight": gain, **({f"{layer}.norm.bias": bias} if shifts else {})}
    elif shifts:
        name = f"{layer}.after" if stack.after_norms else f"{layer}.down"
        model = model if stack.after_norms else with_biases(model, [name])
        fitted = {f"{name}.bias": model.tensors[f"{name}.bias"].read() + cut.shift}
    else:
        fitted = {}
    tensors = {name: LazyTensor.of(name, values) for name, values in fitted.items()}
    return replace(model, tensors={**model.tensors, **tensors})


def _has_places(stack: StackConfig) -> tuple[bool, bool]:
    """Whether scales of the vectors before a cut have a place, and whether shifts have one."""
    behind = stack.placement == "post"
    return behind, stack.norm == "layer" or not (behind or stack.after_norms)


def _norms(model: CanonicalModel, stack: str, first: int, end: int) -> tuple[Norm, Norm]:
    """Gain and bias before a cut, and of the last layer that goes; a bias of zeros where there is none."""

    def norm(layer: int) -> Norm:
        name = f"{stack}.layers.{layer}.ffn.norm"
        gain, bias = model.tensors[f"{name}.weight"].read(), model.tensors.get(f"{name}.bias")
        return gain, np.zeros_like(gain) if bias is None else bias.read()

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


class _Moments:
    """Of the vectors [rows, width] between the ``layers`` of a stack; place i is before layer i."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.rows = 0
        self._turned = np.zeros(layers)  # sum of 1 - cos of each layer
        self._sums: np.ndarray | float = 0.0  # [places, width]
        self._products: np.ndarray | float = 0.0  # [places, places, width]

    def add(self, vectors: Sequence[np.ndarray]) -> None:
        """Take in the vectors of some tokens at all places."""
        x = np.stack(vectors).astype(np.float64)
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

    def means(self, first: int, end: int) -> tuple[np.ndarray, ...]:
        """Of x at place ``first`` and y at ``end``, float64 [width]: those of x, y, x x, x y and y y."""
        sums, products = np.asarray(self._sums) / self.rows, np.asarray(self._products) / self.rows
        return sums[first], sums[end], products[first, first], products[first, end], products[end, end]


def _cut(model: CanonicalModel, stack: str, moments: _Moments, first: int, end: int) -> Cut:
    """Of a run of layers [first, end), with what fits best."""
    config = dict(model.config.stacks())[stack]
    x, y, xx, xy, yy = moments.means(first, end)
    scales, shifts = _has_places(config)
    last = end == moments.layers and config.placement == "post"
    if last:
        scale, shift = _from_norm_to_norm(*_norms(model, stack, first, end))
    else:
        scale, shift = fit_channels(x, y, xx, xy, scales=scales, shifts=shifts)
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
