"""The command ``pyengine-quantize``, also started by ``tools/quantize.py``.

Exit status: 0 done, 2 bad input or options (one line on standard error), 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import NoReturn, Sequence

from tqdm import tqdm

from pyengine.errors import PyengineError
from pyengine.modelfile.layout import WEIGHTS
from pyengine.quantize.pipeline import Report, TensorReport, convert, measure
from pyengine.version import __version__

__all__ = ["main"]

_PROGRAM = "pyengine-quantize"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROGRAM}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Convert a training checkpoint, as Hugging Face exports it, to a model directory.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="directory with config.json and the weights")
    parser.add_argument("-o", "--output", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="int8", help="how weights are stored (default: %(default)s)"
    )
    parser.add_argument("--report-only", action="store_true", help="print the table and write nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a model directory")
    parser.add_argument("--version", action="version", version=f"pyengine {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments`` (default: those of the process) and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.report_only == (options.output is not None):
        parser.error("give either -o OUT or --report-only")
    if options.report_only and options.force:
        parser.error("--force has no meaning with --report-only")
    try:
        report = _run(options)
    except (PyengineError, OSError) as exc:
        message = " ".join(str(exc).split())
        print(f"{_PROGRAM}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{_PROGRAM}: interrupted, nothing was written", file=sys.stderr)
        return 130
    print("\n".join(_table(report)))
    if options.output is not None:
        print(f"{options.output}: {report.directory_bytes:,} bytes, {options.weights}")
    return 0


def _run(options: argparse.Namespace) -> Report:
    # disable=None: a bar on a terminal, nothing in a log.
    with tqdm(unit="B", unit_scale=True, desc=options.weights, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if options.report_only:
            return measure(options.checkpoint, weights=options.weights, progress=progress)
        return convert(
            options.checkpoint,
            options.output,
            weights=options.weights,
            force=options.force,
            progress=progress,
        )


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
