"""What samples are drawn by: numbers, filters, and the law that they obey together."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pyengine import EngineError, OptionError, _core
from pyengine.decoding.sample import PLACES, WholeRowSearch, _Kept
from pyengine.decoding.search import Best, Found, Written
from pyengine.options import SearchOptions
from pyengine.scheduling.scheduler import Request, Scheduler
from tests.core.models import make_plan, new_session
from tests.scheduling.test_requests import MODELS, PAIR, VOCAB, Watched, mixture, plain, run, settled

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
MIXED: list[dict[str, Any]] = [
    {"do_sample": True},
    {"temperature": 1.7, "top_k": 0, "seed": 5},
    {"top_p": 0.8, "num_return_sequences": 3},
    {"min_p": 0.1, "repetition_penalty": 1.2, "logit_bias": {3: 1.5, 0: -2.0}},
    {"typical_p": 0.7, "top_k": 0, "num_return_sequences": 2, "frequency_penalty": 0.4},
    {"num_beams": 2},
    {},
]


def uniforms(seed: int, sample: int, position: int) -> float:
    of = np.array([seed], np.uint64), np.array([sample], np.int32), np.array([position], np.int32)
    return float(_core.uniforms(*of)[0])


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 as its authors write it down."""
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        low = 2**32 - 1
        counter = [b >> 32 ^ counter[1] ^ key[0], b & low, a >> 32 ^ counter[3] ^ key[1], a & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter


def test_numbers_are_those_of_philox() -> None:
    """The known answers are Random123's."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox([2**32 - 1] * 4, [2**32 - 1] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    for seed, sample, position in ((0, 0, 0), (2**63 - 1, 255, 100_000), (0x123456789ABCDEF, 3, 17)):
        low, high, _, _ = philox([position, sample, 0, 0], [seed & 2**32 - 1, seed >> 32])
        assert uniforms(seed, sample, position) * 2**53 == (high << 32 | low) >> 11
    every = np.arange(9000, dtype=np.int32)
    numbers = _core.uniforms(np.full(9000, 7, np.uint64), every % 3, every)
    assert len(set(numbers.tolist())) == 9000 and 0 <= numbers.min() and numbers.max() < 1
    counts = np.histogram(numbers, 16, (0, 1))[0]
    assert ((counts - 9000 / 16) ** 2 / (9000 / 16)).sum() < 37.7  # chi-square, 15 degrees: one in a thousand is above


@pytest.mark.parametrize(
    "rules", [{}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.4}, {"min_p": 0.2}, {"typical_p": 0.6}]
)
def test_samples_obey_the_law(rules: dict[str, Any]) -> None:
    """Chi-square of 40,000 draws of one row."""
    lottery = _core.Lottery(**{**OFF, **rules})
    row = np.random.default_rng(1).normal(0, 1.5, 40)
    places, expected = lottery.kept(row)
    count = 40_000
    numbers = _core.uniforms(np.full(count, 3, np.uint64), np.zeros(count, np.int32), np.arange(count, dtype=np.int32))
    drawn = lottery.draw(row[None], np.zeros(count, np.int64), numbers)
    seen = np.bincount(drawn, minlength=40)
    assert seen.sum() == seen[places].sum() == count
    chi_square = ((seen[places] - count * expected) ** 2 / (count * expected)).sum()
    freedom = len(places) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4


def test_a_number_takes_the_token_that_it_falls_on() -> None:
    row = np.log(np.array([0.5, 0.0, 0.25, 0.25]) + 0.0, where=np.array([1, 0, 1, 1], bool), out=np.full(4, -np.inf))
    lottery = _core.Lottery(**OFF)
    numbers = np.array([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-53])
    assert lottery.draw(row[None], np.zeros(6, np.int64), numbers).tolist() == [0, 0, 2, 2, 3, 3]
    none = np.array([[-np.inf, -np.inf], [np.nan, 2.0]])
    assert lottery.draw(none, np.array([0, 1]), np.array([0.5, 0.5])).tolist() == [0, 1]
    forced = np.array([[1.0, np.inf, -np.inf, np.inf, 2.0]])
    for rules in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}, {"temperature": 1e-9}):
        own = _core.Lottery(**{**OFF, **rules})
        assert own.draw(forced, np.zeros(2, np.int64), np.array([0.2, 0.7])).tolist() == [1, 3]
        assert own.best(forced[0], 2)[0].tolist() == [1, 3]
    with pytest.raises(EngineError, match="row 2 of 2"):
        lottery.draw(none, np.array([2]), np.array([0.5]))
    with pytest.raises(EngineError, match="a temperature of 0"):
        _core.Lottery(**{**OFF, "temperature": 0.0})


def samples(kind: str, count: int = 42) -> list[Request]:
    requests = []
    for number, request in enumerate(mixture(kind, count)):
        options = settled(kind, **{"seed": number, **MIXED[number % len(MIXED)]})
        requests.append(dataclasses.replace(request, options=options))
    return requests


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("budget", "limits"), [(8, {}), (30, {"cache_bytes": 45_000}), (300, {"max_sequences": 20})])
def test_the_same_seed_gives_the_same_text_in_any_company(kind: str, budget: int, limits: dict[str, int]) -> None:
    requests = samples(kind)
    alone = [plain(found) for request in requests for found in run(kind, [request], 1000)[0]]
    found, _ = run(kind, requests, budget, **limits)
    assert [plain(each) for each in found] == alone
    assert all(len(each) == request.options.num_return_sequences for each, request in zip(found, requests, strict=True))


@pytest.mark.parametrize("isa", _core.available_isas())
def test_the_same_seed_gives_the_same_text_on_every_instruction_set(isa: str) -> None:
    requests = samples("both", 14)
    found, _ = run("both", requests, 60, PAIR.core(kv="int8", isa=isa), threads=3)
    assert [plain(each) for each in found] == [plain(each) for each in run("both", requests)[0]]


def drawn(options: SearchOptions, prompt: int = 3, count: int = 1) -> list[list[Found]]:
    return run("decoder", [Request(None, np.array([prompt], np.int32), options)] * count)[0]


def test_seeds_make_samples() -> None:
    same = [plain(each) for seed in (1, 1, 2) for each in drawn(settled("decoder", do_sample=True, top_k=0, seed=seed))]
    assert same[0] == same[1] != same[2]
    free = [plain(each) for each in drawn(settled("decoder", do_sample=True, top_k=0), count=40)]  # half end at once
    assert len({str(each) for each in free}) > 1
    three = drawn(settled("decoder", do_sample=True, top_k=0, seed=1, num_return_sequences=3))[0]
    assert plain(three[:1]) == same[0] and len({tuple(each.ids.tolist()) for each in three}) > 1


def test_samples_share_the_pages_of_their_prompt() -> None:
    """The prompt runs once, and its whole pages are held once."""
    prompt = np.arange(1, 50, dtype=np.int32) % VOCAB
    options = settled("decoder", do_sample=True, seed=1, num_return_sequences=8, min_new_tokens=8, max_new_tokens=8)
    [found], session = run("decoder", [Request(None, prompt, options)], 100)
    assert session.rows[:2] == [49, 8] and len(found) == 8
    assert session.plans[1].forks.tolist() == [[0, other] for other in range(1, 8)]


def test_top_k_1_and_temperature_0_are_greedy_search() -> None:
    [greedy] = drawn(settled("decoder"))
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"temperature": 0.0}, {"temperature": 1e-9, "top_k": 0}):
        assert plain(drawn(settled("decoder", **options))[0]) == plain(greedy)


def test_candidates_and_whole_rows_draw_alike() -> None:
    """A top-k of 22 is below the 64 that need no whole rows; 65 is beyond the vocabulary."""
    for options in ({}, {"repetition_penalty": 1.4, "suppress_tokens": [4]}):
        few = drawn(settled("decoder", top_k=VOCAB, seed=3, **options))
        for above in (65, 10**30):
            all_of_them = drawn(settled("decoder", top_k=above, seed=3, **options))
            assert [each.finish for each in few[0]] == [each.finish for each in all_of_them[0]]
            assert few[0][0].ids.tolist() == all_of_them[0][0].ids.tolist()


@pytest.mark.parametrize("drawing", [{}, {"do_sample": True, "seed": 4, "num_return_sequences": 2}])
def test_processors_of_a_request(drawing: dict[str, Any]) -> None:
    """See the ids so far and logits after all others; what they leave is taken."""
    seen: list[list[int]] = []

    def only_even(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        assert logits.shape == (VOCAB,) and logits[6] == -np.inf
        seen.append(ids.tolist())
        return np.where(np.arange(VOCAB) % 2 == 0, logits, -np.inf)

    options = settled("decoder", suppress_tokens=[6], min_new_tokens=4, **drawing)
    request = Request(None, np.array([3, 5], np.int32), options, process=only_even)
    [*_, [first, *_]] = run("decoder", [*mixture("decoder", 6), request])[0]
    assert all(id % 2 == 0 and id != 6 for id in first.ids.tolist())
    assert seen[0] == [3, 5] and [3, 5, *first.ids[:1].tolist()] in seen


@pytest.mark.parametrize("wrong", [RuntimeError("no"), np.zeros(5), None, "x", np.full(VOCAB, np.nan)])
def test_a_processor_that_fails_ends_its_request_alone(wrong: Any) -> None:
    def process(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        if len(ids) < 5:
            return logits
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    requests = mixture("decoder", 6)
    alone = [plain(each) for each in run("decoder", requests)[0]]
    options = settled("decoder", min_new_tokens=9, num_return_sequences=2, top_k=5)
    failing = Request(None, np.array([3], np.int32), options, process=process)
    scheduler = Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=40)
    events = list(scheduler.events([failing, *requests]))
    [error] = [event.error for event in events if event.error]
    assert isinstance(error, RuntimeError if isinstance(wrong, Exception) else OptionError)
    for number, expected in enumerate(alone, 1):
        ended = [event.found for event in events if event.request == number]
        assert plain([each for each in ended if each]) == expected
    assert not scheduler._running and not scheduler._held


def test_penalties_and_biases_of_written_tokens() -> None:
    """A bias alone decides; presence and frequency count what was written, not the prompt."""
    [[biased]] = drawn(settled("decoder", logit_bias={11: 1000.0}))
    assert set(biased.ids.tolist()) == {11}
    [[once]] = drawn(settled("decoder", logit_bias={11: 500.0, 12: 480.0}, presence_penalty=50.0), prompt=11)
    assert once.ids[:3].tolist() == [11, 12, 11] or once.ids[:2].tolist() == [11, 12]
    [[often]] = drawn(settled("decoder", logit_bias={11: 500.0, 12: 450.0}, frequency_penalty=20.0), prompt=11)
    assert often.ids[:5].tolist() == [11, 11, 11, 12, 11]


def test_looking_at_what_was_written_copies_no_best_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a text that is streamed takes time by the square of its length."""
    shown: list[Written] = []
    written = WholeRowSearch.written
    monkeypatch.setattr(
        WholeRowSearch, "written", lambda search, slot: (shown.append(written(search, slot)), shown[-1])[1]
    )
    options = settled("decoder", logprobs=3, min_new_tokens=50, max_new_tokens=50)
    request = Request(None, np.array([3], np.int32), options)
    _, *_, last = Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=8).events([request])
    assert len(shown) >= 49 and last.found is not None and last.found.best is not None
    for each in shown:
        assert each.best is not None
        for own, whole in zip(each.best, last.found.best, strict=True):
            assert np.shares_memory(own, whole) and np.array_equal(own, whole[: len(own)])


