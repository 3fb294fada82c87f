"""`pyengine info`: what a model directory holds, and what would run it here."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pyengine.console import say, say_json
from pyengine.modelfile import open_directory
from pyengine.tasks.engine import isa_in_use
from pyengine.text import MultilingualTokenizer, tokenizer_of

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "info",
        help="show what a model directory holds",
        description="Shows what a model directory holds; every size, shape and name in it is checked, and "
        "its tokenizer is opened. Which instruction set would run it on this machine, and why no better one.",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--verify", action="store_true", help="compare every byte with its checksum too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    directory = open_directory(options.directory, verify=options.verify)
    tokenizer = tokenizer_of(directory)
    about: dict[str, Any] = {
        "path": str(directory.path),
        "created_by": directory.created_by,
        "bytes": directory.bytes,
        "weights": directory.weights,
        "other_weights": dict(directory.other_weights),
        "kv": directory.kv,
        "tokenizer": directory.tokenizer_kind,
        **({"languages": tokenizer.languages.codes} if isinstance(tokenizer, MultilingualTokenizer) else {}),
        "verified": options.verify,
        "model": directory.config.to_json(),
        "removed": [each.to_json() for each in directory.removed],
        "generation": None if directory.generation is None else directory.generation.to_json(),
        **isa_in_use(),
    }
    if options.json:
        say_json(about)
        return
    say(*(f"{name:<34} {value}" for name, value in _flat(about, "")))


def _flat(values: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Names of nested values joined by dots, values as text."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool) or value is None:
            rows.append((prefix + name, {True: "yes", False: "no", None: "-"}[value]))
        elif isinstance(value, int):
            rows.append((prefix + name, f"{value:,}"))
        elif isinstance(value, (list, tuple)):
            rows.append((prefix + name, json.dumps(value) if value else "-"))
        else:
            rows.append((prefix + name, str(value)))
    return rows
