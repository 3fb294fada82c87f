"""Types by measured sensitivity: which matrices can be int4, in which groups, and which had better stay int8.

    e_it   output error of matrix i in type t, tr(dW H dW^T) / tr(W H W^T), from the inputs seen in calibration
    g_i    KL divergence a token of the model with only matrix i in PROBE, over e_i,PROBE: how much an error there
           matters; of an encoder alone, which says nothing of tokens, the error of what it gives
    sum_i g_i e_it   the KL divergence to expect if errors add up; ``budget`` makes it or the bytes small

Stacked matrices (queries, keys and values) are one unit: they are one matrix when the model runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from pyengine.canonical import CanonicalModel, ModelConfig
from pyengine.errors import OptionError
from pyengine.modelfile.layout import DTYPES, INT4, matrix_names, packed_specs
from pyengine.quantize.biases import with_biases
from pyengine.quantize.measuring.budget import Candidate, Choice, least_bytes, least_error
from pyengine.quantize.measuring.distortion import output_power
from pyengine.quantize.measuring.divergence import state_error, token_divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.rounding import scheme_of
from pyengine.quantize.seeing.calibration import packed_tensor
from pyengine.quantize.seeing.statistics import InputStatistics, inputs_of
from pyengine.quantize.seeing.text import Text
from pyengine.tasks.engine import make_engine
from pyengine.tasks.inputs import Sample
from pyengine.text import Tokenizer

__all__ = ["CANDIDATES", "Sensitivity", "choose_types", "measure_sensitivity", "trade_off"]

CANDIDATES = (*INT4, "int8")
PROBE = "int4g64"
ROWS = 384  # of the text: they order the matrices as well as many do


@dataclass(frozen=True)
class Sensitivity:
    """What each type costs each matrix, by packed name, and how much an error of the matrix matters.

    ``rest`` are the bytes of all tensors that are no matrices.
    """

    units: Mapping[str, Mapping[str, Candidate]]
    weights: Mapping[str, float]
    rest: int


def measure_sensitivity(
    model: CanonicalModel,
    tokenizer: Tokenizer | None,
    text: Text,
    statistics: Mapping[str, InputStatistics],
    fixed: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Try each matrix in each of CANDIDATES, and the model with it alone in PROBE over ``text``.

    There is no choice for those in ``fixed``, packed name -> type: they are not tried, and their error counts as none.
    No target is left to the model, and of a long text the first ROWS tokens or so count.
    ``statistics`` are of ``calibration.calibrate``. Holds the model in float32 twice, and the logits of ROWS tokens.
    ``progress`` is told the matrices done, and their number.
    """
    tensors = {name: tensor.read() for name, tensor in model.tensors.items()}
    specs = packed_specs(model.config, "float32")
    packed = {name: packed_tensor(spec, tensors) for name, spec in specs.items()}

    def reader(changed: Mapping[str, np.ndarray]) -> Reader:
        return Reader(make_engine(model.config, model.generation, {**packed, **changed})[0], tokenizer)

    exact = _Exact(reader({}), text)
    sizes = {kind: _matrix_bytes(model, kind) for kind in {*CANDIDATES, *fixed.values()}}
    names = matrix_names(model.config)
    units, weights = {}, {}
    for number, name in enumerate(names, 1):
        sources = specs[f"{name}.weight"].sources
        seen = inputs_of(statistics, model.config, name)
        bias = 0 if seen is None else _bias_bytes(model, name, sources)
        of = {kind: size[name] + (bias if kind in INT4 else 0) for kind, size in sizes.items()}
        if name in fixed:
            units[name] = {fixed[name]: Candidate(of[fixed[name]], 0.0)}
            weights[name] = 0.0
            continue
        errors, rounded = {}, {}
        for kind in CANDIDATES:
            rounded[kind] = {source: _rounded(tensors[source], kind, seen) for source in sources}
            errors[kind] = _error([(tensors[source], rounded[kind][source]) for source in sources], seen)
        units[name] = {kind: Candidate(of[kind], errors[kind]) for kind in CANDIDATES}
        weight = f"{name}.weight"
        with reader({weight: packed_tensor(specs[weight], rounded[PROBE])}) as other:
            moved = exact.distance(other)
        weights[name] = moved / errors[PROBE] if errors[PROBE] > 0 else 0.0
        if progress:
            progress(number, len(names))
    return Sensitivity(units, weights, _other_bytes(model.config))


