"""The command line: `python -m pyengine translate -m DIR [TEXT ...]`, `... info DIR`, `... bench -m DIR`
and `... compare A B --data FILE`.

Exit status: 0; 2 after an error, with one line on standard error; 130 after Ctrl-C; 141 when the reader of
the output went away.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Sequence

from pyengine.cli import bench, compare, info, translate
from pyengine.command import message_of
from pyengine.console import ERROR, Parser, note
from pyengine.errors import PyengineError
from pyengine.version import __version__

__all__ = ["main"]

INTERRUPTED, BROKEN_PIPE = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    parser = Parser(prog="pyengine", description="Runs quantized Transformer models on CPUs.")
    parser.add_argument("--version", action="version", version=f"pyengine {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (translate, info, bench, compare):
        module.add_command(commands)
    options = parser.parse_args(arguments)
    options.command = shlex.join(["pyengine", *(sys.argv[1:] if arguments is None else arguments)])
    if sys.stdout is None:  # else the next file that is opened would take its place
        note("pyengine: error: standard output is closed")
        return ERROR
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return BROKEN_PIPE
    except (PyengineError, OSError, MemoryError) as error:
        if isinstance(error, OSError):
            _abandon_output()  # it may be what failed
        note(f"pyengine: error: {message_of(error)}")
        return ERROR
    return 0


def _warn(message: Warning | str, *_: object) -> None:
    """Takes the place of `warnings.showwarning`."""
    note(f"pyengine: warning: {message}")


def _abandon_output() -> None:
    """Send what is still buffered nowhere; else the interpreter would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
