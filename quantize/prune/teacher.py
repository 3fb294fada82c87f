"""The last feed-forward layer of each stack, fitted to what the whole model computes there.

Pruned layers change what those behind them read, and errors add up. The last layer of a stack can make up for what is
linear in it: with x what it is added to, h its neurons, and the teacher's x', h' of the same token,

    x + V h + b  ~  x' + W' h' + b'        by least squares, in closed form, see ``recover``

One place a stack: fits of several layers from one run would each make up for the same error. Where what a layer gives
passes a norm before it is added, it is not linear there, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.quantize.biases import linear, with_biases
from pyengine.quantize.prune.recover import TeacherStatistics, recover
from pyengine.quantize.prune.stream import Stream, behind
from pyengine.quantize.seeing.calibration import View, in_memory_engine, paired_inputs
from pyengine.quantize.seeing.text import Text
from pyengine.tasks.inputs import Sample
from pyengine.text import Tokenizer

__all__ = ["fit_to_teacher", "outputs_lost"]


def fit_to_teacher(
    model: CanonicalModel,
    teacher: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Text,
    progress: Callable[[int, int], None] | None = None,
) -> CanonicalModel:
    """``model`` with new weights and biases of the last ffn.down of each stack.

    ``text`` and the errors raised are as in ``calibration.calibrate``; ``progress`` is told the lines done, of all.
    """
    stacks = [name for name, stack in model.config.stacks() if not stack.after_norms]
    pairs = [(_End(teacher, stack), _End(model, stack)) for stack in stacks]
    if not pairs:
        return model
    statistics = [TeacherStatistics(own.weight.shape[1], len(own.weight)) for _, own in pairs]
    engines = [in_memory_engine(each.config, each.generation, each.tensors) for each in (teacher, model)]
    views = [{name: view for pair in pairs for name, view in pair[i].views.items()} for i in (0, 1)]
    for done, samples, seen in paired_inputs(engines, tokenizer, text, views):
        for each, gathered in zip(pairs, statistics, strict=True):
            (base, hidden), (own_base, own_hidden) = (end.split(samples, rows) for end, rows in zip(each, seen))
            wanted = base + hidden @ each[0].weight.T + each[0].bias - own_base
            gathered.add(own_hidden, wanted)
        if progress:
            progress(done, len(text))
    for engine in engines:
        engine.close()
    model = with_biases(model, [own.down for _, own in pairs])
    tensors = dict(model.tensors)
    for (_, own), gathered in zip(pairs, statistics, strict=True):
        fitted = recover(own.weight, own.bias, gathered)
        for name, values in ((f"{own.down}.weight", fitted.weight), (f"{own.down}.bias", fitted.bias)):
            tensors[name] = LazyTensor.of(name, values)
    return replace(model, tensors=tensors)


class _End:
    """The last feed-forward layer of a stack: ``down`` adds ``weight`` h + ``bias`` to the vectors."""

    def __init__(self, model: CanonicalModel, stack: str) -> None:
        config = dict(model.config.stacks())[stack]
        layer = f"{stack}.layers.{len(config.layers) - 1}.ffn"
        self.down = f"{layer}.down"
        self.weight, self.bias = linear(model, self.down)
        self._reader = f"{layer}.{'gate_up' if config.layers[-1].feed_forward.gated else 'up'}"
        self._stream = None if config.placement == "post" else Stream(model, stack)
        others: Mapping[str, View] = {self._reader: np.copy} if self._stream is None else self._stream.views
        self.views: dict[str, View] = {**others, self.down: np.copy}

    def split(self, samples: Sequence[Sample], seen: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [rows, width] and [rows, K]: what the layer is added to, and its neurons h.

        ``seen`` is what views of some stacks kept of ``samples``.
        """
        hidden = seen[self.down]
        if self._stream is None:  # what is read is what is added to
            return seen[self._reader], hidden
        added = self._stream.views[self.down](hidden)
        own = {name: added if name == self.down else seen[name] for name in self._stream.views}
        return self._stream.vectors(samples, own)[-1] - added, hidden


def outputs_lost(
    model: CanonicalModel, teacher: CanonicalModel, tokenizer: Tokenizer | None, text: Text
) -> dict[str, float]:
    """Stack -> E |y' - y|^2 as a share of the variance of y: what the stack gives in ``model`` and in ``teacher``.

    ``text`` and the errors raised are as in ``calibration.calibrate``.
    """
    engines = [in_memory_engine(each.config, each.generation, each.tensors) for each in (teacher, model)]
    readers = {stack: behind(model.config, stack) for stack, _ in model.config.stacks()}
    names = list(readers.values())
    rows, lost = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    sums, squares = dict.fromkeys(names, np.float64(0)), dict.fromkeys(names, 0.0)
    views: dict[str, View] = dict.fromkeys(names, np.copy)
    for _, _, (theirs, own) in paired_inputs(engines, tokenizer, text, [views, views]):
        for name in names:
            y = theirs[name].astype(np.float64)
            rows[name] += len(y)
            lost[name] += float(np.square(own[name] - y).sum())
            sums[name] = sums[name] + y.sum(axis=0)
            squares[name] += float(np.square(y).sum())
    for engine in engines:
        engine.close()
    variances = {name: squares[name] - float(np.square(sums[name]).sum()) / rows[name] for name in names}
    return {stack: lost[name] / (variances[name] or 1.0) for stack, name in readers.items()}
