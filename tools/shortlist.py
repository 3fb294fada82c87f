"""Build the shortlist of a model from parallel text, a sentence a line:

    python tools/shortlist.py MODEL --source train.de --target train.en -o OUT

For each source token the target tokens that translate it best, by IBM model 1 (Brown et al., 1993: expectation
maximization of t(target | source), each sentence with an empty source word), and the most frequent target tokens.
`pyengine.load(MODEL, shortlist=OUT)` then lets a translation take only what is listed for its sentence. The same text
gives the same bytes. Memory: about 10 bytes for each pair of a source and a target token of a sentence.

Exit status: 0 done; 2 after an error, with one line on standard error; 130 after Ctrl-C, 143 after SIGTERM, 129 after
SIGHUP. Nothing half written is left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pyengine.command import beside, run_command, target_of
from pyengine.console import Parser
from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.modelfile import open_directory
from pyengine.output import check_new_file
from pyengine.shortlist import Shortlist
from pyengine.text import open_tokenizer

LONGEST = 200  # tokens: longer sentences are not aligned, since they have so many pairs
BLOCK_PAIRS = 4_000_000  # pairs of tokens that are worked on at a time


@dataclass(frozen=True)
class Side:
    """Sentences end to end: int64 ids, and where each begins."""

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Side:
        offsets = np.cumsum([0, *map(len, sentences)])
        flat = np.fromiter((id for sentence in sentences for id in sentence), np.int64, int(offsets[-1]))
        return cls(flat, offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def blocks(pairs: np.ndarray) -> Iterator[slice]:
    """Sentences, some at a time, that have about BLOCK_PAIRS pairs together; `pairs` [n] of each."""
    bound = np.cumsum(pairs) // BLOCK_PAIRS
    edges = np.flatnonzero(np.diff(bound, prepend=-1, append=-1))
    return (slice(int(first), int(end)) for first, end in zip(edges[:-1], edges[1:], strict=True))


def pair_keys(source: Side, target: Side, chosen: slice, target_vocab: int) -> np.ndarray:
    """source id * target_vocab + target id of all pairs, those of a target token together."""
    begin, end = target.offsets[chosen.start], target.offsets[chosen.stop]
    sentence = np.repeat(np.arange(chosen.start, chosen.stop), target.lengths[chosen])
    counts = source.lengths[sentence]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    left = source.ids[np.repeat(source.offsets[sentence], counts) + within]
    return left * target_vocab + np.repeat(target.ids[begin:end], counts)


def align(source: Side, target: Side, target_vocab: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that occur, int64 ascending (`pair_keys`), and float64 t(target | source) of each, by IBM model 1."""
    chosen = list(blocks(source.lengths * target.lengths))
    bar = tqdm(chosen, "pairs", disable=None)
    found = [np.unique(pair_keys(source, target, block, target_vocab)) for block in bar]
    keys = np.unique(np.concatenate(found))
    left = keys // target_vocab
    table = np.ones(len(keys))
    with tqdm(total=iterations * len(chosen), desc="align", disable=None) as bar:
        places: list[np.ndarray] = []
        for _ in range(iterations):
            expected = np.zeros(len(keys))
            for number, block in enumerate(chosen):
                if number == len(places):  # the first time
                    block_keys = pair_keys(source, target, block, target_vocab)
                    places.append(np.searchsorted(keys, block_keys).astype(np.int32))
                counts = np.repeat(source.lengths[block], target.lengths[block])
                shares = table[places[number]]
                shares /= np.repeat(np.add.reduceat(shares, np.cumsum(counts) - counts), counts)
                expected += np.bincount(places[number], shares, len(keys))
                bar.update()
            table = expected / np.bincount(left, expected)[left]
    return keys, table


