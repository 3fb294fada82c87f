"""Convert a checkpoint tensor by tensor: read, quantize, pack, store, forget.

At any time one matrix is held in float32 and, beside it, its packed form; nothing else that grows with the
model. Only a calibration holds more: the model in float32 while it runs, the Gram matrix of each layer's inputs,
and then a byte for each weight that it rounded. Zeros hold the layers' weights in float32, and what was fitted or
scaled is made again whenever it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, Mapping, Sequence

from pyengine.canonical import CanonicalModel, ModelConfig
from pyengine.errors import OptionError
from pyengine.modelfile.directory import KV
from pyengine.modelfile.layout import HALVES, INT4, SPARSE, matrix_names, packed_specs
from pyengine.modelfile.writer import check_target, write_directory
from pyengine.output import scratch_directory
from pyengine.quantize.measuring.budget import Choice
from pyengine.quantize.opening import open_model
from pyengine.quantize.packing import Progress, StoredTensor, pack_tensors
from pyengine.quantize.prune.masks import Pattern
from pyengine.quantize.prune.shares import check_shares, layers_to_remove
from pyengine.quantize.prune.sparse import SPARSE_METHODS, Masked, sparse_types, sparsify
from pyengine.quantize.rounding.by_inputs import CALIBRATED
from pyengine.quantize.rounding.rounding import Rounded, pack_parts, round_parts
from pyengine.quantize.scaling.hadamard import with_hadamard
from pyengine.quantize.scaling.scaling import Scaled, awq, smooth
from pyengine.quantize.scaling.scaling import equalize as equalized
from pyengine.quantize.seeing.statistics import InputStatistics
from pyengine.quantize.types import resolve_types
from pyengine.text import Tokenizer, tokenizer_of
from pyengine.version import __version__

if TYPE_CHECKING:
    from pyengine.quantize.prune.model import PrunedModel, Removed
    from pyengine.quantize.seeing.text import Text
    from pyengine.quantize.vocabulary.trim import KeptTokens

__all__ = ["Calibration", "Conversion", "convert", "measure"]

PROBED = 32  # lines that sensitivity is measured on
PROBE = "int4g64"  # what scales are searched for where types are still to be chosen
_GRIDS = {"int4g32": ("Q4_0",), "int4g32z": ("Q4_0", "Q4_1")}  # type -> types of GGUF files that it may hold
LEAST_ROWS = 256  # that a calibration needs of each layer

Statistics = Mapping[str, InputStatistics]


@dataclass(frozen=True)
class Calibration:
    """Text to calibrate int4 matrices on, and what to do with it.

    text     (source, target) as ``text.load_text`` gives it, or ids; what the model cannot take is skipped
    method   one of ``by_inputs.CALIBRATED``; another one: the text is for pruning, zeros and smoothing alone
    smooth   exponents that SmoothQuant tries at each place that takes scales, see ``scaling``; none: it does not
    state    a file from which an interrupted calibration goes on
    target_bytes    of all tensors, or
    max_divergence  KL, a token: measured sensitivity chooses the types of the matrices, see ``mixed``
    progress is told the steps done and all of them, for each stage anew
    """

    text: Text
    method: str = "gptq"
    smooth: tuple[float, ...] = ()
    state: str | Path | None = None
    target_bytes: int | None = None
    max_divergence: float | None = None
    progress: Progress | None = None

    @property
    def scales(self) -> bool:
        """Whether channels are scaled."""
        return bool(self.smooth) or self.method == "awq"

    @property
    def chooses(self) -> bool:
        """Whether types are to be chosen."""
        return self.target_bytes is not None or self.max_divergence is not None


@dataclass(frozen=True)
class Conversion:
    """All tensors of a conversion, the size of the model directory (0 if none was written), and what was done before.

    removed    by pruning
    recovered  if something went: what of the variance of the last stack's outputs that lost on the text, before the
               rest was fitted and after
    scaled     by smoothing and AWQ, a place each
    masked     by zeros, a matrix each
    choices    of types, if they were to be chosen: the one that was taken, then those of other sizes (bytes of all
               tensors, KL divergence to expect)
    kept       of the vocabulary, if it was trimmed
    equalized  whether ranges were made alike
    hadamard   whether what matrices read is multiplied by a Hadamard matrix
    notes      what of the checkpoint and the text was passed over or is missing, for people
    """

    weights: str
    tensors: tuple[StoredTensor, ...]
    directory_bytes: int
    removed: tuple[Removed, ...] = ()
    scaled: tuple[Scaled, ...] = ()
    masked: tuple[Masked, ...] = ()
    choices: tuple[Choice, ...] = ()
    recovered: tuple[float, float] | None = None
    kept: KeptTokens | None = None
    equalized: bool = False
    hadamard: bool = False
    notes: tuple[str, ...] = ()

    @property
    def float32_bytes(self) -> int:
        """Bytes of all tensors in float32, without padding."""
        return sum(tensor.float32_bytes for tensor in self.tensors)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors as stored, padding included."""
        return sum(tensor.stored_bytes for tensor in self.tensors)