class _Exact:
    """What the model gives for the beginning of a text, and how far another is from that."""

    def __init__(self, reader: Reader, text: Text) -> None:
        samples = reader.samples(text)
        lengths = [max(0 if ids is None else len(ids) for ids in sample) for sample in samples]
        self._text = samples[: max(1, int(np.searchsorted(np.cumsum(lengths), ROWS, side="right")))]
        source, target = self._text[0]
        if source is None and target is not None:
            self._text[0] = Sample(None, target[: ROWS + 1])
        self._reader = reader
        self._logits = [] if reader.config.decoder is None else list(reader.logits(self._text))

    def distance(self, other: Reader) -> float:
        """What rounding has done to the model as a whole."""
        if not self._logits:
            return state_error(self._reader, other, self._text).error
        found = zip(self._logits, other.logits(self._text), strict=True)
        return float(np.concatenate([token_divergence(*pair) for pair in found]).mean())


def choose_types(
    sensitivity: Sensitivity, target_bytes: int | None = None, max_divergence: float | None = None
) -> Choice:
    """The types of least expected KL divergence in ``target_bytes`` of all tensors, or of fewest bytes within
    ``max_divergence``; ``Choice.bytes`` is that of all tensors.

    Exactly one of the two. Raises OptionError, saying what is possible, where nothing fits.
    """
    units, weights, rest = sensitivity.units, sensitivity.weights, sensitivity.rest
    if target_bytes is not None:
        smallest = rest + sum(min(c.bytes for c in types.values()) for types in units.values())
        if target_bytes < smallest:
            raise OptionError(
                f"target_bytes: expected at least {smallest:,} bytes, the smallest, found {target_bytes:,}",
                keywords=("target_bytes",),
            )
        found = least_error(units, target_bytes - rest, weights=weights)
    else:
        assert max_divergence is not None
        least = sum(min(weights[name] * c.error for c in types.values()) for name, types in units.items())
        if max_divergence < least:
            raise OptionError(
                f"max_divergence: expected at least {least:.6g}, the smallest, found {max_divergence:.6g}",
                keywords=("max_divergence",),
            )
        found = least_bytes(units, max_divergence, weights=weights)
    return Choice(found.types, found.bytes + rest, found.error)


def trade_off(sensitivity: Sensitivity, points: int = 25) -> list[Choice]:
    """What ``choose_types`` makes of sizes from the smallest to the largest: ascending bytes, each choice once."""
    units, rest = sensitivity.units.values(), sensitivity.rest
    least, most = (rest + sum(end(c.bytes for c in types.values()) for types in units) for end in (min, max))
    found = (choose_types(sensitivity, int(size)) for size in np.linspace(least, most, points))
    return list({choice.bytes: choice for choice in found}.values())


def _matrix_bytes(model: CanonicalModel, kind: str) -> dict[str, int]:
    """Packed name -> bytes of a matrix with its scales, in a type."""
    sizes: dict[str, int] = {}
    for packed, spec in packed_specs(model.config, kind).items():
        if spec.kind in ("weight", "scale"):
            name = packed.rpartition(".")[0]
            sizes[name] = sizes.get(name, 0) + int(np.prod(spec.shape)) * DTYPES[spec.dtype].itemsize
    return sizes


def _other_bytes(config: ModelConfig) -> int:
    """Of what is no matrix."""
    return sum(
        int(np.prod(spec.shape)) * DTYPES[spec.dtype].itemsize
        for spec in packed_specs(config, "float32").values()
        if spec.kind in ("vector", "table")
    )


def _bias_bytes(model: CanonicalModel, name: str, sources: Sequence[str]) -> int:
    """Of the biases that the matrix gets in int4 because its layer has none; those of other matrices with them."""
    layers = ["output" if name == "decoder.embed" else source.removesuffix(".weight") for source in sources]
    return _other_bytes(with_biases(model, layers).config) - _other_bytes(model.config)


def _rounded(matrix: np.ndarray, kind: str, seen: InputStatistics | None) -> np.ndarray:
    """The weights as they count, float32 [N, K]; without what was seen all columns count alike."""
    grid = choose_grid(matrix, scheme_of(kind), weights=None if seen is None else seen.second_moment)
    return round_to_grid(matrix, grid).dequantize(matrix.shape[1])


def _error(parts: Sequence[tuple[np.ndarray, np.ndarray]], seen: InputStatistics | None) -> float:
    """The output error of (matrix, rounded) parts together."""
    noise = signal = 0.0
    for matrix, rounded in parts:
        gram = np.eye(matrix.shape[1]) if seen is None else seen.gram
        noise += float(output_power(rounded.astype(np.float64) - matrix, gram).sum())
        signal += float(output_power(matrix, gram).sum())
    return noise / signal if signal > 0 else 0.0
