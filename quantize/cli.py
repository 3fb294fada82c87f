"""The command ``pyengine-quantize``, also started by ``tools/quantize.py``.

Exit status: 0 done; 2 after an error, with one line on standard error; 130 after Ctrl-C, 143 after SIGTERM,
with nothing half written left; 141 when the reader of standard output has gone.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Iterator, NoReturn, Sequence

from tqdm import tqdm

from pyengine.errors import PyengineError
from pyengine.quantize.arguments import METHODS, PROGRAM, read_arguments
from pyengine.quantize.calibrated import CALIBRATED
from pyengine.quantize.packing import TensorReport
from pyengine.quantize.pipeline import Calibration, Report, convert, measure

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (default: those of the process) and return its exit status."""
    options = read_arguments(arguments)
    if options.list_methods:
        print("\n".join(f"{name:10}  {what}" for name, what in METHODS.items()))
        return 0
    try:
        with _sigterm_as_exception():
            command = shlex.join([PROGRAM, *(sys.argv[1:] if arguments is None else arguments)])
            report = _run(options, command)
        _print(report, options.output)
    except BrokenPipeError:
        return 141
    except (PyengineError, OSError, MemoryError) as exc:
        message = " ".join(str(exc).split()) or "out of memory"
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print(f"{PROGRAM}: terminated", file=sys.stderr)
        return 143
    return 0


class _Terminated(SystemExit):
    """SIGTERM came."""


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """SIGTERM raises _Terminated, so that what is half written is removed; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread may set a handler, nor would it get the exception
        return

    def stop(number: int, frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not stop the cleaning up
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(report: Report, output: str | None) -> None:
    lines = _table(report)
    for row in report.removed:
        kept = f"{row.error_after:.2%} of the layer's variance lost, {row.error_before:.2%} before the fit"
        lines.append(f"{row.layer}: {row.removed} of {row.total} {row.what} removed; {kept}")
    if output is not None:
        lines.append(f"{output}: {report.directory_bytes:,} bytes, {report.weights}")
    try:
        print("\n".join(lines), flush=True)
    except OSError:
        # What is still buffered goes nowhere; else the interpreter would try again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _run(options: argparse.Namespace, command: str) -> Report:
    int4 = options.weights == "int4"
    weights = f"int4g{options.group or 64}{'m' if options.minima else ''}" if int4 else options.weights
    how: dict[str, Any] = {
        "weights": weights,
        "tensors": options.tensor,
        "method": _method(options),
    }
    text = None
    if options.calibrate or options.vocabulary:
        from pyengine.quantize.calibration import load_text  # with the engine, which else is not started

        text = load_text(options.calibrate) if options.calibrate else None
    reporter = None
    if options.report:
        from pyengine.quantize.reporting import Reporter

        places = options.checkpoint, options.output, options.report
        reporter = Reporter(*places, text=text, file=options.calibrate or "", force=options.force)
        if options.calibrate:
            text = reporter.calibration
    # disable=None: a bar on a terminal, nothing in a log.
    with tqdm(unit="B", unit_scale=True, desc=options.weights, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if options.report_only:
            return measure(options.checkpoint, progress=progress, **how)
        with tqdm(desc="calibrate", disable=None, leave=False) as steps:

            def calibrating(done: int, total: int) -> None:
                steps.total = total
                steps.update(done - steps.n)

            if text is not None:
                how["calibration"] = Calibration(
                    text, how["method"], options.resume, options.target_size, options.max_kld, calibrating
                )
                if how["method"] in CALIBRATED:
                    how["method"] = "absmax"  # of what stays int8
            if options.vocabulary:
                how["vocabulary"] = load_text(options.vocabulary)
            report = convert(
                options.checkpoint, options.output, prune=options.prune, force=options.force, progress=progress, **how
            )
    if reporter is not None:
        reporter.write(report, method=_method(options), command=command)
    return report


def _method(options: argparse.Namespace) -> str:
    if options.method != "auto":
        return options.method
    return "gptq" if options.calibrate else "mse" if options.weights == "int4" else "absmax"


def _table(report: Report) -> list[str]:
    """A line for every matrix, one for all vectors together, and the totals."""
    matrices = [tensor for tensor in report.tensors if tensor.kind == "matrix"]
    vectors = [tensor for tensor in report.tensors if tensor.kind == "vector"]
    width = max(len(tensor.name) for tensor in matrices)
    lines = [f"{'tensor':{width}}  {'shape':>14}  {'float32 bytes':>14}  {'stored bytes':>14}  {'SNR dB':>7}"]

    def line(name: str, shape: str, float32_bytes: int, stored_bytes: int, snr: str) -> str:
        return f"{name:{width}}  {shape:>14}  {float32_bytes:14,}  {stored_bytes:14,}  {snr:>7}"

    for tensor in matrices:
        shape = " x ".join(str(size) for size in tensor.shape)
        lines.append(line(tensor.name, shape, tensor.float32_bytes, tensor.stored_bytes, _snr(tensor)))
    float32_bytes = sum(tensor.float32_bytes for tensor in vectors)
    stored_bytes = sum(tensor.stored_bytes for tensor in vectors)
    lines.append(line(f"{len(vectors)} vectors", "", float32_bytes, stored_bytes, "exact"))
    ratio = report.stored_bytes / report.float32_bytes
    lines.append(line("total", "", report.float32_bytes, report.stored_bytes, "") + f"  ratio {ratio:.3f}")
    return lines


def _snr(tensor: TensorReport) -> str:
    return "exact" if math.isinf(tensor.snr_db) else f"{tensor.snr_db:.1f}"
