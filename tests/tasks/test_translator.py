"""The translator's surface, on the NumPy session."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from pyengine import (
    ClosedError,
    DeadlineError,
    GenerationOptions,
    InputError,
    OptionError,
    TranslationResult,
    UnsupportedError,
)
from pyengine.plan import Plan, StepResult
from tests.oracle.reference import log_softmax
from tests.oracle.reference_session import ReferenceSession
from tests.tasks.models import CONFIG, MODEL, LetterTokenizer, translator

TEXTS = ["abc", "k", "", "hello", "fghijk", "dad"]


def test_text_in_text_out() -> None:
    result = translator().translate("abc", num_hypotheses=2)
    assert isinstance(result, TranslationResult) and len(result.hypotheses) == 2
    best, second = result.hypotheses
    assert best.score >= second.score
    assert (result.text, result.tokens, result.ids) == (best.text, best.tokens, best.ids)
    assert (result.score, result.finish_reason, result.truncated) == (best.score, best.finish_reason, False)
    assert best.text == "".join(best.tokens) and 0 not in best.ids


def test_one_in_one_out_a_list_in_a_list_out() -> None:
    tiny = translator()
    results = tiny.translate(TEXTS)
    assert [result.text for result in results] == [tiny.translate(text).text for text in TEXTS]
    assert results == list(tiny.translate_iter(text + "\r\n" for text in TEXTS))
    assert tiny.translate([]) == [] and list(tiny.translate_iter([])) == []
    assert tiny.translate(("abc",)) == tiny.translate(["abc"])


@pytest.mark.parametrize("as_ids", [list, tuple, np.array, lambda ids: np.array(ids, np.uint8)])
def test_ids_in_place_of_text(as_ids: type) -> None:
    tiny = translator()
    one = as_ids([1, 2, 3, 0])
    assert tiny.translate(one) == tiny.translate("abc")
    assert tiny.translate([one, "k"]) == tiny.translate(["abc", "k"])
    assert list(tiny.translate_iter([one])) == tiny.translate(["abc"])
    assert tiny.score(one, as_ids([4, 5])) == tiny.score("abc", "de")


def test_a_model_without_tokenizer_takes_ids() -> None:
    tiny = translator(tokenizer=None)
    result = tiny.translate([1, 2, 3, 0])
    assert result.hypotheses[0].decoded is None
    for read in (lambda: result.text, lambda: result.tokens):
        with pytest.raises(UnsupportedError, match="the model has no tokenizer: a result has .ids, but no .text"):
            read()
    assert result.ids == translator().translate("abc").ids
    assert tiny.score([1, 0], [2]).tokens is None
    with pytest.raises(InputError, match="the input is text, but the model has no tokenizer"):
        tiny.translate("abc")


def test_an_empty_text_translates_to_an_empty_text() -> None:
    for result in (
        translator().translate(""),
        *translator().translate_iter(["\n"]),
        translator().translate([[]])[0],
    ):
        (only,) = result.hypotheses
        assert (only.text, only.tokens, only.ids, only.score, only.finish_reason) == ("", (), (), 0.0, "end")


def test_samples_of_a_translation() -> None:
    tiny = translator()
    drawn = {"temperature": 3.0, "min_new_tokens": 4, "num_return_sequences": 3, "seed": 4}
    alone = tiny.translate("abc", **drawn)
    assert len(alone.hypotheses) == 3 and len({each.ids for each in alone.hypotheses}) > 1
    assert tiny.translate(["b", "abc", "ca"], **drawn)[1] == alone
    assert tiny.translate("abc", **{**drawn, "seed": 5}) != alone


def test_options_and_aliases() -> None:
    tiny = translator()
    options = GenerationOptions(num_beams=3, num_return_sequences=3, max_new_tokens=4)
    expected = tiny.translate("abc", options=options)
    assert len(expected.hypotheses) == 3 and max(len(each.ids) for each in expected.hypotheses) <= 4
    assert tiny.translate("abc", beam_size=3, num_hypotheses=3, max_decoding_length=4) == expected
    with pytest.raises(OptionError, match="options and beam_size were given"):
        tiny.translate("abc", options=options, beam_size=3)
    with pytest.raises(OptionError, match="one option"):
        tiny.translate_iter(["abc"], beam_size=3, num_beams=3)
    with pytest.raises(InputError, match="found one str"):
        tiny.translate_iter("abc")
    for wrong in (None, 3):
        with pytest.raises(InputError, match=f"any number of sentences, found {type(wrong).__name__}"):
            tiny.translate_iter(wrong)  # type: ignore[arg-type]
    for call in (tiny.translate, tiny.translate_iter):
        with pytest.raises(OptionError, match="options is a dict; expected GenerationOptions"):
            call(["abc"], options={"beam_size": 3})  # type: ignore[operator]
    with pytest.raises(OptionError, match="no such option"):
        tiny.translate("abc", beams=3)  # type: ignore[call-arg]
    for name, value in (("max_batch_tokens", 0), ("timeout", 0), ("timeout", "1"), ("max_batch_tokens", 1.5)):
        with pytest.raises(OptionError, match=f"{name} is {value!r}"):
            tiny.translate("abc", **{name: value})  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="timeout is 10+[.]{3}0+; expected seconds"):
        tiny.translate("abc", timeout=10**400)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"abc", "expected text or token ids, found bytes"),
        (["abc", b"k"], "input 2: expected text or token ids, found bytes"),
        (["abc", None], "input 2"),
        (None, "expected text, token ids or a list of these, found NoneType"),
        ([1, 2, 23], "the input: expected token ids from 0 to 22, found 23"),
        ([[1, -1, 0]], "input 1: expected token ids from 0 to 22, found -1"),
        ([[1.5, 0]], "input 1"),
        (np.array([1.5, 0]), "the input"),
        (["abc", "xyz!"], "input 2: no such letters: !xyz"),
    ],
)
def test_what_the_model_cannot_take(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        translator().translate(source)  # type: ignore[call-overload]


def test_an_input_longer_than_the_positions() -> None:
    tiny = translator()
    long = "abcdefgh" * 5  # 40 letters and the end token, for 40 positions
    with pytest.raises(InputError, match=r"input 2 has 41 tokens; the model has 40 positions"):
        tiny.translate(["abc", long])
    cut = tiny.translate(["abc", long], truncate=True)
    assert [result.truncated for result in cut] == [False, True]
    assert cut[1].hypotheses[0].ids == tiny.translate(long[:39]).ids  # the end token stays
    assert [result.truncated for result in tiny.translate_iter([long, "abc"], truncate=True)] == [True, False]
    results = tiny.translate_iter(["abc", long, "k"])
    assert next(results) == tiny.translate("abc")
    with pytest.raises(InputError, match="input 2 has 41"):
        next(results)


def test_target_prefix() -> None:
    tiny = translator()
    given = tiny.translate("abc", target_prefix="de", num_hypotheses=2)
    assert all(each.ids[:2] == (4, 5) and each.text[:2] == "de" for each in given.hypotheses)
    assert tiny.translate("abc", target_prefix=[4, 5], num_hypotheses=2) == given
    both = tiny.translate(["abc", "abc"], target_prefix=["de", None], num_hypotheses=2)
    assert both == [given, tiny.translate("abc", num_hypotheses=2)]
    assert list(tiny.translate_iter(["abc"], target_prefix="de", num_hypotheses=2)) == [given]
    with pytest.raises(InputError, match="target_prefix: expected a list of 2"):
        tiny.translate(["abc", "k"], target_prefix="de")
    with pytest.raises(InputError, match="has 5 tokens; hypotheses may have 5 in all"):
        tiny.translate("abc", target_prefix="aaaaa", max_length=6)
    with pytest.raises(OptionError, match="max_new_tokens is 38; expected at most 35 with the target_prefix"):
        tiny.translate("abc", target_prefix="aaaaa", max_new_tokens=38)


def test_default_lengths_do_not_count_the_prefix() -> None:
    """As in transformers: max_new_tokens and min_new_tokens of generation_config.json are new tokens."""
    tiny = translator(max_new_tokens=3, min_new_tokens=3)
    for prefix in ("", "d", "deabc"):
        for each in tiny.translate("abc", target_prefix=prefix, num_hypotheses=2).hypotheses:
            # The end token is one of the three where it is forced at the last place.
            assert len(each.ids) - len(prefix) == 2 and each.finish_reason == "length"
    long = tiny.translate("abc", target_prefix="d", max_length=9, min_length=9)
    assert len(long.ids) == 7  # with start and end token 9
    assert len(tiny.translate("abc", target_prefix="a" * 38).ids) == 39  # positions end first


def test_lengths_that_exclude_each_other() -> None:
    tiny = translator()
    for call in (tiny.translate, tiny.translate_iter):
        with pytest.raises(OptionError, match="min_new_tokens is 15, but max_length is 10"):
            call(["abc"], min_new_tokens=15, max_length=10)
        with pytest.raises(OptionError, match="min_length is 100000"):
            call(["abc"], min_length=100000)


def test_score_is_the_sum_of_log_probabilities() -> None:
    tiny = translator()
    memory = MODEL.encode(np.array([1, 2, 3, 0]))
    log_probs = log_softmax(MODEL.decode(np.array([22, 4, 5]), memory))[[0, 1, 2], [4, 5, 0]]
    result = tiny.score("abc", "de")
    assert result.ids == (4, 5, 0) and result.tokens == ("d", "e", "_")
    assert result.log_probs == pytest.approx(log_probs.tolist(), abs=1e-5)
    assert result.total == pytest.approx(sum(log_probs), abs=1e-5)
    assert tiny.score([1, 2, 3, 0], [4, 5, 0]) == result
    best = tiny.translate("abc")
    assert tiny.score("abc", best.ids).total / (len(best.ids) + 1) == pytest.approx(best.score, abs=1e-5)


def test_scores_do_not_depend_on_their_company() -> None:
    tiny = translator()
    sources, targets = ["abc", "k", "hello", "fghijk", "dad"], ["de", "", "abc", "k", "aaaaaaaaa"]
    alone = [tiny.score(*pair) for pair in zip(sources, targets, strict=True)]
    for budget in (1, 12, 1000):
        assert tiny.score(sources, targets, max_batch_tokens=budget) == alone
    small = translator(lambda: ReferenceSession(MODEL, max_rows=7, max_sequences=3, max_memories=3))
    assert small.score(sources, targets) == alone
    assert tiny.score([], []) == []
    with pytest.raises(InputError, match="expected a list of 1 targets, one for each source, found one"):
        tiny.score(["x"], "y")  # type: ignore[call-overload]
    for bad in ((["abc"], []), (["abc", "k"], "de"), ("abc", ["de"]), ("", "de"), ("abc", "a" * 40)):
        with pytest.raises(InputError):
            tiny.score(*bad)  # type: ignore[call-overload]


def test_a_score_says_what_was_cut() -> None:
    tiny = translator()
    long = "abcdefgh" * 5
    assert not tiny.score("abc", "de").truncated
    found = tiny.score(["abc", long], ["de", "de"], truncate=True)
    assert [each.truncated for each in found] == [False, True]
    assert found[1].log_probs == tiny.score(long[:39], "de").log_probs
    with pytest.raises(InputError, match="source 2 has 41 tokens"):
        tiny.score(["abc", long], ["de", "de"])


def test_logits_of_a_source_that_is_too_long() -> None:
    with pytest.raises(InputError, match="the source has 41 tokens; the model has 40 positions"):
        translator().logits("abcdefgh" * 5, "de")


def test_logits_are_the_models() -> None:
    target = "abcdefgh" * 4
    ids = [1, 2, 3, 4, 5, 6, 7, 8] * 4
    logits = translator().logits("abc", target)
    expected = MODEL.decode(np.array([22, *ids]), MODEL.encode(np.array([1, 2, 3, 0])))
    assert logits.dtype == np.float32 and logits.shape == (33, CONFIG.target_vocab)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_logits_of_many_are_those_of_each() -> None:
    tiny = translator()
    sources, targets = ["abc", "k", "hello", "fghijk", "dad"], ["de", "", "abcdefgh" * 4, "k", "aaaaaaaaa"]
    alone = [tiny.logits(*pair) for pair in zip(sources, targets, strict=True)]
    small = translator(lambda: ReferenceSession(MODEL, max_rows=40, max_sequences=3, max_memories=3))
    for found in (
        *(tiny.logits_iter(sources, targets, max_batch_tokens=budget) for budget in (1, 12, 1000)),
        small.logits_iter(sources, targets),
    ):
        for logits, expected in zip(found, alone, strict=True):
            assert logits.dtype == np.float32 and logits.tobytes() == expected.tobytes()
    assert list(tiny.logits_iter([], [])) == []
    for bad in (("abc", ["d", "e", "f"]), (["abc"], "d"), (["abc"], []), ([""], ["de"]), (["abc"], ["a" * 40])):
        with pytest.raises(InputError):
            tiny.logits_iter(*bad)  # type: ignore[arg-type]


class Interrupting(ReferenceSession):
    """Raises at its second step, once."""

    made: list[Interrupting] = []

    def __init__(self) -> None:
        super().__init__(MODEL)
        self.armed = True
        self.made.append(self)

    def step(self, plan: Plan, patience: float = 0.0, since: int = 0) -> StepResult:
        if self.armed and self.steps_run == 1:
            self.armed = False
            raise KeyboardInterrupt
        return super().step(plan)


def test_after_an_interrupt_the_session_is_used_again() -> None:
    Interrupting.made.clear()
    tiny = translator(Interrupting)
    with pytest.raises(KeyboardInterrupt):
        tiny.translate(TEXTS)
    assert tiny.translate(TEXTS) == translator().translate(TEXTS)
    assert len(Interrupting.made) == 1


class Failing(LetterTokenizer):
    """Cannot write the fourth text."""

    decoded = 0

    def decode(self, ids: Iterable[int]) -> str:
        self.decoded += 1
        if self.decoded == 4:
            raise KeyboardInterrupt
        return super().decode(ids)


def test_after_an_error_outside_a_step_the_session_is_empty() -> None:
    """Even while the traceback still refers to the search."""
    sessions: list[ReferenceSession] = []

    def open_session() -> ReferenceSession:
        sessions.append(ReferenceSession(MODEL))
        return sessions[-1]

    tiny = translator(open_session, tokenizer=Failing())
    with pytest.raises(KeyboardInterrupt) as caught:
        tiny.translate(TEXTS * 3, max_batch_tokens=8)
    assert caught.tb is not None
    assert not sessions[0].sequences and not sessions[0].memories
    assert tiny.translate(TEXTS) == translator().translate(TEXTS)
    assert len(sessions) == 1


def test_timeout() -> None:
    with pytest.raises(DeadlineError):
        translator().translate(TEXTS * 50, timeout=0.05)
    with pytest.raises(TimeoutError):
        list(translator().translate_iter(TEXTS * 50, timeout=0.05))
    with pytest.raises(DeadlineError):
        translator().logits("abc", "abcdefgh" * 4, timeout=1e-9)
    assert translator().translate("abc", timeout=60) == translator().translate("abc")


def test_the_consumers_own_time_does_not_count() -> None:
    # One sentence at a time: the search goes on after the caller has slept longer than the timeout.
    for result in translator().translate_iter(["k"] * 3, timeout=1, max_batch_tokens=1):
        assert isinstance(result.text, str)
        time.sleep(0.6)


def test_the_deadline_is_looked_at_while_texts_become_ids() -> None:
    class Slow(LetterTokenizer):
        encoded = 0

        def encode_source(self, text: str) -> list[int]:
            self.encoded += 1
            time.sleep(0.01 if text else 0)
            return super().encode_source(text)

    for call in (
        lambda tiny: tiny.translate(["k"] * 500, timeout=0.05),
        lambda tiny: list(tiny.translate_iter(["k"] * 500, timeout=0.05)),
        lambda tiny: tiny.score(["k"] * 500, ["k"] * 500, timeout=0.05),
    ):
        slow = Slow()
        with pytest.raises(DeadlineError):
            call(translator(tokenizer=slow))
        assert slow.encoded < 100


def test_the_deadline_is_looked_at_while_other_calls_compute() -> None:
    class Waiting(ReferenceSession):
        def step(self, plan: Plan, patience: float = 0.0, since: int = 0) -> None:  # type: ignore[override]
            time.sleep(patience)

    with pytest.raises(DeadlineError):
        translator(lambda: Waiting(MODEL)).translate("abc", timeout=0.05)
    assert translator().translate("abc", timeout=1e300) == translator().translate("abc")


def test_closing_the_iterator_cancels() -> None:
    session = ReferenceSession(MODEL)
    tiny = translator(lambda: session)

    def endless() -> Iterator[str]:
        while True:
            yield from TEXTS

    results = tiny.translate_iter(endless())
    next(results)
    assert session.sequences
    results.close()  # type: ignore[attr-defined]
    assert not session.sequences and not session.memories


def test_closed() -> None:
    with translator() as tiny:
        tiny.translate("abc")
    for call in (
        lambda: tiny.translate("abc"),
        lambda: list(tiny.translate_iter(["abc"])),
        lambda: tiny.score("abc", "d"),
        lambda: tiny.logits("abc", "d"),
    ):
        with pytest.raises(ClosedError, match="the model is closed"):
            call()
    tiny.close()


def test_threads_share_a_translator() -> None:
    tiny = translator()
    expected = tiny.translate(TEXTS)
    results: list[list[TranslationResult]] = []
    threads = [threading.Thread(target=lambda: results.append(tiny.translate(TEXTS))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6


def test_info_is_ready_for_json() -> None:
    about = translator().info()
    assert about["path"] == "tiny" and about["model"]["width"] == 16  # type: ignore[index]
