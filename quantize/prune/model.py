"""Prune a model: fewer attention heads and fewer neurons, those whose loss its text shows to be least.

The model is run on the text in float32. Whole layers go first, see ``depth``. Then heads: what each attention loses
with every head that goes is estimated, and of all attentions together those go that cost least. The model without them
runs on the text again, and feed-forward neurons go the same way. What a layer writes after that is fitted to what it
wrote before, by least squares and with its bias. See ``structured`` for the method and its papers.

Costs are variances of what is added to the model's vectors, a token: where a layer adds little, little can be lost.

A key-value head goes with the query heads of its group, a neuron of a gate with that of what it gates. Heads of
self-attentions stay where a table has a row for each of them, which all layers share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import AttentionConfig, CanonicalModel, FeedForwardConfig, LazyTensor, ModelConfig, Removal
from pyengine.quantize.biases import linear, with_biases
from pyengine.quantize.prune import structured
from pyengine.quantize.prune.depth import cut_layers, plan_cuts
from pyengine.quantize.prune.gram import row_errors
from pyengine.quantize.prune.shares import check_shares, layers_to_remove, refused_share, split_removals
from pyengine.quantize.prune.teacher import fit_to_teacher, outputs_lost
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.statistics import InputStatistics
from pyengine.quantize.seeing.text import Text
from pyengine.text import Tokenizer

__all__ = ["PrunedModel", "Removed", "prune_model"]

MEASURED = 200  # lines that what is lost is measured on


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

    ``unit`` columns are one head or neuron; ``step`` columns go at a time. ``shared`` inputs give a unit for each step.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    columns: int
    unit: int
    step: int
    shared: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps can go: a group of heads, or 16 neurons, must stay."""
        return max(0, self.columns // self.step - 1)

    def rows(self, part: str, kept: np.ndarray) -> np.ndarray:
        """int64 ascending: the rows of an input that go with the ``kept`` columns."""
        if part not in self.shared:
            return kept
        groups = np.unique(kept // self.step)
        return (groups[:, None] * self.unit + np.arange(self.unit)).reshape(-1)


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
    group of heads, each feed-forward layer 16 neurons. What is fitted has a bias then, whether or not it had one.
    Without ``reconstruct`` the same go, and the weights of the others stay as they were. ``progress`` is told the steps
    done and all of them, for each stage anew. Raises OptionError for shares that ``check_shares`` refuses, that leave
    too little or are of a stack that there is not; and what ``calibrate`` raises: InputError for text that is too
    short, with fewer rows than a layer has columns.
    """
    check_shares({"ffn": ffn, "heads": heads, "encoder_layers": encoder_layers, "decoder_layers": decoder_layers})
    stacks, layer_shares = dict(model.config.stacks()), {"encoder": encoder_layers, "decoder": decoder_layers}
    counts = {name: layers_to_remove(name, stacks.get(name), share) for name, share in layer_shares.items()}
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
    """Those that have "heads" or "neurons" that may go, in the order of use."""
    shared = {name for name, stack in config.stacks() if stack.relative_reach or stack.slopes}
    found = []
    for name, part in config.sublayers():
        if isinstance(part, FeedForwardConfig):
            if what == "neurons":
                inputs = ("gate", "up") if part.gated else ("up",)
                found.append(_Layer(name, inputs, "down", part.width, 1, structured.NEURONS))
        elif what == "heads" and not (name.endswith(".self_attention") and name.partition(".")[0] in shared):
            width, group = part.head_width, part.heads // part.kv_heads
            own = ("k", "v") if group > 1 else ()
            layer = _Layer(name, ("q", "k", "v"), "output", part.heads * width, width, group * width, own)
            found.append(layer)
    return found


def _total(what: str, share: float, layers: Sequence[_Layer]) -> int:
    """Steps to remove from all layers together."""
    wanted = round(share * sum(layer.columns / layer.step for layer in layers))
    limit = sum(layer.steps for layer in layers)
    if wanted > limit or share and not limit:
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
                weight, seen.gram, seen.mean, seen.count, head_width=layer.step, steps=steps
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
    return *linear(model, name), statistics[name]


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
    model = with_biases(model, [name.removesuffix(".bias") for name in fitted if name.endswith(".bias")])
    tensors = dict(model.tensors)
    for layer in (*_layers(model.config, "heads"), *_layers(model.config, "neurons")):
        if layer.name not in kept:
            continue
        columns = kept[layer.name]
        for part in layer.inputs:
            for name in (f"{layer.name}.{part}.weight", f"{layer.name}.{part}.bias"):
                if name in tensors:
                    tensors[name] = _selected(tensors[name], layer.rows(part, columns), 0)
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
    changed: dict[str, AttentionConfig | FeedForwardConfig] = {}
    for name, part in config.sublayers():
        columns = len(kept.get(name, ()))
        if columns and isinstance(part, FeedForwardConfig):
            changed[name] = replace(part, width=columns)
        elif columns and isinstance(part, AttentionConfig):
            heads = columns // part.head_width
            changed[name] = replace(part, heads=heads, kv_heads=heads * part.kv_heads // part.heads)
    return config.with_sublayers(changed)


def _row(what: str, layer: _Layer, reduced: structured.ReducedLayer, reconstruct: bool) -> Removed:
    return Removed(
        what=what,
        layer=layer.name,
        removed=(layer.columns - len(reduced.kept)) // layer.unit,
        total=layer.columns // layer.unit,
        error_before=reduced.removal_error,
        error_after=reduced.error if reconstruct else reduced.removal_error,
    )
