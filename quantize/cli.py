"""The command ``pyengine quantize``, also called ``pyengine-quantize`` and ``python -m pyengine.quantize``.

Exit status: see ``pyengine.command``.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

from pyengine.command import beside, run_command, target_of
from pyengine.console import note, say
from pyengine.modelfile.layout import INT4
from pyengine.quantize.arguments import PROGRAM, list_methods, read_arguments, types_of
from pyengine.quantize.packing import StoredTensor
from pyengine.quantize.pipeline import Calibration, Conversion, convert, measure
from pyengine.quantize.prune.sparse import slower_than_dense
from pyengine.quantize.rounding.by_inputs import CALIBRATED

if TYPE_CHECKING:
    from pyengine.quantize.seeing.text import Text

__all__ = ["main"]

_MASKED = ("share", "error_before", "error")


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command with ``arguments`` (default: those of the process) and return its exit status.

    ``program`` is what its messages call it.
    """

    def run() -> None:
        options = read_arguments(arguments, program)
        command = shlex.join([*program.split(), *(sys.argv[1:] if arguments is None else arguments)])
        if options.list_methods:
            say(*list_methods())
        elif options.teacher_data is not None:
            _teach(options)
        else:
            report = _run(options, command)
            say(*_lines(report, options))
            for each in report.notes:
                note(f"{program}: note: {each}")

    return run_command(program, run)


def _lines(report: Conversion, options: argparse.Namespace) -> list[str]:
    """What is said of a conversion."""
    lines = _table(report)
    method, why = _method(options)
    if why:
        lines.append(f"method {method}: {why}")
    if report.hadamard:
        lines.append("Hadamard: outliers among channels are spread before rows are rounded; --no-hadamard leaves them")
    for row in report.removed:
        whose = "stack" if row.what == "layers" else "layer"
        kept = f"{row.error_after:.2%} of the {whose}'s variance lost, {row.error_before:.2%} before the fit"
        lines.append(f"{row.layer}: {row.removed} of {row.total} {row.what} removed; {kept}")
    if report.recovered is not None:
        before, after = report.recovered
        kept = f"{after:.2%} of the variance of what the model gives lost, {before:.2%} before the fit"
        closed = f": {1 - after / before:.0%} of the gap closed" if before else ""
        lines.append(f"all that was removed: {kept}{closed}")
    if report.masked:
        share, before, after = (median(getattr(row, name) for row in report.masked) for name in _MASKED)
        of = "outputs" if options.calibrate else "weights"
        alone = f", {before:.2%} by the mask alone" if options.prune_method == "sparsegpt" else ""
        kept = f"{after:.2%} of the layers' {of} lost{alone} (median)"
        lines.append(f"zeros: {share:.0%} of {len(report.masked)} matrices; {kept}")
    for method in dict.fromkeys(row.method for row in report.scaled):
        rows = [row for row in report.scaled if row.method == method]
        changed = [row for row in rows if row.alpha is not None]
        before, after = (median(getattr(row, name) for row in rows) for name in ("error_before", "error"))
        kept = f"{before:.2e} -> {after:.2e} of the layers' outputs lost (median)"
        lines.append(f"{method}: scales at {len(changed)} of the {len(rows)} places that absorb them; {kept}")
    if options.output is not None:
        lines.append(f"{options.output}: {report.directory_bytes:,} bytes, {report.weights}")
    return lines


def _teach(options: argparse.Namespace) -> None:
    from pyengine.quantize.seeing.teacher_data import write_teacher_data  # with the engine, which else is not started

    target = target_of(options.teacher_data)
    how = {"overwrite": options.overwrite, "allow_unknown_keys": options.allow_unknown_keys}
    made = write_teacher_data(options.checkpoint, options.corpus, target, **how)
    line = f"{options.teacher_data}: {made.pairs:,} pairs, {made.tokens_a_second:,.0f} tokens a second"
    left_out = f"; {made.left_out:,} lines without a source or a translation left out" if made.left_out else ""
    beside(target)(line + left_out)