def best(keys: np.ndarray, table: np.ndarray, target_vocab: int, count: int) -> np.ndarray:
    """The pairs of each source id with its `count` most probable target ids; among equals the lower."""
    left = keys // target_vocab
    order = np.lexsort((keys, -table, left))
    rank = np.arange(len(keys)) - np.searchsorted(left, left)
    return keys[np.sort(order[rank < count])]


def build(
    pairs: Sequence[tuple[list[int], list[int]]],
    vocabs: tuple[int, int],
    *,
    candidates: int,
    frequent: int,
    iterations: int,
    always: Sequence[int],
    one_vocabulary: bool,
) -> Shortlist:
    """The shortlist of pairs of sentences, as ids; `vocabs` of the source and the target side.

    With one vocabulary for both sides a source token is a candidate of itself: names and numbers are copied.
    """
    source_vocab, target_vocab = vocabs
    empty = source_vocab  # the source word of what has no other
    short = [pair for pair in pairs if max(map(len, pair)) <= LONGEST]
    if not short:
        raise InputError(f"every pair of sentences has more than {LONGEST} tokens")
    source, target = Side.of([[empty, *left] for left, _ in short]), Side.of([right for _, right in short])
    keys = best(*align(source, target, target_vocab, iterations), target_vocab, candidates)
    keys = keys[keys < empty * target_vocab]
    if one_vocabulary:
        keys = np.union1d(keys, np.arange(min(vocabs)) * (target_vocab + 1))
    offsets = np.searchsorted(keys, np.arange(source_vocab + 1) * target_vocab).astype(np.int32)
    seen = np.bincount(Side.of([right for _, right in pairs]).ids, minlength=target_vocab)
    most = np.argsort(-seen, kind="stable")[:frequent]
    common = np.union1d(most[seen[most] > 0], always).astype(np.int32)
    return Shortlist(offsets, (keys % target_vocab).astype(np.int32), common, target_vocab)


def read_lines(path: Path) -> list[str]:
    """Without their ends. InputError for what cannot be read or is not UTF-8."""
    path = usable_path(path, InputError)
    try:
        return path.read_bytes().decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found an invalid byte at {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def read_pairs(source: Path, target: Path) -> list[tuple[str, str]]:
    """The pairs of lines of which none is empty. InputError: sides of different lengths, or nothing in them."""
    sides = read_lines(source), read_lines(target)
    if len(sides[0]) != len(sides[1]):
        raise InputError(f"{source} has {len(sides[0])} lines, but {target} has {len(sides[1])}; expected as many")
    pairs = [pair for pair in zip(*sides, strict=True) if pair[0].strip() and pair[1].strip()]
    if not pairs:
        raise InputError(f"{source} and {target}: expected sentences, found none")
    return pairs


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, _, details = (__doc__ or "").partition("\n\n")
    how = {"description": description, "epilog": details, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser("shortlist", **how)
    parser.add_argument("model", metavar="MODEL", help="model directory, for its tokenizer")
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help="sentences, UTF-8")
    parser.add_argument("--target", type=Path, required=True, metavar="FILE", help="their translations, line by line")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="file to write; - is standard output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    counts = {"candidates": (50, "of a source token"), "frequent": (1000, "of every sentence"), "iterations": (5, "")}
    for name, (default, of) in counts.items():
        text = f"{name} {of}".strip()
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    options = parser.parse_args(arguments)
    for name in counts:
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; expected at least 1")
    return options


def run(options: argparse.Namespace) -> None:
    target = target_of(options.output)
    check_new_file(target, overwrite=options.overwrite)
    directory = open_directory(options.model)
    if directory.tokenizer_kind is None:
        raise InputError(f"{options.model}: expected a model with a tokenizer, found one without")
    config = directory.config
    vocabs = config.source_vocab, config.target_vocab
    tokenizer = open_tokenizer(
        directory.path, directory.tokenizer_kind, source_vocab=vocabs[0], target_vocab=vocabs[1]
    )
    lines = tqdm(read_pairs(options.source, options.target), "encode", disable=None)
    made = build(
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command("shortlist", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
