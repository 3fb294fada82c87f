"""Which target tokens translate which source token, by parallel text: what a shortlist is made of.

IBM model 1 (Brown et al., 1993): expectation maximization of t(target | source), each sentence with an empty source
word. The same text gives the same arrays. Memory: about 10 bytes for each pair of a source and a target token of a
sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pyengine.errors import InputError
from pyengine.shortlist import Shortlist

__all__ = ["build_shortlist"]

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
    keys: np.ndarray = left * target_vocab + np.repeat(target.ids[begin:end], counts)
    return keys


def align(source: Side, target: Side, target_vocab: int, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that occur, int64 ascending (`pair_keys`), and float64 t(target | source) of each, by IBM model 1."""
    chosen = list(blocks(source.lengths * target.lengths))
    shown = tqdm(chosen, "pairs", disable=None)
    found = [np.unique(pair_keys(source, target, block, target_vocab)) for block in shown]
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


def build_shortlist(
    pairs: Sequence[tuple[list[int], list[int]]],
    vocabs: tuple[int, int],
    *,
    candidates: int,
    frequent: int,
    iterations: int,
    always: Sequence[int],
    one_vocabulary: bool,
) -> Shortlist:
    """The shortlist that `pairs` of sentences, as ids, give; `vocabs` are the sizes of the source and the target side.

    candidates      target ids of a source id, the most probable ones
    frequent        target ids of every sentence, the most frequent ones, and beside them those of `always`
    iterations      of the expectation maximization
    one_vocabulary  both sides share it: a source token is a candidate of itself, for names and numbers are copied
    Raises InputError if every pair has more than LONGEST tokens on a side.
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