def _run(options: argparse.Namespace, command: str) -> Conversion:
    method, _ = _method(options)
    how: dict[str, Any] = {
        "weights": options.weights,
        "tensors": options.tensor,
        "method": "absmax" if method in CALIBRATED else method,  # of what is not calibrated
        "hadamard": options.hadamard,
        "requantize": options.requantize,
        "allow_unknown_keys": options.allow_unknown_keys,
    }
    if options.sparse is not None and (slow := slower_than_dense(options.sparse, options.weights)):
        note(f"{options.program}: the model will not run faster: {slow}")
    if options.report_only:
        with _bar(options.weights, unit="B", unit_scale=True) as progress:
            return measure(options.checkpoint, progress=progress, **how)
    text: Text | None = None
    if options.calibrate or options.vocabulary:
        from pyengine.quantize.seeing.text import load_text  # with the engine, which else is not started

        text = load_text(options.calibrate) if options.calibrate else None
        how["vocabulary"] = load_text(options.vocabulary) if options.vocabulary else None
    reporter = None
    if options.report:
        from pyengine.quantize.report.conversion import Reporter

        places = options.checkpoint, options.output, options.report
        told: dict[str, Any] = {"text": text, "file": options.calibrate or "", "vocabulary": how.get("vocabulary")}
        told |= {"speed": options.speed, "allow_unknown_keys": options.allow_unknown_keys}
        reporter = Reporter(*places, **told, overwrite=options.overwrite)
        text = reporter.calibration
    with _bar(options.weights, unit="B", unit_scale=True) as progress, _bar("calibrate") as calibrating:
        if text is not None:
            how["calibration"] = Calibration(
                text,
                method,
                smooth=options.smooth,
                state=options.resume,
                target_bytes=options.target_size,
                max_divergence=options.max_kld,
                progress=calibrating,
            )
        how |= {"prune": options.prune, "sparse": options.sparse, "sparse_method": options.prune_method}
        how |= {"equalize": options.equalize, "kv": options.kv, "overwrite": options.overwrite}
        report = convert(options.checkpoint, options.output, progress=progress, **how)
    if reporter is not None:
        with _bar("speed") as measuring:
            reporter.write(report, method=method, command=command, progress=measuring)
        if reporter.skipped:
            report = replace(report, notes=(*report.notes, reporter.skipped))
    return report


@contextmanager
def _bar(title: str, **how: Any) -> Iterator[Callable[[int, int], None]]:
    """A function that is told what is done and all there is: a bar on a terminal, nothing in a log.

    Each stage is timed by itself: steps of the one before say nothing of how long this one's take.
    """
    from tqdm import tqdm  # --help does not wait for it

    with tqdm(desc=title, disable=None, leave=False, miniters=1, **how) as bar:

        def progress(done: int, total: int) -> None:
            if done < bar.n or bar.total not in (None, total):
                bar.reset()
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _method(options: argparse.Namespace) -> tuple[str, str]:
    """How weights are rounded; and why so, where that was left to us."""
    if options.method != "auto":
        return options.method, ""
    if INT4.keys().isdisjoint(types_of(options)):
        if options.target_size is None and options.max_kld is None:
            return "absmax", ""  # what every int8 model gets
    if options.calibrate:
        return "gptq", "there is text, and at int4 columns can make up for each other's errors"
    if options.weights in INT4:
        return "mse", "there is no text; with --calibrate FILE gptq would move the model far less"
    return "absmax", ""


def _table(report: Conversion) -> list[str]:
    """A line for every matrix, one for all vectors and tables together, and the totals."""
    matrices = [tensor for tensor in report.tensors if tensor.kind == "matrix"]
    vectors = [tensor for tensor in report.tensors if tensor.kind != "matrix"]
    width = max(len(tensor.name) for tensor in matrices)
    lines = [f"{'tensor':{width}}  {'shape':>14}  {'float32 bytes':>14}  {'stored bytes':>14}  {'SNR dB':>7}"]

    def line(name: str, shape: str, float32_bytes: int, stored_bytes: int, snr: str) -> str:
        return f"{name:{width}}  {shape:>14}  {float32_bytes:14,}  {stored_bytes:14,}  {snr:>7}"

    for tensor in matrices:
        shape = " x ".join(str(size) for size in tensor.shape)
        lines.append(line(tensor.name, shape, tensor.float32_bytes, tensor.stored_bytes, _snr(tensor)))
    float32_bytes = sum(tensor.float32_bytes for tensor in vectors)
    stored_bytes = sum(tensor.stored_bytes for tensor in vectors)
    lines.append(line(f"{len(vectors)} vectors, tables", "", float32_bytes, stored_bytes, "exact"))
    ratio = report.stored_bytes / report.float32_bytes
    lines.append(line("total", "", report.float32_bytes, report.stored_bytes, "") + f"  ratio {ratio:.3f}")
    return lines


def _snr(tensor: StoredTensor) -> str:
    return "exact" if math.isinf(tensor.snr_db) else f"{tensor.snr_db:.1f}"
