"""Histories take what the sentences need that live, each for itself."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from pyengine import EngineError, _core
from pyengine.decoding.beam import BeamSearch
from pyengine.decoding.greedy import GreedySearch
from pyengine.decoding.histories import Histories
from pyengine.decoding.search import IdPool, Search, Start
from pyengine.options import GenerationOptions
from pyengine.plan import StepResult
from tests.oracle.tiny import generation

SLOTS, LONG, SHORT = 256, 100_000, 100


def searching(beams: int, **given: float) -> Search:
    """Of a model of 131,072 positions."""
    defaults = generation(decoder_start_token_id=11, bad_words_ids=(), forced_eos_token_id=())
    options = GenerationOptions(num_beams=beams, max_new_tokens=SHORT, **given).resolve(defaults, 12, 131_072)
    kind = GreedySearch if beams == 1 else BeamSearch
    return kind(options, IdPool(2 * beams * SLOTS), slots=SLOTS, vocab=12)


def begin(search: Search, prompts: Sequence[np.ndarray]) -> None:
    ids = search._pool.take(len(prompts)).tolist()
    search.add([Start(prompt, 0, id, id) for id, prompt in zip(ids, prompts, strict=True)])


def step(search: Search, first: int = 3) -> list[int]:
    """Ids from `first` on are the best of each row, 0 ends: so no sentence ends before its limit."""
    rows = len(search.rows().logit_rows)
    ids = np.tile(np.arange(first, first + search.top_k, dtype=np.int32), (rows, 1))
    values = np.tile(-np.arange(1.0, 1 + search.top_k, dtype=np.float32), (rows, 1))
    done = search.advance(StepResult(np.zeros(rows), ids, values, np.zeros(0, np.float32)))
    search._pool.give(search.released())
    return [len(finished.hypotheses[0].ids) for finished in done]


@pytest.mark.parametrize("beams", [1, 4])
def test_a_long_sentence_makes_no_other_one_larger(beams: int) -> None:
    search = searching(beams)
    # Running hypotheses, and those that ended; of one alone the log-probabilities take as much as two more.
    hypotheses = 3 if beams == 1 else 2 * beams
    tracemalloc.start()
    nothing = search.history_bytes
    begin(search, [np.full(LONG, 11), *[np.full(SHORT, 11)] * (SLOTS - 1)])
    needed = 4 * hypotheses * (LONG + (SLOTS - 1) * SHORT)
    assert needed <= search.history_bytes < 2.5 * needed
    finished = [length for _ in range(SHORT) for length in step(search)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert finished == [SHORT] * SLOTS
    assert peak < 4 * needed + 2**21
    assert search.history_bytes == nothing


def test_what_a_sentence_took_comes_back_with_its_slot() -> None:
    """Nothing of the long hypotheses is left where the next sentence in the slot ends in one that is short."""
    search = searching(4)
    nothing = search.history_bytes
    begin(search, [np.full(LONG, 11)])
    assert search.history_bytes > nothing + 4 * LONG
    while search.live:
        step(search)
    begin(search, [np.full(1, 11)])
    assert search.history_bytes == nothing
    finished = step(search) + step(search, first=0)
    while search.live:
        finished += step(search)
    assert finished == [2]


@pytest.mark.parametrize("option", ["no_repeat_ngram_size", "repetition_penalty"])
def test_processors_read_each_history_and_no_more(option: str) -> None:
    """Not as many places a row as the longest one has."""
    search = searching(4, **{option: 3})
    begin(search, [np.arange(length) % 11 for length in (LONG, *[SHORT] * (SLOTS - 1))])
    tracemalloc.start()
    search.rows()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * (LONG + SLOTS * SHORT)


@pytest.mark.parametrize(
    ("slots", "lengths", "count"),
    [([2], [1], 1), ([-1], [1], 1), ([0], [-1], 1), ([0], [63], 2), ([0, 1], [1], 1)],
    ids=["no such slot", "negative slot", "negative length", "no room", "other lengths"],
)
def test_tokens_are_written_only_where_there_is_room(slots: list[int], lengths: list[int], count: int) -> None:
    histories = Histories(2, 1, values=True)
    tokens = np.ones((len(slots), count), np.int32)
    histories[0][:] = histories[1][:] = 0
    with pytest.raises(EngineError):
        _core.write_tokens(histories, np.array(slots), np.array(lengths, np.int32), tokens, np.ones(tokens.shape))
    assert not histories[0].any() and not histories[1].any()


def test_tokens_go_behind_those_that_are_there() -> None:
    histories = Histories(3, 2, values=True)
    for slot in range(3):
        histories[slot][:] = 0
    histories.reserve(np.array([2, 0]), np.array([100, 10]))
    histories[2][:, 64:] = 0
    tokens = np.arange(1, 7, dtype=np.int32).reshape(2, 3)
    _core.write_tokens(histories, np.array([2, 0]), np.array([97, 1], np.int32), tokens, tokens / 2)
    assert histories[2][0, 96:].tolist() == [0, 1, 2, 3] + [0] * 28 and histories[0][0, :5].tolist() == [0, 4, 5, 6, 0]
    assert not histories[2][1].any() and not histories[1].any()
    assert histories.values(2)[97:100].tolist() == [0.5, 1.0, 1.5] and histories.values(0)[1:4].tolist() == [2, 2.5, 3]


def test_another_thread_asks_for_the_bytes_meanwhile() -> None:
    histories, slots, ended = Histories(64, 1), np.arange(64), threading.Event()
    interval = sys.getswitchinterval()

    def grow() -> None:
        while not ended.is_set():
            histories.reserve(slots, np.full(64, 70))
            histories.release(slots)

    thread = threading.Thread(target=grow)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(40_000):
            assert histories.nbytes >= 64 * 64 * 4
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)
