"""Rounding to int4 by what the layers read: ranges, GPTQ, scales fitted anew, and biases that make up for the rest.

    choose_grid   steps of least error weighted by E[x^2]              ("weighted" rounds to them)
    clipped_grid  steps of least error of what each group gives        ("awq" rounds to them, after its scales)
    gptq          columns make up for the errors of those before them  ("gptq")
    refit         the steps that fit the codes best                    (not of "awq")
    bias          minus the mean error of the output

Each of stacked matrices is rounded by itself. int8 stays as it is without calibration: its error is far below.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.modelfile.layout import INT4, packed_specs
from pyengine.quantize.biases import with_biases
from pyengine.quantize.rounding.correction import corrected_bias
from pyengine.quantize.rounding.gptq import gptq
from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.refit import refit
from pyengine.quantize.rounding.rounding import Rounded, scheme_of
from pyengine.quantize.scaling.awq import clipped_grid
from pyengine.quantize.seeing.statistics import InputStatistics, inputs_of

__all__ = ["CALIBRATED", "round_calibrated", "rows_needed"]

CALIBRATED = ("weighted", "awq", "gptq")


def rows_needed(model: CanonicalModel, types: Mapping[str, str], method: str) -> int:
    """Rows that every layer must see: enough for means, and for GPTQ as many as the widest int4 matrix has columns."""
    if method != "gptq":
        return 256
    return max((model.tensors[sources[0]].shape[1] for _, sources in _int4(model, types)), default=1)


def round_calibrated(
    model: CanonicalModel,
    types: Mapping[str, str],
    statistics: Mapping[str, InputStatistics],
    method: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CanonicalModel, dict[str, list[Rounded]]]:
    """The int4 matrices of ``types`` (packed name -> type) rounded, and the model with biases corrected for that.

    ``statistics`` are of ``calibration.calibrate``, ``method`` is one of CALIBRATED. An embedding table is rounded by
    what the output layer reads where it is that, else its columns count alike. Layers that have no bias get one. Holds
    one byte a weight rounded. ``progress`` is told the matrices done, and their number.
    """
    rounded: dict[str, list[Rounded]] = {}
    biases: dict[str, LazyTensor] = {}  # by linear layer
    todo = _int4(model, types)
    for name, sources in todo:
        seen = inputs_of(statistics, model.config, name)
        rounded[name] = []
        for source in sources:
            matrix = model.tensors[source].read()
            part = _round(matrix, types[name], seen, method)
            rounded[name].append(part)
            if seen is not None and not isinstance(part, np.ndarray):
                layer = "output" if name == "decoder.embed" else source.removesuffix(".weight")
                bias = f"{layer}.bias"
                old = model.tensors[bias].read() if bias in model.tensors else None
                new = corrected_bias(old, matrix, part.dequantize(matrix.shape[1]), seen.mean)
                biases[layer] = LazyTensor.of(bias, new)
        if progress:
            progress(len(rounded), len(todo))
    model = with_biases(model, biases)
    return replace(model, tensors={**model.tensors, **{each.name: each for each in biases.values()}}), rounded


def _int4(model: CanonicalModel, types: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """(packed name, canonical names) of the int4 matrices."""
    specs = packed_specs(model.config, "float32")
    return [(name, specs[f"{name}.weight"].sources) for name, kind in types.items() if kind in INT4]


def _round(matrix: np.ndarray, weights: str, seen: InputStatistics | None, method: str) -> Rounded:
    scheme = scheme_of(weights)
    if seen is None:
        return round_to_grid(matrix, choose_grid(matrix, scheme))
    if method == "awq":
        return round_to_grid(matrix, clipped_grid(matrix, scheme, seen.gram))
    grid = choose_grid(matrix, scheme, weights=seen.second_moment)
    if method == "gptq":
        return refit(matrix, gptq(matrix, grid, seen.gram), seen.gram)
    return refit(matrix, round_to_grid(matrix, grid), seen.second_moment)
