"""float32 against transformers with torch: token ids and scores on the test set, greedy and beam search.

    python benchmarks/exactness.py      # needs pip install ".[oracle]"

Both translate the 1,000 sentences of test_2016_flickr with the example checkpoint. Transformers runs in float32 (its
default is the type of the checkpoint, which would round even the position table to float16), in batches of sentences of
one length, so that it has no padding to mask. Scores are sums of log-probabilities over lengths.

Where the ids differ, both engines score both hypotheses, and transformers searches again in float64. If the scores
differ by less than 1e-4 it is a tie. If transformers in float64 finds what pyengine finds, its own float32 search had
dropped that hypothesis on the way, by rounding: hypotheses that a beam drops may end far apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import models
from engines import PeerOutput, Transformers
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

import pyengine

BEAMS = (1, 4)
SHARE_SAME = 0.995
SCORE_BOUND = 1e-3
TIE = 1e-4
PEER_BATCH = 32
PEER_THREADS = 2


def equal_lengths(sources: list[list[int]]) -> Iterator[list[int]]:
    """Indices of sources of one length, `PEER_BATCH` at most: a batch that needs no padding."""
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    for _, group in groupby(order, key=lambda index: len(sources[index])):
        indices = list(group)
        yield from (indices[start : start + PEER_BATCH] for start in range(0, len(indices), PEER_BATCH))


def peer_outputs(peer: Transformers, sources: list[list[int]], beams: int) -> list[PeerOutput]:
    found: dict[int, PeerOutput] = {}
    with tqdm(total=len(sources), desc=f"transformers, beam {beams}", leave=False) as bar:
        for indices in equal_lengths(sources):
            batch = [sources[index] for index in indices]
            found |= zip(indices, peer.translate_scored(batch, beams), strict=True)
            bar.update(len(indices))
    return [found[index] for index in range(len(sources))]


def without_end(ids: list[int], end: int) -> list[int]:
    return ids[:-1] if ids[-1:] == [end] else ids


def mean(values: list[float] | tuple[float, ...]) -> float:
    return sum(values) / len(values)


class Judge:
    """Explains why two hypotheses of one source differ."""

    def __init__(self, translator: pyengine.Translator, peer: Transformers) -> None:
        self._translator = translator
        self._peer = peer

    def differences(
        self, source: list[int], mine: list[int], theirs: list[int], beams: int
    ) -> tuple[float, float, str]:
        """Score of `mine` less that of `theirs` by pyengine and by transformers, and what that means."""
        end = self._peer.end
        own = [mean(self._translator.score(source, ids).log_probs) for ids in (mine, theirs)]
        other = [mean(self._peer.log_probs(source, [*ids, end])) for ids in (mine, theirs)]
        by_both = own[0] - own[1], other[0] - other[1]
        if max(map(abs, by_both)) < TIE:
            return *by_both, "a tie"
        exact = self._peer.in_float64().translate([source], beams)[0]
        if without_end(exact, end) == mine:
            return *by_both, "rounding: transformers in float64 finds pyengine's"
        return *by_both, "not explained"


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--sentences", type=int, default=1000, help="how many (default: %(default)s)")
    options = made.parse_args()
    from transformers import MarianTokenizer

    texts, _ = models.read_pairs(models.EXAMPLE / "test_2016_flickr", options.sentences)
    sources = MarianTokenizer.from_pretrained(models.EXAMPLE)(texts)["input_ids"]
    directory = models.directories(models.EXAMPLE_NAME, models.EXAMPLE, options.work)["float32"]
    report = Report("exactness", {"sentences": len(texts), "peer_batch": PEER_BATCH, "threads": PEER_THREADS})
    agreement = Table(
        "float32 against transformers with torch, test_2016_flickr",
        {"beams": "d", "sentences": "d", "same ids": "d", "largest score difference": ".1e"},
    )
    different = Table(
        "Sentences that differ: score of pyengine's hypothesis less that of transformers'",
        {"beams": "d", "line": "d", "tokens": "d", "pyengine": ".1e", "transformers": ".1e", "cause": ""},
    )
    peer = Transformers(models.EXAMPLE, threads=PEER_THREADS)
    with pyengine.load(directory, threads=PEER_THREADS) as translator:
        judge = Judge(translator, peer)
        for beams in BEAMS:
            theirs = peer_outputs(peer, sources, beams)
            ours = translator.translate(texts, num_beams=beams)
            agreed = []
            for index, (result, wanted) in enumerate(zip(ours, theirs, strict=True)):
                mine, other = list(result.ids), without_end(wanted.ids, peer.end)
                if mine == other:
                    agreed.append(abs(result.score - wanted.score))
                else:
                    found = judge.differences(sources[index], mine, other, beams)
                    different.rows.append([beams, index + 1, len(mine), *found])
            largest = max(agreed, default=0.0)
            agreement.rows.append([beams, len(texts), len(agreed), largest])
            report.verdicts.append(
                Verdict(
                    f"beam {beams}: the same ids for {SHARE_SAME:.1%} of the sentences",
                    f"{len(agreed) / len(texts):.1%}",
                    len(agreed) >= SHARE_SAME * len(texts),
                )
            )
            report.verdicts.append(
                Verdict(
                    f"beam {beams}: scores within {SCORE_BOUND:g} where the ids agree",
                    f"{largest:.1e}",
                    largest <= SCORE_BOUND,
                )
            )
    report.tables.append(agreement)
    if different.rows:
        report.tables.append(different)
    unexplained = sum(row[-1] == "not explained" for row in different.rows)
    report.verdicts.append(
        Verdict("every difference explained", f"{unexplained} of {len(different.rows)} not", unexplained == 0)
    )
    publish(report, options)


if __name__ == "__main__":
    main()