def test_best_tokens_of_a_text_longer_than_their_room() -> None:
    kept, rows = _Kept(2), np.arange(2 * 5 * PLACES).reshape(-1, 2)
    shown = []
    for row in rows:
        kept.add(Best(row, row / 2, row + 1, row / 3))
        shown.append(kept.so_far)
    for count, each in enumerate(shown, 1):
        assert each.ids.tolist() == rows[:count].tolist() and np.array_equal(each.left_log_probs, rows[:count] / 3)


def test_room_for_best_tokens_is_made_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a processor alone."""
    made: list[int] = []

    class Counted(_Kept):
        def __init__(self, count: int) -> None:
            made.append(count)
            super().__init__(count)

    monkeypatch.setattr("pyengine.decoding.sample._Kept", Counted)
    for logprobs, expected in ((0, []), (2, [2, 2, 2])):
        options = settled("decoder", logprobs=logprobs, do_sample=True, num_return_sequences=3, seed=1)
        request = Request(None, np.array([3], np.int32), options, process=lambda ids, logits: logits)
        [found] = run("decoder", [request])[0]
        assert made == expected and [each.best is None for each in found] == [not logprobs] * 3


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


@pytest.mark.parametrize("drawing", [{}, {"top_k": 4, "temperature": 2.0, "seed": 4, "num_return_sequences": 3}])
def test_best_tokens_before_and_after_processors(drawing: dict[str, Any]) -> None:
    """Of the model's own distribution, and of what may be drawn; in company, and cut where a watch ends a text."""
    options = settled("decoder", logprobs=5, suppress_tokens=[3], min_new_tokens=9, **drawing)
    prompt = np.array([3, 5], np.int32)
    found = run("decoder", [*mixture("decoder", 6), Request(None, prompt, options)])[0][-1]
    assert len(found) == options.num_return_sequences
    for each in found:
        assert each.best is not None and each.log_probs is not None
        assert each.best.ids.shape == each.best.left_log_probs.shape == (len(each.ids), 5)
        tokens = np.concatenate([prompt, each.ids])
        rows = np.arange(1, len(tokens) - 1, dtype=np.int32)
        plan = make_plan(rows=[(0, -1, tokens[:-1])], logit_rows=rows, full_logits=True)
        logits = new_session(MODELS["decoder"]).step(plan).logits
        assert logits is not None
        for place, row in enumerate(logits.astype(np.float64)):
            own, left = log_softmax(row), row.copy()
            left[[3, 0, 7] if place < 9 else [3]] = -np.inf
            if drawing:
                left = np.where(left >= np.sort(left)[-4], left / 2.0, -np.inf)
            left = log_softmax(left)
            best = np.argsort(-own)[:5], np.argsort(-left, kind="stable")[:5]
            assert each.best.ids[place].tolist() == best[0].tolist()
            assert each.best.log_probs[place] == pytest.approx(own[best[0]], abs=1e-6)
            count = 4 if drawing else 5
            assert each.best.left_ids[place, :count].tolist() == best[1][:count].tolist()
            assert each.best.left_log_probs[place, :count] == pytest.approx(left[best[1][:count]], abs=1e-6)
            assert not drawing or (each.best.left_ids[place, 4], each.best.left_log_probs[place, 4]) == (-1, -np.inf)
            assert each.log_probs[place] == pytest.approx(own[each.ids[place]], abs=1e-6)
    events = Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=40).events([Request(None, prompt, options)])
    for event in events:
        if event.found is not None:
            assert event.found.best is not None and found[event.sample].best is not None
            assert all(map(np.array_equal, event.found.best, found[event.sample].best))
    request = Request(None, prompt, options, watch=lambda sample, ids: 0 if len(ids) == 1 and ids[0] >= 0 else None)
    for each in run("decoder", [request])[0][0]:
        assert each.best is not None and each.best.ids.shape == (0, 5) and each.score == 0.0
