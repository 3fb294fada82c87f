"""Prune a model: fewer attention heads and fewer neurons, those whose loss its text shows to be least.

The model is run on the text in float32. Whole layers go first, see ``depth``. Then heads: what each attention loses
with every head that goes is estimated, and of all attentions together those go that cost least. The model without them
runs on the text again, and feed-forward neurons go the same way. What a layer writes after that is fitted to what it
wrote before, by least squares and with its bias. See ``structured`` for the method and its papers.

Costs are variances of what is added to the model's vectors, a token: where a layer adds little, little can be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pyengine.canonical import AttentionConfig, CanonicalModel, LazyTensor, ModelConfig, Removal
from pyengine.errors import OptionError, UnsupportedError
from pyengine.quantize.calibration import calibrate, in_memory_engine
from pyengine.quantize.prune import structured
from pyengine.quantize.prune.budget import check_shares, layers_to_remove, refused_share, split_removals
from pyengine.quantize.prune.depth import cut_layers, plan_cuts
from pyengine.quantize.prune.gram import row_errors
from pyengine.quantize.prune.teacher import fit_to_teacher, outputs_lost
from pyengine.quantize.statistics import InputStatistics
from pyengine.tasks.inputs import Sentence
from pyengine.text import Tokenizer

__all__ = ["PrunedModel", "Removed", "prune_model"]

MEASURED = 200  # lines that what is lost is measured on

Text = Sequence[tuple[Sentence, "Sentence | None"]]


@dataclass(frozen=True)
class Removed:
    """What went: ``removed`` of ``total`` "heads" or "neurons" of ``layer``, by canonical name, or "layers" of a stack.

    Errors are shares of the variance of the layer's outputs on the text: where the rest stays as it was, and where it
    is fitted to the layer. Those of a stack are as in ``PrunedModel``.
    """

    what: str
    layer: str
    removed: int
    total: int
    error_before: float
    error_after: float


@dataclass(frozen=True)
class PrunedModel:
    """The ``model``, what was ``removed``, and what that does to a stack's outputs with everything that went.

    ``lost_before`` and ``lost``: stack -> share of the variance of its outputs, on the first MEASURED lines of the
    text, where the rest stays as it was, and in ``model``; empty if nothing went.
    """

    model: CanonicalModel
    removed: list[Removed]
    lost_before: Mapping[str, float]
    lost: Mapping[str, float]


@dataclass(frozen=True)
class _Layer:
    """An attention or a feed-forward layer: ``inputs`` give ``columns`` values that ``output`` reads.

    ``unit`` columns are one head or neuron; ``step`` columns go at a time.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    columns: int
    unit: int
    step: int

    @property
    def steps(self) -> int:
        """How many steps can go: one head, or 16 neurons, must stay."""
        return max(0, self.columns // self.step - 1)


def prune_model(
    model: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Text,
    *,
    ffn: float = 0.0,
    heads: float = 0.0,
    encoder_layers: float = 0.0,
    decoder_layers: float = 0.0,
    reconstruct: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> PrunedModel:
    """``model`` without the share ``heads`` of all its attention heads, and ``ffn`` of its neurons in steps of 16.

    Before that, without the shares ``encoder_layers`` and ``decoder_layers`` of the layers of a stack. ``text`` is
    (source, target) as texts or ids, see ``calibration.calibrate``. Each stack keeps its first layer, each attention a
    head, each feed-forward layer 16 neurons. Without ``reconstruct`` the same go, and the weights of the others stay
    as they were. ``progress`` is told the steps done and all of them, for each stage anew. Raises OptionError for
    shares that ``check_shares`` refuses or that leave too little; UnsupportedError for a model of another kind than
    encoder and decoder with a norm behind each sublayer, biases, and no gates and grouped heads; and what ``calibrate``
    raises: InputError for text that is too short, with fewer rows than a layer has columns.
    """
    check_shares({"ffn": ffn, "heads": heads, "encoder_layers": encoder_layers, "decoder_layers": decoder_layers})
    _require_supported(model.config)
    stacks, layer_shares = dict(model.config.stacks()), {"encoder": encoder_layers, "decoder": decoder_layers}
    counts = {name: layers_to_remove(name, stack, layer_shares[name]) for name, stack in stacks.items()}
    whole, pruned = model, model
    removed: list[Removed] = []
    if any(counts.values()):
        cuts = plan_cuts(model, tokenizer, text, counts, progress)
        model, pruned = cut_layers(model, cuts, fit=False), cut_layers(pruned, cuts, fit=True)
    shares = {"heads": heads, "neurons": ffn}
    totals = {what: _total(what, share, _layers(model.config, what)) for what, share in shares.items()}
    for what, total in totals.items():
        if total:
            reduced = _reduce(pruned, tokenizer, text, what, total, progress)
            kept = {layer.name: each.kept for layer, each in reduced}
            pruned = _without(pruned, kept, dict(_fitted(reduced)))
            model = _without(model, kept, {})
            removed += [_row(what, layer, each, reconstruct) for layer, each in reduced]
    if model is whole:
        return PrunedModel(model, [], {}, {})
    lost = before = outputs_lost(model, whole, tokenizer, text[:MEASURED])
    if reconstruct:
        model = fit_to_teacher(pruned, whole, tokenizer, text, progress)
        lost = outputs_lost(model, whole, tokenizer, text[:MEASURED])
    gone = [(stack, count, len(stacks[stack].layers)) for stack, count in counts.items() if count]
    removed = [*(Removed("layers", *each, before[each[0]], lost[each[0]]) for each in gone), *removed]
    record = (Removal(row.what, row.layer, row.removed, row.total) for row in removed)
    return PrunedModel(replace(model, removed=(*whole.removed, *record)), removed, before, lost)


def _layers(config: ModelConfig, what: str) -> list[_Layer]:
    """Those that have "heads" or "neurons", in the order of use."""
    found = []
    for stack, sizes in config.stacks():
        for i, layer in enumerate(sizes.layers):
            name = f"{stack}.layers.{i}"
            if what == "neurons":
                found.append(_Layer(f"{name}.ffn", ("up",), "down", layer.feed_forward.width, 1, structured.NEURONS))
                continue
            for part, each in layer.attentions():
                width = each.head_width
                found.append(_Layer(f"{name}.{part}", ("q", "k", "v"), "output", each.heads * width, width, width))
    return found


def _require_supported(config: ModelConfig) -> None:
    """UnsupportedError, naming the trait, unless what is fitted and cut here is all that there is."""
    lacking = [name for name in ("encoder", "decoder") if getattr(config, name) is None]
    lacking = [f"a model without {name}" for name in lacking]
    for _, stack in config.stacks():
        if stack.placement != "post" or stack.norm != "layer":
            lacking.append(f'placement "{stack.placement}" of norms of kind "{stack.norm}"')
        for layer in stack.layers:
            for name, each in layer.attentions():
                if each.kv_heads != each.heads or not (each.qkv_bias and each.output_bias):
                    lacking.append(f"{name} with grouped heads or without biases")
            if layer.feed_forward.gated or not layer.feed_forward.bias:
                lacking.append("feed_forward with a gate or without biases")
    if lacking:
        raise UnsupportedError(f"prune: {'; '.join(dict.fromkeys(lacking))}: models like this one cannot be pruned yet")


def _total(what: str, share: float, layers: Sequence[_Layer]) -> int:
    """Steps to remove from all layers together."""
    wanted = round(share * sum(layer.columns / layer.step for layer in layers))
    limit = sum(layer.steps for layer in layers)
    if wanted > limit:
        units = sum(layer.columns // layer.unit for layer in layers)
        most = sum(layer.steps * layer.step // layer.unit for layer in layers)
        raise refused_share(what, f"that leaves some of each; {most} of {units} can go, not {share}")
    return wanted


def _reduce(
    model: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Text,
    what: str,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> list[tuple[_Layer, structured.ReducedLayer]]:
    """The layers of which something goes, and what is left of them."""
    layers = _layers(model.config, what)
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    needed = max(layer.columns for layer in layers)
    statistics = calibrate(engine, tokenizer, text, needed=needed, reservoir=0, progress=progress)
    engine.close()
    removals, curves = [], []
    for number, layer in enumerate(layers, 1):
        weight, _, seen = _output(model, layer, statistics)
        steps = min(layer.steps, total)
        if what == "neurons":
            removal = structured.neuron_removal(weight, seen.gram, seen.mean, seen.count, steps=steps)
        else:
            removal = structured.head_removal(
                weight, seen.gram, seen.mean, seen.count, head_width=layer.unit, steps=steps
            )
        removals.append(removal)
        curves.append(removal.loss * _variance(weight, seen))
        if progress:
            progress(number, len(layers))
    reduced = []
    for layer, removal, count in zip(layers, removals, split_removals(curves, total), strict=True):
        if count:
            weight, bias, seen = _output(model, layer, statistics)
            kept = removal.kept(count, layer.columns)
            each = structured.reconstruct(weight, bias, seen.gram, seen.mean, seen.count, kept)
            reduced.append((layer, each))
    return reduced


def _output(
    model: CanonicalModel, layer: _Layer, statistics: Mapping[str, InputStatistics]
) -> tuple[np.ndarray, np.ndarray, InputStatistics]:
    """Weight and bias of what writes a layer's outputs, and the statistics of its inputs."""
    name = f"{layer.name}.{layer.output}"
    return model.tensors[f"{name}.weight"].read(), model.tensors[f"{name}.bias"].read(), statistics[name]


def _variance(weight: np.ndarray, seen: InputStatistics) -> float:
    """Of the outputs, all together, a row."""
    centred = seen.gram / seen.count - np.outer(seen.mean, seen.mean)
    return float(row_errors(weight, centred).sum())


def _fitted(reduced: Sequence[tuple[_Layer, structured.ReducedLayer]]) -> Iterator[tuple[str, np.ndarray]]:
    for layer, each in reduced:
        yield f"{layer.name}.{layer.output}.weight", each.weight
        yield f"{layer.name}.{layer.output}.bias", each.bias


def _without(
    model: CanonicalModel, kept: Mapping[str, np.ndarray], fitted: Mapping[str, np.ndarray]
) -> CanonicalModel:
    """The model with the ``kept`` columns (layer -> int64 ascending) only, and ``fitted`` tensors in place of its own.

    Rows are selected when they are read; what is fitted is held in memory.
    """
    tensors = dict(model.tensors)
    for layer in (*_layers(model.config, "heads"), *_layers(model.config, "neurons")):
        if layer.name not in kept:
            continue
        columns = kept[layer.name]
        for part in layer.inputs:
            for kind in ("weight", "bias"):
                name = f"{layer.name}.{part}.{kind}"
                tensors[name] = _selected(tensors[name], columns, 0)
        name = f"{layer.name}.{layer.output}.weight"
        tensors[name] = _selected(tensors[name], columns, 1)
    for name, values in fitted.items():
        tensors[name] = LazyTensor.of(name, values)
    pruned = replace(model, config=_resized(model.config, kept), tensors=tensors)
    pruned.validate()
    return pruned


def _selected(tensor: LazyTensor, kept: np.ndarray, axis: int) -> LazyTensor:
    shape = (*tensor.shape[:axis], len(kept), *tensor.shape[axis + 1 :])
    return replace(tensor, shape=shape, load=lambda: tensor.read().take(kept, axis=axis))


def _resized(config: ModelConfig, kept: Mapping[str, np.ndarray]) -> ModelConfig:
    def attention(name: str, each: AttentionConfig) -> AttentionConfig:
        columns = kept.get(name)
        heads = each.heads if columns is None else len(columns) // each.head_width
        return replace(each, heads=heads, kv_heads=heads)

    stacks: dict[str, Any] = {}
    for stack, sizes in config.stacks():
        layers = []
        for i, layer in enumerate(sizes.layers):
            name = f"{stack}.layers.{i}"
            attentions = {part: attention(f"{name}.{part}", each) for part, each in layer.attentions()}
            neurons = kept.get(f"{name}.ffn")
            width = layer.feed_forward.width if neurons is None else len(neurons)
            layers.append(replace(layer, feed_forward=replace(layer.feed_forward, width=width), **attentions))
        stacks[stack] = replace(sizes, layers=tuple(layers))
    return replace(config, **stacks)


def _row(what: str, layer: _Layer, reduced: structured.ReducedLayer, reconstruct: bool) -> Removed:
    return Removed(
        what=what,
        layer=layer.name,
        removed=(layer.columns - len(reduced.kept)) // layer.unit,
        total=layer.columns // layer.unit,
        error_before=reduced.removal_error,
        error_after=reduced.error if reconstruct else reduced.removal_error,
    )
