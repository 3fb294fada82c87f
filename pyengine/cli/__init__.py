"""The command line: `python -m pyengine translate -m DIR [TEXT ...]`, `... info DIR`, `... bench -m DIR`
and `... compare A B --data FILE`. Exit status: see `pyengine.command`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from pyengine.cli import bench, compare, info, translate
from pyengine.command import run_command
from pyengine.console import Parser
from pyengine.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""

    def run() -> None:
        parser = Parser(prog="pyengine", description="Runs quantized Transformer models on CPUs.")
        parser.add_argument("--version", action="version", version=f"pyengine {__version__}")
        commands = parser.add_subparsers(metavar="COMMAND", required=True)
        for module in (translate, info, bench, compare):
            module.add_command(commands)
        options = parser.parse_args(arguments)
        options.command = shlex.join(["pyengine", *(sys.argv[1:] if arguments is None else arguments)])
        options.run(options)

    return run_command("pyengine", run)
