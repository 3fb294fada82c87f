"""Requests of a decoder alone, and of any options, side by side: company, chunks, watches, events, cancelling."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical import GenerationDefaults
from pyengine.decoding.search import Found
from pyengine.errors import OptionError
from pyengine.options import GenerationOptions, SearchOptions
from pyengine.plan import Plan, StepResult
from pyengine.scheduling import scheduler as scheduling
from pyengine.scheduling.scheduler import Event, Request, Scheduler
from tests.core.models import TinyModel, new_session
from tests.oracle.tiny import Sizes, generation, model_config

VOCAB, POSITIONS = 23, 60
DECODER = Sizes(((2, 24), (4, 20)), 4)
ALONE = TinyModel.random(
    encoder=None, source_vocab=None, share_embeddings=False, decoder=DECODER, max_positions=POSITIONS
)
PAIR = TinyModel.random("int8", max_positions=POSITIONS)
MODELS = {"decoder": ALONE.core(), "both": PAIR.core(kv="int8")}
DEFAULTS = {
    "decoder": GenerationDefaults(eos_token_id=(0, 7), max_length=POSITIONS + 1),
    "both": generation(bad_words_ids=(), max_length=POSITIONS),
}


class Watched:
    """A session that remembers the rows of each step, and whose sequences have had how many."""

    def __init__(self, model: _core.Model, **limits: int) -> None:
        self._session = new_session(model, **limits)
        self.rows: list[int] = []
        self.plans: list[Plan] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def step(self, plan: Plan, patience: float = 1.0, since: int = 0) -> StepResult:
        self.rows.append(len(plan.encode_tokens) + len(plan.tokens))
        self.plans.append(plan)
        found: StepResult = self._session.step(plan)
        return found


OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 3},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 2, "early_stopping": True, "renormalize_logits": True, "suppress_tokens": [5, 9]},
    {"repetition_penalty": 1.3, "min_new_tokens": 4},
    {"no_repeat_ngram_size": 2},
]


def settled(kind: str, **options: Any) -> SearchOptions:
    return GenerationOptions(**{"max_new_tokens": 9, **options}).resolve(DEFAULTS[kind], VOCAB, POSITIONS)


def mixture(kind: str, count: int = 40) -> list[Request]:
    """Prompts of 1 to 30 tokens, and of 1 to 9 behind sources of 1 to 12."""
    rng = np.random.RandomState(3)
    requests = []
    for number in range(count):
        source = None if kind == "decoder" else rng.randint(1, VOCAB, rng.randint(1, 13)).astype(np.int32)
        prompt = rng.randint(1, VOCAB, rng.randint(1, 31 if source is None else 10)).astype(np.int32)
        requests.append(Request(source, prompt, settled(kind, **OPTIONS[number % len(OPTIONS)])))
    return requests


def run(
    kind: str, requests: list[Request], budget: int = 16, model: _core.Model | None = None, **limits: int
) -> tuple[list[list[Found]], Watched]:
    session = Watched(model or MODELS[kind], **limits)
    return list(Scheduler(session, vocab=VOCAB, budget=budget).run(requests)), session


def plain(found: list[Found]) -> list[Any]:
    return [
        (each.ids.tolist(), each.score, each.finish, each.log_probs is not None and each.log_probs.tolist())
        for each in found
    ]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("budget", "limits"), [(8, {}), (16, {"cache_bytes": 40_000}), (300, {"max_sequences": 17})])
def test_each_is_what_it_is_alone(kind: str, budget: int, limits: dict[str, int]) -> None:
    """Whatever the others ask for, in any steps, with little memory, few ids of sequences, and prompts in chunks."""
    requests = mixture(kind)
    alone = [plain(found) for request in requests for found in run(kind, [request], 1000)[0]]
    found, session = run(kind, requests, budget, **limits)
    assert [plain(each) for each in found] == alone
    if budget > 12:  # else a source alone is more
        assert max(session.rows) <= budget
    assert {reason for each in alone for (_, _, reason, _) in each} == {"end", "length"}


def test_a_long_prompt_goes_in_chunks_beside_rows_that_search() -> None:
    short = [Request(None, np.array([3 + i], np.int32), settled("decoder", min_new_tokens=9)) for i in range(3)]
    long = Request(None, np.arange(1, 50, dtype=np.int32) % VOCAB, settled("decoder"))
    session = Watched(MODELS["decoder"])
    shown: list[tuple[int, int]] = []
    for event in Scheduler(session, vocab=VOCAB, budget=10).events([*short, long]):
        shown.append((event.request, len(session.rows)))
    steps = [step for request, step in shown if request == 0]
    assert session.rows[:7] == [10] * 7
    assert steps == list(range(1, 10))  # a token each step, while the prompt runs
    assert min(step for request, step in shown if request == 3) == 7  # 7 rows of the first step and of six more


def test_a_long_prompt_takes_few_rows_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "PROMPT_ROWS", 5)
    short = [Request(None, np.array([3 + i], np.int32), settled("decoder", min_new_tokens=9)) for i in range(3)]
    long = Request(None, np.arange(1, 31, dtype=np.int32) % VOCAB, settled("decoder", min_new_tokens=9))
    heard, unheard = Watched(MODELS["decoder"]), run("decoder", [*short, long], 10)[0]
    events = list(Scheduler(heard, vocab=VOCAB, budget=10).events([*short, long]))
    assert heard.rows[:7] == [10, 8, 8, 8, 8, 6, 4]  # nobody has a token that could come late before the first step
    ended = {event.request: plain([event.found]) for event in events if event.found is not None}
    assert ended == dict(enumerate(map(plain, unheard)))
    lengths = (1, 12, 4, 4)
    prompts = [np.arange(1, 1 + length, dtype=np.int32) for length in lengths]
    several = Watched(MODELS["decoder"])
    list(Scheduler(several, vocab=VOCAB, budget=10).events([Request(None, each, short[0].options) for each in prompts]))
    assert several.rows[:4] == [10, 6, 7, 4]  # five beside those that run, of one prompt or two, then what is left


def test_events_are_the_results_in_pieces() -> None:
    requests = mixture("decoder")
    alone = [plain(each) for each in run("decoder", requests, 1000)[0]]
    pieces: dict[tuple[int, int], list[Event]] = {}
    for event in Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=20).events(requests):
        pieces.setdefault((event.request, event.sample), []).append(event)
    assert len(pieces) == sum(map(len, alone))
    for (request, sample), own in pieces.items():
        last = own[-1].found
        assert last is not None and plain([last]) == [alone[request][sample]]
        assert np.concatenate([each.ids for each in own]).tolist() == last.ids.tolist()
        assert all(len(each.ids) for each in own) and not any(each.found for each in own[:-1])
        if last.log_probs is not None:
            told = np.concatenate([each.log_probs for each in own])
            assert told.tolist() == last.log_probs.tolist()


@pytest.mark.parametrize("listened", [False, True])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_watch_ends_its_request_where_it_says(at: int, listened: bool) -> None:
    """After the `at`-th new token, in whatever pieces it comes; the others go on."""
    options = settled("decoder", min_new_tokens=9)
    prompts = [np.array([each], np.int32) for each in (3, 4, 5)]
    whole = [each[0].ids for each in run("decoder", [Request(None, prompt, options) for prompt in prompts])[0]]
    seen: list[int] = []

    def watch(sample: int, ids: np.ndarray) -> int | None:
        assert sample == 0 and len(ids)
        seen.extend(ids.tolist())
        return len(ids) - (len(seen) - at) if len(seen) >= at else None

    requests = [Request(None, prompt, options, watch if i == 1 else None) for i, prompt in enumerate(prompts)]
    session = Watched(MODELS["decoder"])
    scheduler = Scheduler(session, vocab=VOCAB, budget=10)
    if listened:
        told = [event.found for event in scheduler.events(requests) if event.found and event.request == 1]
        [found] = [each for each in told if each]
    else:
        [_, [found], _] = scheduler.run(requests)
    assert found.finish == "stop" and found.ids.tolist() == whole[1][:at].tolist() == seen[:at]
    assert found.log_probs is not None
    assert found.score == pytest.approx(found.log_probs.sum() / at)
    assert [each[0].ids.tolist() for each in run("decoder", requests[::2])[0]] == [w.tolist() for w in whole[::2]]


def test_what_a_watch_raises_ends_its_request_alone() -> None:
    def watch(sample: int, ids: np.ndarray) -> int | None:
        raise RuntimeError("no")

    requests = mixture("decoder", 6)
    alone = [plain(each) for each in run("decoder", requests)[0]]
    requests[1] = dataclasses.replace(requests[1], watch=watch)
    events = list(Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=40).events(requests))
    [failed] = [event for event in events if event.request == 1]
    assert isinstance(failed.error, RuntimeError) and failed.found is None
    for number in (0, 2, 3, 4, 5):
        ended = [event.found for event in events if event.request == number and event.found]
        assert plain([each for each in ended if each]) == alone[number]
    results = list(Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=40).run(requests))
    assert isinstance(results.pop(1), RuntimeError)
    assert [plain(each) for each in results] == alone[:1] + alone[2:]


def test_beams_cannot_be_watched() -> None:
    with pytest.raises(OptionError, match="num_beams is 2; a request with a watch, a processor or logprobs takes 1"):
        Request(None, np.ones(1, np.int32), settled("decoder", num_beams=2), lambda sample, ids: None)


@pytest.mark.parametrize("kind", MODELS)
def test_cancelled_requests_leave_nothing_behind(kind: str) -> None:
    """Waiting, in the middle of a prompt, and at work; the others do not notice."""
    requests = mixture(kind)
    alone = [plain(each) for each in run(kind, requests, 1000)[0]]
    session = Watched(MODELS[kind], cache_bytes=60_000)
    scheduler = Scheduler(session, vocab=VOCAB, budget=14)
    found: dict[int, list[Found]] = {}
    for number, event in enumerate(scheduler.events(requests)):
        if event.found:
            found.setdefault(event.request, []).append(event.found)
        if number % 5 == 0:
            scheduler.cancel((number * 7) % len(requests))
        if number == 20:
            scheduler.cancel(10_000)  # there is no such request
    assert 5 < len(found) < len(requests)
    for request, hypotheses in found.items():
        assert plain(hypotheses) == alone[request]
    assert not scheduler._running and not scheduler._held and not scheduler._room and not scheduler._wide
    assert scheduler._memories.free == session.max_memories


def test_a_cancelled_request_has_no_hypotheses() -> None:
    requests = mixture("decoder", 4)
    scheduler = Scheduler(Watched(MODELS["decoder"]), vocab=VOCAB, budget=14)
    scheduler.cancel(2)
    found = list(scheduler.run(requests))
    assert found[2] == [] and all(found[i] for i in (0, 1, 3))


def test_the_context_running_full_ends_it() -> None:
    prompt = np.full(POSITIONS - 3, 5, np.int32)
    options = GenerationOptions(min_new_tokens=4).resolve(DEFAULTS["decoder"], VOCAB, POSITIONS)
    [[found]] = run("decoder", [Request(None, prompt, options)])[0]
    assert found.finish == "length" and len(found.ids) == 4


def test_steps_go_ahead_where_one_search_is_alone() -> None:
    options = settled("decoder", max_new_tokens=40, min_new_tokens=40)
    requests = [Request(None, np.array([each], np.int32), options, lambda sample, ids: None) for each in (3, 4)]
    session = Watched(MODELS["decoder"])
    [[one], [_]] = Scheduler(session, vocab=VOCAB, budget=14).run(requests)
    assert len(session.rows) < 10 and len(one.ids) == 40
    session = Watched(MODELS["decoder"])
    other = Request(None, np.array([3], np.int32), settled("decoder", max_new_tokens=39, min_new_tokens=39))
    [[again], _, _] = Scheduler(session, vocab=VOCAB, budget=14).run([*requests, other])
    assert len(session.rows) >= 39 and plain([again]) == plain([one])
