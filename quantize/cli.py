"""The command ``pyengine-quantize``, also started by ``tools/quantize.py``.

Exit status: 0 done; 2 after an error, with one line on standard error; 130 after Ctrl-C, 143 after SIGTERM,
with nothing half written left; 141 when the reader of standard output has gone.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Iterator, NoReturn, Sequence

from tqdm import tqdm

from pyengine.errors import PyengineError
from pyengine.modelfile.layout import WEIGHTS
from pyengine.quantize.pipeline import Calibration, Report, TensorReport, convert, measure
from pyengine.quantize.calibrated import CALIBRATED
from pyengine.quantize.ranges import METHODS as RANGES
from pyengine.quantize.schemes import GROUPS
from pyengine.version import __version__

__all__ = ["main"]

_PROGRAM = "pyengine-quantize"

METHODS = {
    "absmax": "the largest weight of a channel or group is the last level; the default of int8, in seconds",
    "percentile": "clips the largest of 10,000 weights; for matrices with single outliers, in seconds",
    "mse": "the step of least squared error of the weights; the default of int4 without text, in seconds",
    "weighted": "int4 with text: the step of least squared error, each column weighted by what it multiplies",
    "gptq": "int4 with text: columns make up for each other's errors; the default with --calibrate, minutes for 74M",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROGRAM}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Convert a training checkpoint, as Hugging Face exports it, to a model directory.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="?", help="directory with config.json and the weights"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--weights",
        choices=("float32", "int8", "int4"),
        default="int8",
        help="how weights are stored (default: %(default)s); with int4 embeddings and the output layer are int8",
    )
    parser.add_argument("--group", type=int, choices=GROUPS, help="columns of int4 that share a scale (default: 64)")
    parser.add_argument("--minima", action="store_true", help="int4 groups have a minimum besides their scale")
    parser.add_argument(
        "--tensor",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help=f"another type for some matrices, such as 'encoder.*.ffn.*=int8'; lm_head is the output layer. "
        f"Types: {', '.join(WEIGHTS)}; may be given again, later ones win",
    )
    parser.add_argument(
        "--method",
        choices=("auto", *METHODS),
        default="auto",
        help="how weights are rounded (default: %(default)s: absmax for int8; for int4 gptq with --calibrate, else "
        "mse); see --list-methods",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="text that int4 and --prune are calibrated on: a line a source sentence, its translation behind a tab; "
        "without one the model translates",
    )
    parser.add_argument(
        "--target-size",
        type=_size,
        metavar="SIZE",
        help="of all tensors, such as 60MB: measured sensitivity, with --calibrate, chooses between int4 and int8",
    )
    parser.add_argument(
        "--max-kld",
        type=float,
        metavar="NATS",
        help="the same for an expected KL divergence a token, such as 0.002, in as few bytes as it takes",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="keep only tokens that this text uses: a source and behind a tab its translation a line",
    )
    parser.add_argument("--resume", metavar="FILE", help="keep the calibration there; if it was interrupted, go on")
    parser.add_argument(
        "--prune",
        action="append",
        default=[],
        metavar="WHAT=SHARE",
        help="first remove a share of all neurons of feed-forward layers, such as ffn=0.25, or of attention heads, "
        "such as heads=0.2, and fit the rest to --calibrate; may be given again",
    )
    parser.add_argument(
        "--list-methods", action="store_true", help="say what there is, when to use it, and what it costs"
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="write a page about the conversion there (needs matplotlib); with --calibrate it measures on the last "
        "tenth of the text, at most 200 lines, which calibration then does not see",
    )
    parser.add_argument("--report-only", action="store_true", help="print the table and write nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a model directory, and the report")
    parser.add_argument("--version", action="version", version=f"pyengine {__version__}")
    return parser


def _size(text: str) -> int:
    """ "60MB" -> bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]?)B?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected a size such as 60MB, found {text!r}")
    return round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (default: those of the process) and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list_methods:
        print("\n".join(f"{name:10}  {what}" for name, what in METHODS.items()))
        return 0
    if options.checkpoint is None:
        parser.error("the following arguments are required: CHECKPOINT")
    if options.report_only == (options.output is not None):
        parser.error("give either -o OUT or --report-only")
    if options.report_only and options.force:
        parser.error("--force has no meaning with --report-only")
    if options.report_only and options.report:
        parser.error("--report has no meaning with --report-only")
    if options.weights != "int4" and (options.group or options.minima):
        parser.error("--group and --minima have a meaning with --weights int4 only")
    if options.method in CALIBRATED and not options.calibrate:
        parser.error(f"--method {options.method} needs text: --calibrate FILE")
    if options.prune and not options.calibrate:
        parser.error("--prune needs text: --calibrate FILE")
    if options.calibrate and (options.method in RANGES and not options.prune or options.report_only):
        parser.error("--calibrate has no meaning with --report-only or a --method that needs no text")
    if (options.target_size is not None or options.max_kld is not None) and not options.calibrate:
        parser.error("--target-size and --max-kld measure on text: --calibrate FILE")
    if options.target_size is not None and options.max_kld is not None:
        parser.error("give either --target-size or --max-kld")
    if options.max_kld is not None and not (0 < options.max_kld < math.inf):
        parser.error(f"--max-kld: expected a positive number, found {options.max_kld}")
    if options.resume and not options.calibrate:
        parser.error("--resume has a meaning with --calibrate only")
    for setting in options.tensor:
        if not all(setting.partition("=")[::2]):
            parser.error(f"--tensor {setting!r}: expected PATTERN=TYPE")
    prune = dict(_share(parser, setting) for setting in options.prune)
    try:
        with _sigterm_as_exception():
            command = shlex.join([_PROGRAM, *(sys.argv[1:] if arguments is None else arguments)])
            report = _run(options, prune, command)
        _print(report, options.output)
    except BrokenPipeError:
        return 141
    except (PyengineError, OSError, MemoryError) as exc:
        message = " ".join(str(exc).split()) or "out of memory"
        print(f"{_PROGRAM}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{_PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print(f"{_PROGRAM}: terminated", file=sys.stderr)
        return 143
    return 0


def _share(parser: argparse.ArgumentParser, setting: str) -> tuple[str, float]:
    name, _, share = setting.partition("=")
    try:
        return name, float(share)
    except ValueError:
        parser.error(f"--prune {setting!r}: expected WHAT=SHARE, such as ffn=0.25")


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


def _run(options: argparse.Namespace, prune: dict[str, float], command: str) -> Report:
    int4 = options.weights == "int4"
    weights = f"int4g{options.group or 64}{'m' if options.minima else ''}" if int4 else options.weights
    how: dict[str, Any] = {
        "weights": weights,
        "tensors": [setting.partition("=")[::2] for setting in options.tensor],
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
                options.checkpoint, options.output, prune=prune, force=options.force, progress=progress, **how
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