def convert(
    checkpoint: str | Path | CanonicalModel,
    output: str | Path,
    *,
    weights: str = "int8",
    tensors: Sequence[tuple[str, str]] = (),
    method: str = "absmax",
    calibration: Calibration | None = None,
    prune: Mapping[str, float] | None = None,
    sparse: Pattern | None = None,
    sparse_method: str = "sparsegpt",
    equalize: bool = False,
    hadamard: bool | None = None,
    vocabulary: Text | None = None,
    kv: str | None = None,
    requantize: bool = False,
    allow_unknown_keys: Collection[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write the model directory ``output`` from ``checkpoint``: a training checkpoint, another model directory, or a
    model without tokenizer, whose tensors are read as they are needed.

    weights, tensors  the types, see ``types.resolve_types``
    method       how ranges are found without ``calibration``: one of ``ranges.METHODS``
    prune        what of ``prune.shares.PRUNABLE`` -> the share to remove first, see ``prune.model.prune_model``; needs
                 a ``calibration``
    sparse       zeros in the layers' matrices by this pattern; ``sparse_method`` says which, see ``prune.sparse``, and
                 all but "magnitude" need a ``calibration``
    equalize     make ranges of adjacent layers alike, see ``scaling.equalize``
    hadamard     multiply what matrices read by a Hadamard matrix, see ``scaling.hadamard``; None: where all that is
                 rounded becomes int8, or GPTQ rounds, and no channels are scaled, if the model takes it
    vocabulary   text (source, target) whose tokens are kept, see ``trim.trim_vocabulary``; the others go
    kv           the type of cached keys and values that the directory asks for, "int8" or "float32"; None: as the input
                 does, if that is a model directory
    requantize   ``checkpoint`` may be a model directory with rounded weights
    allow_unknown_keys  of the checkpoint's configs, by name, that change no result: they are passed over
    overwrite    replace an existing model directory
    progress     is told the bytes of float32 tensors that are done, and all of them

    Raises what ``open_model``, ``open_tokenizer``, ``resolve_types``, ``calibration.calibrate``, ``trim_vocabulary``,
    ``prune_model`` and ``write_directory`` raise; whatever is raised, nothing is left behind.
    """
    check_target(output, overwrite=overwrite)
    if prune:
        check_shares(prune)
    if kv is not None and kv not in KV:
        raise OptionError(f"kv: expected one of {', '.join(KV)}, found {kv!r}")
    if sparse is not None and sparse_method not in SPARSE_METHODS:
        raise OptionError(f"sparse_method: expected one of {', '.join(SPARSE_METHODS)}, found {sparse_method!r}")
    if sparse is not None and calibration is not None and calibration.chooses:
        raise OptionError("calibration: the types that it chooses are int4, which cannot have zeros")
    if calibration is None and (prune or sparse is not None and sparse_method != "magnitude"):
        raise OptionError("prune: expected text to calibrate on, found none")
    model, tokenizer = _open(checkpoint, requantize, allow_unknown_keys)
    if hadamard:
        _require_hadamard(model, calibration)
    notes = list(model.notes)
    if calibration is not None:
        text, skipped = _usable(model, tokenizer, calibration.text)
        calibration = replace(calibration, text=text)
        notes += skipped
    left = _with_layers_left(model.config, prune or {})
    types, fixed = _types(left, weights, tensors, sparse), resolve_types(left, "", tensors)
    hadamard = _takes_hadamard(model, types, calibration, equalize) if hadamard is None else hadamard
    model = with_hadamard(model, hadamard and not prune and not equalize)  # which go by channels
    removed: list[Removed] = []
    recovered = kept = None
    with scratch_directory() as scratch:
        if vocabulary is not None:
            model, tokenizer, kept = _trimmed(model, vocabulary, scratch)
        if prune and calibration is not None:
            pruned = _pruned(model, tokenizer, calibration, prune)
            model, removed = pruned.model, pruned.removed
            types, fixed = _types(model.config, weights, tensors, sparse), resolve_types(model.config, "", tensors)
            *_, last = (name for name, _ in model.config.stacks())
            recovered = (pruned.lost_before[last], pruned.lost[last]) if removed else None
        if equalize:
            model = equalized(model)
        model = with_hadamard(model, hadamard)
        statistics: Statistics = {}
        if calibration is not None and _needs_statistics(calibration, types, None if sparse is None else sparse_method):
            statistics = _statistics(model, tokenizer, calibration, types)
        scaled, masked, choices = list[Scaled](), list[Masked](), list[Choice]()
        likely = dict.fromkeys(types, PROBE) if calibration is not None and calibration.chooses else types
        if calibration is not None and calibration.smooth:
            model, statistics, scaled = smooth(model, likely, statistics, calibration.smooth, calibration.progress)
        if calibration is not None and calibration.method == "awq":
            model, statistics, more = awq(model, likely, statistics, calibration.progress)
            scaled += more
        if sparse is not None:
            told = calibration.progress if calibration is not None else None
            model, masked = sparsify(model, sparse, sparse_method, statistics, told)
        if calibration is not None and calibration.chooses:
            choices = _choices(model, tokenizer, calibration, statistics, fixed)
            types = choices[0].types
        done: dict[str, list[Rounded]] = {}
        if calibration is not None and calibration.method in CALIBRATED and statistics:
            model, done = _rounded(model, types, statistics, calibration)
        lines = _round_sparse(model, types, method, done)
        other_weights = {name: kind for name, kind in types.items() if kind != weights}
        rows: list[StoredTensor] = []
        size = write_directory(
            output,
            config=model.config,
            weights=weights,
            other_weights=other_weights,
            lines=lines,
            generation=model.generation,
            tensors=pack_tensors(model, weights, other_weights, method, rows, progress, done, lines),
            tokenizer=model.tokenizer_kind,
            tokenizer_files=model.tokenizer_files,
            created_by=f"pyengine {__version__}",
            kv=kv or model.kv,
            removed=model.removed,
            overwrite=overwrite,
        )
    before = tuple(removed), tuple(scaled), tuple(masked), tuple(choices), recovered, kept, equalize, hadamard
    return Conversion(weights, tuple(rows), size, *before, tuple(notes))


def measure(
    checkpoint: str | Path,
    *,
    weights: str = "int8",
    tensors: Sequence[tuple[str, str]] = (),
    method: str = "absmax",
    hadamard: bool | None = None,
    requantize: bool = False,
    allow_unknown_keys: Collection[str] = (),
    progress: Progress | None = None,
) -> Conversion:
    """What ``convert`` would report, without writing anything."""
    model, _ = _open(checkpoint, requantize, allow_unknown_keys)
    if hadamard:
        _require_hadamard(model, None)
    rows: list[StoredTensor] = []
    other_weights = resolve_types(model.config, weights, tensors)
    types = _types(model.config, weights, tensors, None)
    hadamard = _takes_hadamard(model, types, None, False) if hadamard is None else hadamard
    model = with_hadamard(model, hadamard)
    for _, array in pack_tensors(model, weights, other_weights, method, rows, progress, {}):
        del array  # as in the writer: the next tensor is made without this one beside it
    return Conversion(weights, tuple(rows), 0, hadamard=hadamard, notes=model.notes)


def _takes_hadamard(
    model: CanonicalModel, types: Mapping[str, str], calibration: Calibration | None, equalize: bool
) -> bool:
    """Whether a Hadamard matrix is worth its additions: what is rounded becomes int8, or is rounded by GPTQ, and no
    channels are scaled. (int4 rounded to nearest loses more with it: docs/quantization.md; bfloat16 and float16 would
    no longer be what a checkpoint has.)"""
    kinds = set(types.values()) - {"float32"}
    halves = not kinds.isdisjoint(HALVES)
    gptq = calibration is not None and calibration.method == "gptq"
    scales = equalize or calibration is not None and calibration.scales
    rounds = bool(kinds) and not halves and SPARSE not in kinds and (gptq or kinds == {"int8"})
    return model.config.takes_hadamard and rounds and not scales and not _keeps_bits(model, kinds)


def _keeps_bits(model: CanonicalModel, kinds: set[str]) -> bool:
    """Whether matrices lie on the grid of one of these types already, on which int4 finds every one of their bits."""
    grids = {stored for kind in kinds for stored in _GRIDS.get(kind, ())}
    return any(tensor.dtype in grids for tensor in model.tensors.values())


def _require_hadamard(model: CanonicalModel, calibration: Calibration | None) -> None:
    if not model.config.takes_hadamard:
        raise OptionError("hadamard: expected a decoder alone that reads norms of its sums, found another model")
    if calibration is not None and calibration.scales:
        raise OptionError("hadamard: expected neither smooth nor awq, whose channels it mixes")


def _open(
    checkpoint: str | Path | CanonicalModel, requantize: bool, allow_unknown_keys: Collection[str]
) -> tuple[CanonicalModel, Tokenizer | None]:
    """The model, with a tokenizer that opens: else the model directory could be written and not used."""
    if isinstance(checkpoint, CanonicalModel):
        return checkpoint, None
    model = open_model(checkpoint, requantize=requantize, allow_unknown_keys=allow_unknown_keys)
    with model.laid_out() as laid:
        return model, tokenizer_of(laid)


def _usable(model: CanonicalModel, tokenizer: Tokenizer | None, text: Text) -> tuple[Text, list[str]]:
    """What of ``text`` the model can take, and what to say of the rest."""
    from pyengine.quantize.seeing.text import usable_text  # with what reads inputs, as below

    kept, skipped = usable_text(text, model.config, model.generation, tokenizer)
    return kept, [str(skipped)] if str(skipped) else []


def _with_layers_left(config: ModelConfig, prune: Mapping[str, float]) -> ModelConfig:
    """As many layers as ``prune`` will leave: types go by the numbers that layers have in what is written."""
    stacks: dict[str, Any] = {}
    for stack, sizes in (("encoder", config.encoder), ("decoder", config.decoder)):
        gone = layers_to_remove(stack, sizes, prune.get(f"{stack}_layers", 0.0))
        stacks[stack] = None if sizes is None else replace(sizes, layers=sizes.layers[: len(sizes.layers) - gone])
    return replace(config, **stacks)


def _types(
    config: ModelConfig, weights: str, tensors: Sequence[tuple[str, str]], sparse: Pattern | None
) -> dict[str, str]:
    """Packed name -> type of every matrix."""
    others = resolve_types(config, weights, tensors)
    types = {name: others.get(name, weights) for name in matrix_names(config)}
    return types if sparse is None else sparse_types(types, sparse)


def _trimmed(model: CanonicalModel, text: Text, scratch: Path) -> tuple[CanonicalModel, Tokenizer, KeptTokens]:
    """The model without the tokens that ``text`` does not use; its new tokenizer files lie in ``scratch``."""
    from pyengine.quantize.seeing.text import is_blank, sides
    from pyengine.quantize.vocabulary.trim import KeptTokens, trim_vocabulary  # with the tokenizer libraries

    lines = [sides(model.config, line, number) for number, line in enumerate(text, 1)]
    pairs = [line for line in lines if not is_blank(next(side for side in line if side is not None))]
    if model.config.decoder is not None and any(target is None for _, target in pairs):
        raise OptionError(
            "vocabulary: expected a translation behind a tab in every line, found lines without",
            keywords=("vocabulary",),
        )
    trimmed = trim_vocabulary(model, pairs, scratch)
    tokenizer = tokenizer_of(trimmed.model)
    assert tokenizer is not None  # else there was nothing to trim by
    return trimmed.model, tokenizer, KeptTokens(trimmed.source_ids, trimmed.target_ids)


def _pruned(
    model: CanonicalModel, tokenizer: Tokenizer | None, calibration: Calibration, prune: Mapping[str, Any]
) -> PrunedModel:
    """The model without the shares ``prune`` of its layers, heads and neurons."""
    from pyengine.quantize.prune.model import prune_model  # with the engine, as below

    return prune_model(model, tokenizer, calibration.text, progress=calibration.progress, **prune)


def _needs_statistics(calibration: Calibration, types: Mapping[str, str], sparse_method: str | None) -> bool:
    int4 = calibration.method in CALIBRATED and not INT4.keys().isdisjoint(types.values())
    return int4 or calibration.chooses or bool(calibration.smooth) or sparse_method not in (None, "magnitude")


def _statistics(
    model: CanonicalModel, tokenizer: Tokenizer | None, calibration: Calibration, types: Mapping[str, str]
) -> Statistics:
    """What the layers read when the model runs on the text in float32."""
    # Imported here, and below: a conversion without text starts no engine.
    from pyengine.quantize.rounding.by_inputs import rows_needed
    from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine

    engine = in_memory_engine(model.config, model.generation, model.tensors)
    needed = max(rows_needed(model, types, calibration.method), LEAST_ROWS)
    state, progress = calibration.state, calibration.progress
    statistics = calibrate(engine, tokenizer, calibration.text, needed=needed, state=state, progress=progress)
    engine.close()
    return statistics


def _choices(
    model: CanonicalModel,
    tokenizer: Tokenizer | None,
    calibration: Calibration,
    statistics: Statistics,
    fixed: Mapping[str, str],
) -> list[Choice]:
    """The types of all matrices, by measured sensitivity where they are not ``fixed``; then those of other sizes."""
    from pyengine.quantize.measuring.mixed import choose_types, measure_sensitivity, trade_off

    own = model.config.decoder is None
    text = [(source, target) for source, target in calibration.text[:PROBED] if own or target is not None]
    sensitivity = measure_sensitivity(model, tokenizer, text, statistics, fixed, calibration.progress)
    chosen = choose_types(sensitivity, calibration.target_bytes, calibration.max_divergence)
    return [chosen, *trade_off(sensitivity)]


def _rounded(
    model: CanonicalModel, types: Mapping[str, str], statistics: Statistics, calibration: Calibration
) -> tuple[CanonicalModel, dict[str, list[Rounded]]]:
    """int4 by what the layers read, and the model with biases corrected for that."""
    from pyengine.quantize.rounding.by_inputs import round_calibrated

    return round_calibrated(model, types, statistics, calibration.method, calibration.progress)


def _round_sparse(
    model: CanonicalModel, types: Mapping[str, str], method: str, done: dict[str, list[Rounded]]
) -> dict[str, int]:
    """Round the SPARSE matrices into ``done``, because the file begins with how many lines each has: these."""
    specs, lines = packed_specs(model.config, "float32"), {}
    for name, kind in types.items():
        if kind == SPARSE:
            spec = specs[f"{name}.weight"]
            done[name] = round_parts([model.tensors[source].read() for source in spec.sources], kind, method)
            lines[name] = len(pack_parts(done[name], sparse=True, form=spec.form)["weight"])
    return lines
