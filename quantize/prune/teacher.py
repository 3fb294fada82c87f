"""The last feed-forward layer of each stack, fitted to what the whole model computes there.

Pruned layers change what those behind them read, and errors add up. The last layer of a stack can make up for what is
linear in it: with x the vectors that go into it, h its neurons, and the teacher's x', h' of the same token,

    x + V h + b  ~  x' + W' h' + b'        by least squares, in closed form, see ``recover``

One place a stack: fits of several layers from one run would each make up for the same error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.quantize.calibration import in_memory_engine, paired_inputs
from pyengine.quantize.prune.layers import BEHIND
from pyengine.quantize.prune.recover import TeacherStatistics, recover
from pyengine.tasks.inputs import Sentence
from pyengine.text import Tokenizer

__all__ = ["fit_to_teacher", "outputs_lost"]


def fit_to_teacher(
    model: CanonicalModel,
    teacher: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Sequence[tuple[Sentence, Sentence | None]],
    progress: Callable[[int, int], None] | None = None,
) -> CanonicalModel:
    """``model`` with new weights and biases of the last ffn.down of each stack.

    ``text`` and the errors raised are as in ``calibration.calibrate``; ``progress`` is told the lines done, of all.
    """
    pairs = dict(zip(_last_layers(model), _last_layers(teacher), strict=True))
    whole = {layer: _down(teacher, other) for layer, other in pairs.items()}
    mine = {layer: _down(model, layer) for layer in pairs}
    statistics = {layer: TeacherStatistics(weight.shape[1], len(weight)) for layer, (weight, _) in mine.items()}
    engines = [in_memory_engine(each.config, each.generation, each.tensors) for each in (teacher, model)]
    names = [[f"{layer}.{part}" for layer in layers for part in ("up", "down")] for layers in (pairs.values(), pairs)]
    for done, (theirs, own) in paired_inputs(engines, tokenizer, text, names):
        for layer, (weight, bias) in whole.items():
            other = pairs[layer]
            wanted = theirs[f"{other}.up"] + theirs[f"{other}.down"] @ weight.T + bias - own[f"{layer}.up"]
            statistics[layer].add(own[f"{layer}.down"], wanted)
        if progress:
            progress(done, len(text))
    for engine in engines:
        engine.close()
    tensors = dict(model.tensors)
    for layer, (weight, bias) in mine.items():
        fitted = recover(weight, bias, statistics[layer])
        for name, values in ((f"{layer}.down.weight", fitted.weight), (f"{layer}.down.bias", fitted.bias)):
            tensors[name] = LazyTensor.of(name, values)
    return replace(model, tensors=tensors)


def outputs_lost(
    model: CanonicalModel,
    teacher: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Sequence[tuple[Sentence, Sentence | None]],
) -> dict[str, float]:
    """Stack -> E |y' - y|^2 as a share of the variance of y: what the last layer gives in ``model`` and ``teacher``.

    ``text`` and the errors raised are as in ``calibration.calibrate``.
    """
    engines = [in_memory_engine(each.config, each.generation, each.tensors) for each in (teacher, model)]
    names = list(BEHIND.values())
    rows, lost = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    sums, squares = dict.fromkeys(names, np.float64(0)), dict.fromkeys(names, 0.0)
    for _, (theirs, own) in paired_inputs(engines, tokenizer, text, [names, names]):
        for name in names:
            y = theirs[name].astype(np.float64)
            rows[name] += len(y)
            lost[name] += float(np.square(own[name] - y).sum())
            sums[name] = sums[name] + y.sum(axis=0)
            squares[name] += float(np.square(y).sum())
    for engine in engines:
        engine.close()
    variances = {name: squares[name] - float(np.square(sums[name]).sum()) / rows[name] for name in names}
    return {stack: lost[name] / (variances[name] or 1.0) for stack, name in BEHIND.items()}


def _last_layers(model: CanonicalModel) -> list[str]:
    """The last feed-forward layer of each stack."""
    return [f"{name}.layers.{len(stack.layers) - 1}.ffn" for name, stack in model.config.stacks()]


def _down(model: CanonicalModel, layer: str) -> tuple[np.ndarray, np.ndarray]:
    return model.tensors[f"{layer}.down.weight"].read(), model.tensors[f"{layer}.down.bias"].read()
