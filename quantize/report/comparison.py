"""The report of a comparison: what `compare` prints, and what else the page of two models shows."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from pyengine.cpus import usable_cpus
from pyengine.modelfile import ModelDirectory, packed_specs
from pyengine.modelfile.layout import matrix_shapes
from pyengine.quantize.measuring.comparison import MatrixPair, comparable
from pyengine.quantize.measuring.distortion import output_error
from pyengine.quantize.measuring.divergence import LineDivergence, StateError, mean_divergence
from pyengine.quantize.opening import read_matrix, read_model
from pyengine.quantize.report import ChangedLine, CompressionReport, EndToEnd, Layer, States
from pyengine.quantize.report.conversion import outliers
from pyengine.quantize.report.data import QUANTILES
from pyengine.quantize.scaling.hadamard import with_hadamard
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.statistics import InputStatistics, inputs_of
from pyengine.quantize.seeing.text import Line, Text
from pyengine.tasks.inputs import Sample
from pyengine.version import __version__

__all__ = ["comparison_report"]

_MEASURED = 200  # lines at most that layers are measured on: their Gram matrices take longer than all else
_LINES = 10  # that differ most
_SOURCE = 200  # characters of each


def comparison_report(
    a: ModelDirectory,
    b: ModelDirectory,
    matrices: Sequence[MatrixPair],
    text: Text,
    samples: Sequence[Sample],
    found: Sequence[LineDivergence] | StateError,
    *,
    command: str,
    isa: str,
) -> CompressionReport:
    """What ``compare_matrices``, ``read_whole`` and ``line_divergences`` or ``state_error`` gave, and layers' errors on
    the first lines.

    These need A in float32, on whose inputs they are measured. Raises what ``calibrate`` raises.
    """
    notes: tuple[str, ...] = ()
    if len(samples) > _MEASURED:
        notes = (f"Output errors and outlier channels are those of the first {_MEASURED} lines of the text.",)
    model = with_hadamard(read_model(a), False)  # as read_matrix gives matrices
    engine = in_memory_engine(model.config, model.generation, model.tensors)
    statistics = calibrate(engine, None, samples[:_MEASURED])
    engine.close()
    return CompressionReport(
        command=command,
        versions={
            "pyengine": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "matplotlib")},
        },
        machine=(platform.machine(), f"{usable_cpus()} CPUs", isa),
        bytes_before=a.bytes,
        bytes_after=b.bytes,
        layers=tuple(_layer(a, b, each, statistics) for each in matrices),
        end_to_end=None if isinstance(found, StateError) else _end_to_end(text, found),
        states=States(found.tokens, found.error, found.cosine) if isinstance(found, StateError) else None,
        notes=notes,
        models=(str(a.path), str(b.path)),
    )


def _layer(a: ModelDirectory, b: ModelDirectory, pair: MatrixPair, statistics: dict[str, InputStatistics]) -> Layer:
    owner = a if pair.types[0] is not None else b
    seen, error = inputs_of(statistics, a.config, pair.name), None
    same = comparable(a.config, b.config, pair.name)
    if same and seen is not None:
        error = output_error(read_matrix(a, pair.name), read_matrix(b, pair.name), seen.gram)
    before, after = (kind or "absent" for kind in pair.types)
    return Layer(
        name=pair.name,
        parts=packed_specs(owner.config, "float32")[f"{pair.name}.weight"].sources,
        shape=matrix_shapes(owner.config)[pair.name],
        type_before=before,
        type_after=after,
        bytes_before=pair.bytes[0] or 0,
        bytes_after=pair.bytes[1] or 0,
        snr_db=pair.snr_db if pair.snr_db is not None and math.isfinite(pair.snr_db) else None,
        output_error=error if error is not None and math.isfinite(error) else None,
        outliers=() if seen is None else outliers(seen.absmax),
        comparable=same and pair.snr_db != -math.inf,
    )


def _end_to_end(text: Text, found: Sequence[LineDivergence]) -> EndToEnd:
    total = mean_divergence(found)
    every = np.concatenate([each.kl for each in found])
    quantiles = np.quantile(every, np.linspace(0, 1, QUANTILES), method="higher")
    worst = sorted(range(len(found)), key=lambda index: -float(found[index].kl.mean()))
    lines = (
        ChangedLine(
            line=index + 1,
            source=_beginning(text[index])[:_SOURCE],
            tokens=len(found[index].kl),
            kl_divergence=float(found[index].kl.mean()),
            top1_agreement=float(found[index].same.mean()),
        )
        for index in worst[:_LINES]
        if found[index].kl.mean() > 0
    )
    return EndToEnd(
        total.tokens, total.kl, total.top1, kl_quantiles=tuple(quantiles.tolist()), lines=tuple(lines)
    )


def _beginning(line: Line) -> str:
    """Its source, or the text that stands alone."""
    return next(str(side) for side in line if side is not None)
