"""Scales of channels at every place of a model that absorbs them (fold.py), by one of three rules.

    smooth      so that inputs and weights together round best to int8 and the weights' type     (smooth.py)
    awq         so that the weights that meet large inputs round best                            (awq.py)
    equalize    so that ranges of producer and consumer are alike; needs no text                 (equalize.py)

The first two are searched, and a place where nothing lowers the error of what it gives stays as it is. Keys and
queries, whose scales change how the cache rounds and not how weights do, are smoothed only (keys.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from pyengine.canonical import CanonicalModel, ModelConfig
from pyengine.modelfile.layout import INT4, SPARSE, packed_specs
from pyengine.quantize.biases import linear
from pyengine.quantize.rounding.rounding import scheme_of
from pyengine.quantize.scaling.awq import search_awq
from pyengine.quantize.scaling.equalize import equalizing_scales
from pyengine.quantize.scaling.fold import Place, fold, places
from pyengine.quantize.scaling.keys import search_key_scales
from pyengine.quantize.scaling.smooth import ScaleSearch, search_smoothing
from pyengine.quantize.seeing.statistics import InputStatistics

__all__ = ["Scaled", "awq", "equalize", "smooth"]

Progress = Callable[[int, int], None]
Statistics = Mapping[str, InputStatistics]


@dataclass(frozen=True)
class Scaled:
    """What ``method`` did at a place: the exponent it chose (None: nothing), and what it changed.

    Errors are those of the consumers' outputs, |y' - y|^2 by |y|^2, with all weights rounded to nearest; for keys those
    of scores.
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

    def search(model: CanonicalModel, place: Place, seen: Statistics, weights: str) -> ScaleSearch:
        if not place.consumers:
            queries, keys = _meeting(model, place, seen)
            return search_key_scales(place, queries, keys, alphas)
        matrix, inputs = _consumers(model, place), seen[place.reader]
        largest = inputs.absmax, np.abs(matrix).max(axis=0)
        read, multiplied = (place.columns(place.channels(each)) for each in largest)
        return search_smoothing(matrix, inputs.rows, read, multiplied, scheme_of(weights), alphas=tuple(alphas))

    every = places(model.config)
    return _searched(model, every, types, statistics, "smooth", ("int8", SPARSE, *INT4), search, progress)


def awq(
    model: CanonicalModel, types: Mapping[str, str], statistics: Statistics, progress: Progress | None = None
) -> tuple[CanonicalModel, Statistics, list[Scaled]]:
    """The scales of AWQ at each place that int4 matrices read; arguments and results as of ``smooth``."""

    def search(model: CanonicalModel, place: Place, seen: Statistics, weights: str) -> ScaleSearch:
        mean_abs = place.columns(place.channels(seen[place.reader].mean_abs))
        return search_awq(_consumers(model, place), mean_abs, seen[place.reader].gram, scheme_of(weights))

    read = [place for place in places(model.config) if place.consumers]
    return _searched(model, read, types, statistics, "awq", tuple(INT4), search, progress)


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
    every: Sequence[Place],
    types: Mapping[str, str],
    statistics: Statistics,
    method: str,
    rounded: Sequence[str],
    search: Callable[[CanonicalModel, Place, Statistics, str], ScaleSearch],
    progress: Progress | None,
) -> tuple[CanonicalModel, Statistics, list[Scaled]]:
    statistics, done = dict(statistics), []
    packed = _packed_names(model.config)
    for number, place in enumerate(every, 1):
        readers = {packed[each] for each in place.consumers or (*place.queries, *place.producers)}
        kinds = {types[reader] for reader in readers}.intersection(rounded)
        if kinds:
            coarsest = max(kinds, key=lambda kind: INT4.get(kind, (0, False)))  # by the group: int8 has none
            found = search(model, place, statistics, coarsest)
            if found.alpha is not None:
                model = fold(model, place, place.channels(found.scales) if place.consumers else found.scales)
                if place.consumers:
                    statistics.update({reader: statistics[reader].divided(found.scales) for reader in readers})
            done.append(Scaled(place.name, method, found.alpha, found.error_before, found.error))
        if progress:
            progress(number, len(every))
    return model, statistics, done


def _meeting(model: CanonicalModel, place: Place, statistics: Statistics) -> list[np.ndarray]:
    """Queries and keys of a sample of rows, float32."""
    packed, found = _packed_names(model.config), []
    for name in (*place.queries, *place.producers):
        weight, bias = linear(model, name)
        found.append(statistics[packed[name]].rows @ weight.T + bias)
    return found


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
