"""`pyengine shortlist`: from parallel text to the target ids that a translation may take."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pyengine.command import beside, target_of
from pyengine.errors import InputError, OptionError, UnsupportedError
from pyengine.formats.regular_files import usable_path
from pyengine.modelfile import open_directory
from pyengine.output import check_new_file
from pyengine.text import tokenizer_of

__all__ = ["add_command"]

COUNTS = {"candidates": (50, "of a source token"), "frequent": (1000, "of every sentence"), "iterations": (5, "")}
"""Option -> default and what it counts."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "shortlist",
        help="build the shortlist of a model from parallel text",
        description="For each source token the target tokens that translate it best, by IBM model 1, and the most "
        "frequent target tokens. translate --shortlist OUT then takes only what is listed for its sentence. The same "
        "text gives the same bytes.",
    )
    parser.add_argument("model", metavar="DIR", help="model directory, for its tokenizer")
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="a sentence a line, UTF-8")
    parser.add_argument("--target", type=Path, required=True, metavar="FILE", help="their translations, line by line")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="file to write; - is standard output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    for name, (default, of) in COUNTS.items():
        text = f"{name} {of}".strip()
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    # Imported here: no other command needs them.
    from tqdm import tqdm

    from pyengine.quantize.vocabulary.alignment import build_shortlist

    for name in COUNTS:
        if getattr(options, name) < 1:
            raise OptionError(f"--{name} is {getattr(options, name)}; expected at least 1")
    target = target_of(options.output)
    check_new_file(target, overwrite=options.overwrite)
    directory = open_directory(options.model)
    config, tokenizer = directory.config, tokenizer_of(directory)
    if config.source_vocab is None or config.target_vocab is None or directory.generation is None:
        raise UnsupportedError(f"{options.model}: expected a model that translates, found one with a single stack")
    if tokenizer is None:
        raise InputError(f"{options.model}: expected a model with a tokenizer, found one without")
    vocabs = config.source_vocab, config.target_vocab
    lines = tqdm(_read_pairs(options.source, options.target), "encode", disable=None)
    made = build_shortlist(
        [(tokenizer.encode_source(left), tokenizer.encode_target(right, end=True)) for left, right in lines],
        vocabs,
        candidates=options.candidates,
        frequent=options.frequent,
        iterations=options.iterations,
        always=directory.generation.eos_token_id,
        one_vocabulary=config.share_embeddings,
    )
    size = made.write(target, overwrite=options.overwrite)
    listed = np.count_nonzero(np.diff(made.offsets))
    beside(target)(
        f"{options.output}: {len(made.ids):,} candidates of {listed:,} source tokens, {len(made.frequent):,} frequent "
        f"ones, {size:,} bytes"
    )


def _read_pairs(source: Path, target: Path) -> list[tuple[str, str]]:
    """The pairs of lines of which none is empty. InputError: sides of different lengths, or nothing in them."""
    sides = _read_lines(source), _read_lines(target)
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{source} has {len(sides[0])} lines, but {target} has {len(sides[1])}; expected as many")
    pairs = [pair for pair in zip(*sides, strict=True) if pair[0].strip() and pair[1].strip()]
    if not pairs:
        raise InputError(f"{source} and {target}: expected sentences, found none")
    return pairs


def _read_lines(path: Path) -> list[str]:
    """Without their ends. InputError for what cannot be read or is not UTF-8."""
    path = usable_path(path, InputError)
    try:
        return path.read_bytes().decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found an invalid byte at {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
