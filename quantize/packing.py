"""Pack the tensors of a model one after the other: read, quantize, pack, hand out, forget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping, Sequence

import numpy as np

from pyengine.canonical import CanonicalModel
from pyengine.errors import OptionError
from pyengine.modelfile.layout import SPARSE, pack_values, packed_specs
from pyengine.quantize.measuring.distortion import snr_db
from pyengine.quantize.rounding.rounding import Rounded, pack_parts, round_matrix

__all__ = ["StoredTensor", "pack_tensors"]

Progress = Callable[[int, int], None]  # (bytes of float32 tensors done, of all)


@dataclass(frozen=True)
class StoredTensor:
    """A packed matrix (its scales included), vector or table: bytes in float32 and as stored, signal to noise.

    ``shape`` is that of the stacked sources, without padding. ``snr_db`` is
    10 log10(sum W^2 / sum (W - W')^2), infinite if nothing was rounded.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    float32_bytes: int
    stored_bytes: int
    snr_db: float


def pack_tensors(
    model: CanonicalModel,
    weights: str,
    other_weights: Mapping[str, str],
    method: str,
    rows: list[StoredTensor],
    progress: Progress | None,
    done_before: Mapping[str, list[Rounded]],
    lines: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every packed tensor in file order; append a row for each to ``rows`` as it is done.

    ``done_before``: matrices that are rounded already, by packed name; ``lines`` as in ``packed_specs``. Raises
    OptionError, naming the tensor, for a weight that its type cannot hold.
    """
    specs = packed_specs(model.config, weights, other_weights, lines)
    total = sum(4 * math.prod(tensor.shape) for tensor in model.tensors.values())
    done = 0
    for name, spec in specs.items():
        if spec.kind == "scale":
            continue  # yielded with its weight
        shapes = [model.tensors[source].shape for source in spec.sources]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        stored, snr = 0, math.inf
        if spec.kind != "weight":
            parts = {name: pack_values([model.tensors[source].read() for source in spec.sources], spec.form)}
        else:
            matrix = name.removesuffix(".weight")
            kind = other_weights.get(matrix, weights)
            rounded = done_before.get(matrix) or _rounded(model, spec.sources, kind, method)
            snr = _snr(rounded)
            packed = pack_parts(rounded, kind == SPARSE, spec.form)
            parts = {f"{matrix}.{part}": packed.pop(part) for part in list(packed)}
            del rounded
        for part in list(parts):
            array = parts.pop(part)  # one reference: the writer forgets it before the next one is made
            stored += array.nbytes
            yield part, array
            del array
        rows.append(
            StoredTensor(
                name=name,
                kind="matrix" if spec.kind == "weight" else spec.kind,
                shape=shape,
                float32_bytes=4 * math.prod(shape),
                stored_bytes=stored,
                snr_db=snr,
            )
        )
        done += rows[-1].float32_bytes
        if progress:
            progress(done, total)


def _rounded(model: CanonicalModel, sources: Sequence[str], kind: str, method: str) -> list[Rounded]:
    found = []
    for source in sources:
        try:
            found.append(round_matrix(model.tensors[source].read(), kind, method))
        except OverflowError as error:
            raise OptionError(f"weights: tensor {source}: {error}", keywords=("weights",)) from None
    return found


def _snr(parts: Sequence[Rounded]) -> float:
    """In dB, of the parts of a matrix together; infinite if nothing was rounded."""
    rounded = [part for part in parts if not isinstance(part, np.ndarray)]
    signal, noise = sum(part.signal for part in rounded), sum(part.noise for part in rounded)
    return snr_db(signal, noise) if rounded else math.inf
