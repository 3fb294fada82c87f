"""Zeros in the matrices of the layers, by a pattern: any weights, n of m, or blocks of 16 rows and 4 columns.

    magnitude   the smallest weights go                             (no text)
    wanda       those that matter least for what the layer reads    (Sun et al., arXiv:2306.11695)
    sparsegpt   likewise, and the others make up for them           (Frantar and Alistarh, arXiv:2301.00774)

Only blocks make a model smaller and faster: they are not stored, and not multiplied by (``layout.SPARSE``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.errors import OptionError
from pyengine.modelfile.layout import (
    FLOATS,
    INT4,
    SPARSE,
    PackedSpec,
    matrix_names,
    packed_specs,
    part_rows,
    stack_rows,
)
from pyengine.quantize.prune.gram import row_errors
from pyengine.quantize.prune.masks import Blocks, NOfM, Pattern, RowShare, magnitude_scores, wanda_scores
from pyengine.quantize.prune.sparsegpt import prune_sparse
from pyengine.quantize.seeing.statistics import InputStatistics

__all__ = ["MASKS", "SPARSE_METHODS", "Masked", "pattern_of", "slower_than_dense", "sparse_types", "sparsify"]

MASKS = ("blocks", "weights")
SPARSE_METHODS = ("magnitude", "wanda", "sparsegpt")
BREAK_EVEN = 0.25
"""Of all blocks: with fewer zeros than that, some products take longer than dense ones (see docs/pruning.md)."""


@dataclass(frozen=True)
class Masked:
    """A matrix by packed name: the share of its weights that are zero, and the share of its outputs' squares lost.

    ``error_before``: by the mask alone; ``error``: with what makes up for it. Without text both are of the weights.
    """

    name: str
    share: float
    error_before: float
    error: float


def pattern_of(what: str, share: float) -> Pattern:
    """Of "blocks" or "weights" a share, or "n:m". Raises OptionError for another name, or a share outside (0, 1)."""
    if match := re.fullmatch("([0-9]{1,4}):([0-9]{1,4})", what):
        return NOfM(int(match[1]), int(match[2]))
    if what not in MASKS:
        raise OptionError(f"{what}: expected one of {', '.join(MASKS)} or N:M such as 2:4")
    if not 0 < share < 1:
        raise OptionError(f"{what}: expected a share between 0 and 1, found {share}")
    return Blocks(share) if what == "blocks" else RowShare(share)


def slower_than_dense(pattern: Pattern, weights: str) -> str:
    """Why a model of type ``weights`` with this pattern will not run faster, and what does; "" if it will."""
    instead = "ffn=SHARE removes whole neurons, which always saves time"
    if not isinstance(pattern, Blocks):
        return f"single weights and N:M zeros are multiplied by as all others are; blocks=SHARE are not, and {instead}"
    if weights in FLOATS:
        return f"blocks of zeros are skipped with --weights int8 only; or {instead}"
    if pattern.share < BREAK_EVEN:
        return f"skipping blocks pays from {BREAK_EVEN:.0%} of them on; or {instead}"
    return ""


def sparse_types(types: Mapping[str, str], pattern: Pattern) -> dict[str, str]:
    """``types`` (packed name -> type) as they are with ``pattern``: blocks make SPARSE matrices of int8 layers.

    Raises OptionError where layers are int4, whose rounding would fill zeros again.
    """
    layers = [name for name in types if ".layers." in name]
    int4 = [name for name in layers if types[name] in INT4]
    if int4:
        raise OptionError(
            f"sparse: zeros need layers that are not int4, but {int4[0]} is {types[int4[0]]}", keywords=("sparse",)
        )
    if not isinstance(pattern, Blocks):
        return dict(types)
    return {name: SPARSE if name in layers and kind == "int8" else kind for name, kind in types.items()}


def sparsify(
    model: CanonicalModel,
    pattern: Pattern,
    method: str,
    statistics: Mapping[str, InputStatistics],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CanonicalModel, list[Masked]]:
    """The model with zeros in the matrices of all layers, not in tables and the output layer.

    Stacked matrices are one, as they are stored. ``method``: one of SPARSE_METHODS; all but magnitude need
    ``statistics`` of ``calibrate``. Holds the pruned weights in float32. ``progress`` is told the matrices done, and
    their number. Raises OptionError for another method.
    """
    if method not in SPARSE_METHODS:
        raise OptionError(f"sparse_method: expected one of {', '.join(SPARSE_METHODS)}, found {method!r}")
    tensors, done = dict(model.tensors), []
    layers = _layers(model)
    if progress:
        progress(0, len(layers))  # so that the first matrix is timed, too
    for name, spec in layers.items():
        parts = [tensors[source].read() for source in spec.sources]
        pruned, row = _prune(name, stack_rows(parts, spec.form), pattern, method, statistics.get(name))
        done.append(row)
        places = part_rows([len(part) for part in parts], spec.form)
        for source, rows in zip(spec.sources, places, strict=True):
            tensors[source] = LazyTensor.of(source, pruned[rows])
        if progress:
            progress(len(done), len(layers))
    return replace(model, tensors=tensors), done


def _layers(model: CanonicalModel) -> dict[str, PackedSpec]:
    """Packed name -> what it holds, of the matrices of the layers."""
    specs = packed_specs(model.config, "float32")
    return {name: specs[f"{name}.weight"] for name in matrix_names(model.config) if ".layers." in name}


def _prune(
    name: str, weight: np.ndarray, pattern: Pattern, method: str, seen: InputStatistics | None
) -> tuple[np.ndarray, Masked]:
    gram = np.eye(weight.shape[1]) if seen is None else seen.gram
    if method == "sparsegpt":
        found = prune_sparse(weight, gram, pattern)
        pruned, before, error = found.weight, found.masked_error, found.error
    else:
        scores = magnitude_scores(weight) if method == "magnitude" else wanda_scores(weight, gram)
        pruned = np.where(pattern.keep(scores), weight, np.float32(0))
        before = error = float(row_errors(weight - pruned, gram).sum()) / (float(row_errors(weight, gram).sum()) or 1.0)
    return pruned, Masked(name, 1 - np.count_nonzero(pruned) / pruned.size, before, error)
