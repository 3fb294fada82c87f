"""The command line: `pyengine quantize CHECKPOINT -o DIR`, `pyengine translate -m DIR [TEXT ...]`, `pyengine generate
-m DIR [PROMPT ...]` and the others that `pyengine --help` lists; `python -m pyengine` is the same. Exit status: see
`pyengine.command`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from pyengine.cli import bench, chat, compare, generate, info, perplexity, shortlist, translate
from pyengine.command import run_command
from pyengine.console import Parser
from pyengine.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["quantize"]:  # its parser lies where no other command has to wait for it
        from pyengine.quantize import main as quantize

        return quantize(words[1:], program="pyengine quantize")

    def run() -> None:
        parser = Parser(prog="pyengine", description="Runs quantized Transformer models on CPUs.")
        parser.add_argument("--version", action="version", version=f"pyengine {__version__}")
        commands = parser.add_subparsers(metavar="COMMAND", required=True)
        commands.add_parser("quantize", help="convert a training checkpoint to a model directory")
        for module in (translate, generate, chat, perplexity, info, bench, compare, shortlist):
            module.add_command(commands)
        options = parser.parse_args(words)
        options.command = shlex.join(["pyengine", *words])
        options.run(options)

    return run_command("pyengine", run)
