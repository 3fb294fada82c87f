"""`pyengine perplexity`: how well a language model expects a text."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyengine.cli.ways import add_ways, loaded_with
from pyengine.console import say, say_json
from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.tasks.generator import Generator
from pyengine.tasks.loading import load

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "perplexity",
        help="measure how well a language model expects a text",
        description="Prints e to the mean negative log-probability of the tokens of a text, read in windows that do "
        "not overlap, each behind the model's start token. Names of special tokens in it are text.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("text", type=Path, metavar="FILE", help="UTF-8")
    parser.add_argument(
        "--window", type=int, metavar="N", help="tokens of a window (default: 1024, or the model's positions)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_ways(parser, "for the whole text", many=False)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    text = _read(options.text)
    with load(options.model, task=Generator, **loaded_with(options)) as generator:
        found = generator.perplexity(
            text, window=options.window, max_batch_tokens=options.max_batch_tokens, timeout=options.timeout
        )
    if options.json:
        say_json({"perplexity": found})
    else:
        say(f"perplexity: {found:.4f}")


def _read(path: Path) -> str:
    path = usable_path(path, InputError)
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found an invalid byte at {error.start}") from None
