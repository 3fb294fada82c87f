"""Scales of channels at every place of a model that absorbs them (fold.py), by one of three rules.

    smooth      so that inputs and weights together round best to int8 and the weights' type     (smooth.py)
    awq         so that the weights that meet large inputs round best                            (awq.py)
    equalize    so that ranges of producer and consumer are alike; needs no text                 (equalize.py)

The first two are searched, and a place where nothing lowers the error of what it gives stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from pyengine.canonical import CanonicalModel, ModelConfig
from pyengine.modelfile.layout import INT4, SPARSE, packed_specs
from pyengine.quantize.rounding.rounding import scheme_of
from pyengine.quantize.scaling.awq import search_awq
from pyengine.quantize.scaling.equalize import equalizing_scales
from pyengine.quantize.scaling.fold import Place, fold, places
from pyengine.quantize.scaling.smooth import ScaleSearch, search_smoothing
from pyengine.quantize.seeing.statistics import InputStatistics

__all__ = ["Scaled", "awq", "equalize", "smooth"]

Progress = Callable[[int, int], None]
Statistics = Mapping[str, InputStatistics]


@dataclass(frozen=True)
class Scaled:
    """What ``method`` did at a place: the exponent it chose (None: nothing), and what it changed.

    Errors are those of the consumers' outputs, |y' - y|^2 by |y|^2, with all weights rounded to nearest.
    """

    place: str
    method: str
    alpha: float | None
    error_before: float
    error: float


def smooth(
    model: CanonicalModel,
    types: Mapping[str, str],
    statistics: Statistics,
    alphas: Sequence[float],
    progress: Progress | None = None,
) -> tuple[CanonicalModel, Statistics, list[Scaled]]:
    """SmoothQuant with one of ``alphas`` at each place: the model, its statistics then, and what was done.

    ``types``: packed name -> type; where no consumer is rounded, nothing is. ``statistics`` of ``calibrate`` with a
    sample of rows. ``progress`` is told the places done, and their number.
    """

    def search(matrix: np.ndarray, weights: str, seen: InputStatistics, place: Place) -> ScaleSearch:
        largest = [place.columns(place.channels(each)) for each in (seen.absmax, np.abs(matrix).max(axis=0))]
        return search_smoothing(matrix, seen.rows, *largest, scheme_of(weights), alphas=tuple(alphas))

    return _searched(model, types, statistics, "smooth", ("int8", SPARSE, *INT4), search, progress)


def awq(
    model: CanonicalModel, types: Mapping[str, str], statistics: Statistics, progress: Progress | None = None
) -> tuple[CanonicalModel, Statistics, list[Scaled]]:
    """The scales of AWQ at each place that int4 matrices read; arguments and results as of ``smooth``."""

    def search(matrix: np.ndarray, weights: str, seen: InputStatistics, place: Place) -> ScaleSearch:
        mean_abs = place.columns(place.channels(seen.mean_abs))
        return search_awq(matrix, mean_abs, seen.gram, scheme_of(weights))

    return _searched(model, types, statistics, "awq", tuple(INT4), search, progress)


def equalize(model: CanonicalModel) -> CanonicalModel:
    """The model with alike ranges of both sides at each place between two linear layers."""
    for place in places(model.config):
        if place.between_layers:
            producer = model.tensors[f"{place.producers[0]}.weight"].read()
            largest = place.channels(np.abs(_consumers(model, place)).max(axis=0))
            model = fold(model, place, equalizing_scales(producer, largest[None]))
    return model


def _searched(
    model: CanonicalModel,
    types: Mapping[str, str],
    statistics: Statistics,
    method: str,
    rounded: Sequence[str],
    search: Callable[[np.ndarray, str, InputStatistics, Place], ScaleSearch],
    progress: Progress | None,
) -> tuple[CanonicalModel, Statistics, list[Scaled]]:
    statistics, done = dict(statistics), []
    packed = _packed_names(model.config)
    every = places(model.config)
    for number, place in enumerate(every, 1):
        readers = {packed[consumer] for consumer in place.consumers}
        kinds = {types[reader] for reader in readers}.intersection(rounded)
        if kinds:
            coarsest = max(kinds, key=lambda kind: INT4.get(kind, (0, False)))  # by the group: int8 has none
            found = search(_consumers(model, place), coarsest, statistics[place.reader], place)
            if found.alpha is not None:
                model = fold(model, place, place.channels(found.scales))
                statistics.update({reader: statistics[reader].divided(found.scales) for reader in readers})
            done.append(Scaled(place.name, method, found.alpha, found.error_before, found.error))
        if progress:
            progress(number, len(every))
    return model, statistics, done


def _consumers(model: CanonicalModel, place: Place) -> np.ndarray:
    """The matrices that read a place's channels, stacked."""
    return np.concatenate([model.tensors[f"{consumer}.weight"].read() for consumer in place.consumers])


def _packed_names(config: ModelConfig) -> dict[str, str]:
    """Canonical name of each matrix -> the packed name of the one that it is stacked into."""
    return {
        source.removesuffix(".weight"): name.removesuffix(".weight")
        for name, spec in packed_specs(config, "float32").items()
        if spec.kind == "weight"
        for source in spec.sources
    }
