"""The report of a conversion: what was written, against the checkpoint that it was made of.

With text, its last lines are held out: calibration must not see them, and errors are measured on them.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.cpus import usable_cpus
from pyengine.errors import OptionError
from pyengine.formats.regular_files import usable_path
from pyengine.modelfile import ModelDirectory, open_directory, packed_specs
from pyengine.modelfile.layout import FLOATS, stack_rows
from pyengine.output import scratch_directory
from pyengine.quantize.measuring.comparison import comparable, read_whole
from pyengine.quantize.measuring.distortion import output_error
from pyengine.quantize.measuring.divergence import line_divergences, mean_divergence, state_error
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.measuring.throughput import measure_speed
from pyengine.quantize.opening import open_model, read_matrix, stored_input
from pyengine.quantize.packing import StoredTensor
from pyengine.quantize.pipeline import Conversion, convert
from pyengine.quantize.report import (
    CalibrationText,
    Change,
    CompressionReport,
    EndToEnd,
    Histogram,
    InputRanges,
    Layer,
    Outlier,
    ParetoPoint,
    Pruned,
    Speed,
    States,
    StaticRange,
    check_report_target,
    require_matplotlib,
    write_report,
)
from pyengine.quantize.report.words import percent
from pyengine.quantize.rounding.by_inputs import CALIBRATED
from pyengine.quantize.scaling.fold import places
from pyengine.quantize.scaling.hadamard import with_hadamard
from pyengine.quantize.seeing.calibration import calibrate
from pyengine.quantize.seeing.static_ranges import sampled_errors
from pyengine.quantize.seeing.statistics import InputStatistics, inputs_of
from pyengine.quantize.seeing.text import Text, inputs_for, read_samples, sides, usable_text
from pyengine.quantize.vocabulary.trim import KeptTokens
from pyengine.tasks.inputs import Sample
from pyengine.tasks.translator import Translator
from pyengine.text import tokenizer_of
from pyengine.version import __version__

__all__ = ["Reporter", "outliers"]

_HELD_OUT = 200  # lines at most, and a tenth of the text
_BINS = 64
_OUTLIERS, _OUTLIER_RATIO = 8, 4.0  # channels of a layer at most; times the median at least


class Reporter:
    """Makes the report of one conversion; made before it, so that what cannot be reported fails early.

    ``calibration`` is what of ``text`` (source, target; none: nothing is measured) the conversion may use, ``skipped``
    what to say of lines that the model cannot take; ``vocabulary`` is the text that it will trim by. ``speed`` is
    measured if asked for: it differs from run to run, all other figures do not. Raises OptionError for a ``directory``
    that cannot be written or without matplotlib, InputError for text of which the model can take no line, and what
    ``open_model`` and ``open_tokenizer`` raise.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        output: str | Path,
        directory: str | Path,
        *,
        text: Text | None = None,
        vocabulary: Text | None = None,
        file: str = "",
        overwrite: bool = False,
        speed: bool = False,
        allow_unknown_keys: Collection[str] = (),
    ) -> None:
        require_matplotlib()
        check_report_target(directory, overwrite=overwrite)
        _require_apart(Path(directory), usable_path(output, OptionError))
        self._checkpoint, self._output, self._directory = checkpoint, output, directory
        self._overwrite, self._speed = overwrite, speed
        self._how: dict[str, Any] = {"requantize": True, "allow_unknown_keys": allow_unknown_keys}
        self._model = with_hadamard(open_model(checkpoint, **self._how), False)
        self._stored, self._bytes = stored_input(checkpoint, self._model)
        with self._model.laid_out() as laid:
            self._tokenizer = tokenizer_of(laid)
        self.skipped = ""
        if text is not None:
            text, skipped = usable_text(text, self._model.config, self._model.generation, self._tokenizer)
            self.skipped = str(skipped)
        held = 0 if text is None else min(_HELD_OUT, len(text) // 10)
        self._first = len(text or ()) - held  # lines before the held out ones
        self._held_out = list(text or ())[self._first :]
        corpus = [sides(self._model.config, line, number) for number, line in enumerate(vocabulary or (), 1)]
        self._shared = _shared_lines(self._held_out, corpus)
        self.calibration = None if text is None else list(text)[: self._first]
        self._used = None
        if text is not None:
            tokens = self._count(text, 1)
            self._used = CalibrationText((file,), len(text), tokens, self._count(self._held_out, self._first + 1))

    def write(
        self, report: Conversion, *, method: str, command: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Write the report of the directory that is there now. ``method`` is the one that ``convert`` was given.

        ``progress`` is told what of measuring the speed is done, and all of it.
        """
        directory = open_directory(self._output)
        notes = [self.skipped[0].upper() + self.skipped[1:] + "."] if self.skipped else []
        speed: tuple[Speed, ...] = ()
        end_to_end, states = None, None
        statistics: dict[str, InputStatistics] = {}
        machine = [platform.machine(), f"{usable_cpus()} CPUs"]
        vocabularies = [(each.source_vocab, each.target_vocab) for each in (self._model.config, directory.config)]
        if self._used is not None and not self._held_out:
            notes.append("The text has fewer than 10 lines: none was held out, and no error measured.")
        elif self._used is not None and report.kept is None and vocabularies[0] != vocabularies[1]:
            notes.append("The vocabulary is another than the checkpoint's: no error was measured on text.")
        elif self._used is not None:
            end_to_end, states, statistics, isa = self._measure(report.kept, notes)
            machine.append(isa)
        if self._speed and self._held_out:
            speed = self._speeds(progress)
        elif self._speed:
            notes.append("No speed was measured: there are no held-out lines to translate.")
        if self._shared:
            notes.append(
                f"The corpus of the vocabulary has {self._shared} of the {len(self._held_out)} held-out lines, too (as "
                "source or target). They helped to choose the tokens that were kept, so that other text may lose more."
            )
        moved = _moved(directory.config, report)
        if moved:
            notes.append(
                "Scales of channels were moved between layers: the output errors of these are not shown, since their "
                "weights are no longer those of the checkpoint, nor are ranges of inputs, which are others now."
            )
        if report.hadamard:
            notes.append(
                "Matrices, and the rows that they read, are multiplied by a Hadamard matrix, which spreads outliers "
                "over channels. Both are shown without it here."
            )
        layers = [
            self._layer(row, directory, method, statistics, moved) for row in report.tensors if row.kind == "matrix"
        ]
        write_report(
            self._directory,
            CompressionReport(
                command=command,
                versions={
                    "pyengine": __version__,
                    "Python": platform.python_version(),
                    **{name: version(name) for name in ("numpy", "scipy", "matplotlib")},
                },
                machine=tuple(machine),
                bytes_before=self._bytes,
                bytes_after=report.stored_bytes,
                calibration=self._used,
                layers=tuple(layers),
                pruned=tuple(_pruned(report)),
                end_to_end=end_to_end,
                states=states,
                speed=speed,
                pareto=tuple(_pareto(report)),
                notes=tuple(notes),
            ),
            overwrite=self._overwrite,
        )

    def _count(self, text: Text, first: int) -> int:
        """Tokens of the sources and of the targets that are given."""
        config = self._model.config
        samples = read_samples(inputs_for(config, self._model.generation, self._tokenizer), config, text, first)
        return sum(len(side) for sample in samples for side in sample if side is not None)

    def _measure(
        self, kept: KeptTokens | None, notes: list[str]
    ) -> tuple[EndToEnd | None, States | None, dict[str, InputStatistics], str]:
        """Both models on the held out lines, what the checkpoint's layers read there, and the instruction set."""
        end_to_end = states = None
        with Reader.of(self._model, self._tokenizer) as original, Reader.open(self._output) as compressed:
            samples = read_whole(original, self._held_out, self._first + 1)[0]
            statistics = calibrate(original.engine, self._tokenizer, samples)
            if original.config.decoder is None:
                found = state_error(original, compressed, samples)
                states = States(found.tokens, found.error, found.cosine)
            else:
                end_to_end = self._compare(original, compressed, samples, kept, notes)
        return end_to_end, states, statistics, compressed.isa

    def _compare(
        self, original: Reader, compressed: Reader, samples: list[Sample], kept: KeptTokens | None, notes: list[str]
    ) -> EndToEnd | None:
        """The quality on the held out lines ``samples``.

        Where the vocabulary was trimmed, on those that have ``kept`` tokens only: the others are not the same text to
        both. None if there are none.
        """
        text = self._held_out
        if kept is not None:
            own = [kept.hold(*sample) for sample in samples]
            samples, text = list(compress(samples, own)), list(compress(text, own))
            if not samples:
                notes.append(f"The vocabulary was trimmed, and no held-out line of {len(own)} has kept tokens only.")
                return None
        places = list(line_divergences(original, compressed, samples, kept=kept))
        found = mean_divergence(places)
        perplexity = bleu = None
        if all(target is not None for _, target in text):
            theirs = samples if kept is None else [kept.renumbered(*sample) for sample in samples]
            shares = sum(float(np.log(each.kept).sum()) for each in places)
            perplexity = Change(original.perplexity(samples, shares), compressed.perplexity(theirs))
            translates = original.config.encoder is not None and self._tokenizer is not None
            bleu = _bleu((original, compressed), text, notes) if translates else None
        if kept is not None:
            notes.append(
                f"The vocabulary was trimmed. Quality is that of the {len(samples)} of {len(own)} held-out lines that "
                f"have kept tokens only. The original gives these tokens {percent(found.kept)} of the probability "
                "there; KL divergence and perplexity are without the rest."
            )
        return EndToEnd(found.tokens, found.kl, found.top1, perplexity, bleu)

    def _speeds(self, progress: Callable[[int, int], None] | None) -> tuple[Speed, ...]:
        """Of the written model, and of what was converted in float32 and in plain int8, on the held out sources."""
        with scratch_directory() as scratch, ExitStack() as stack:
            places = {"compressed": Path(self._output)}
            for weights in ("float32", "int8"):
                places[weights] = scratch / weights
                convert(self._checkpoint, places[weights], weights=weights, **self._how)
            models = {name: stack.enter_context(Reader.open(place)) for name, place in places.items()}
            found = measure_speed(models, self._held_out, progress)
        return tuple(
            Speed(setting, rates["float32"], rates["int8"], rates["compressed"]) for setting, rates in found.items()
        )

    def _layer(
        self,
        row: StoredTensor,
        directory: ModelDirectory,
        method: str,
        statistics: dict[str, InputStatistics],
        moved: set[str],
    ) -> Layer:
        name = row.name.removesuffix(".weight")
        config = self._model.config
        kind = directory.other_weights.get(name, directory.weights)
        spec = packed_specs(directory.config, "float32")[row.name]
        parts = spec.sources
        seen = inputs_of(statistics, config, name)
        kind_before, bytes_before = self._stored.get(name, ("absent", 0))
        histogram, error, ranges = None, None, None
        if comparable(config, directory.config, name):
            matrix = stack_rows([self._model.tensors[part].read() for part in parts], spec.form)
            histogram = _histogram(matrix)
            if seen is not None and moved.isdisjoint(parts):
                error = output_error(matrix, read_matrix(directory, name), seen.gram)
                ranges = _ranges(matrix, seen)
        return Layer(
            name=name,
            parts=parts,
            shape=row.shape,
            type_before=kind_before,
            type_after=kind,
            bytes_before=bytes_before,
            bytes_after=row.stored_bytes,
            snr_db=row.snr_db if math.isfinite(row.snr_db) else None,
            output_error=error if error is not None and math.isfinite(error) else None,
            outliers=() if seen is None else outliers(seen.absmax),
            histogram=histogram,
            inputs=ranges,
            method="" if kind in FLOATS else "absmax" if kind == "int8" and method in CALIBRATED else method,
        )


def _shared_lines(text: Text, corpus: Text) -> int:
    """How many of ``text`` have a source, or a target, that is a line of the corpus."""
    sources, targets = ({line[side] for line in corpus} - {None} for side in (0, 1))
    return sum(source in sources or target in targets for source, target in text)


def _moved(config: ModelConfig, report: Conversion) -> set[str]:
    """Canonical names, in the model that was written, of the weights that scales of channels were moved between."""
    scaled = {row.place for row in report.scaled if row.alpha is not None}
    found = set()
    for place in places(replace(config, hadamard=False)):  # as the weights were while scales were moved
        if place.name in scaled or report.equalized and place.between_layers:
            found |= {f"{name}.weight" for name in (*place.producers, *place.consumers, *place.queries)}
    return found


def _pruned(report: Conversion) -> Iterator[Pruned]:
    for row in report.removed:
        yield Pruned(row.what, row.layer, row.removed, row.total, Change(row.error_before, row.error_after))
    sizes = {row.name.removesuffix(".weight"): math.prod(row.shape) for row in report.tensors}
    for each in report.masked:
        total = sizes[each.name]
        yield Pruned("weights", each.name, round(each.share * total), total, Change(each.error_before, each.error))


def _pareto(report: Conversion) -> Iterator[ParetoPoint]:
    """The choices of types, the first of which was taken."""
    for number, choice in enumerate(report.choices):
        counts = Counter(choice.types.values())
        label = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        yield ParetoPoint(choice.bytes, choice.error, label, number == 0)


def _bleu(models: Sequence[Reader], text: Text, notes: list[str]) -> Change | None:
    """Of the models' own translations, if sacrebleu is there."""
    try:
        from sacrebleu import corpus_bleu
    except ImportError:
        notes.append("BLEU was not measured: sacrebleu is not installed.")
        return None
    targets = [str(target) for _, target in text]
    translators = (Translator(each.engine, each.tokenizer, {}) for each in models)
    sources = [source for source, _ in text if source is not None]
    found = (each.translate(sources) for each in translators)
    scores = (corpus_bleu([result.text or "" for result in results], [targets]).score for results in found)
    return Change(*(float(score) for score in scores))


def _require_apart(directory: Path, output: Path) -> None:
    """The model directory is replaced as a whole, and the report directory too."""
    report, model = directory.resolve(), output.resolve()
    if report == model or report in model.parents or model in report.parents:
        raise OptionError(f"{directory}: the report and the model directory {output} must not lie in each other")


def _histogram(matrix: np.ndarray) -> Histogram:
    counts, edges = np.histogram(matrix.astype(np.float64), bins=_BINS)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def _ranges(matrix: np.ndarray, seen: InputStatistics) -> InputRanges | None:
    """What rounding the inputs costs, from the sample; None without outputs to be wrong, or with a single row."""
    if len(seen.rows) < 2:
        return None
    found = sampled_errors(matrix, seen.rows)
    if not all(math.isfinite(error) for error in (found.dynamic, *found.static.values())):
        return None
    mse, kl = (StaticRange(found.ranges[method], found.static[method]) for method in ("mse", "kl"))
    return InputRanges(found.ranges["absmax"], found.dynamic, mse, kl)


def outliers(absmax: np.ndarray) -> tuple[Outlier, ...]:
    """The input channels that stand out most, largest first."""
    median = float(np.median(absmax))
    if not median:
        return ()
    ratios = absmax.astype(np.float64) / median
    largest = np.argsort(-ratios, kind="stable")[:_OUTLIERS]
    found = (Outlier(int(channel), float(ratios[channel])) for channel in largest)
    return tuple(each for each in found if each.ratio >= _OUTLIER_RATIO)
