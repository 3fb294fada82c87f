"""Text while it is written: pieces, stop strings, and what becomes of a request that nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import DeadlineError, GenerationOptions, Generator, InputError, OptionError
from pyengine.scheduling.scheduler import Event, Scheduler
from pyengine.tasks.writing import Writer
from tests.tasks.language import BEGIN, END, write_language_model

PROMPTS = ["the sea", "a", "it is an ante room, and no", "\u00e9t\u00e9", "stones"]
LONG = GenerationOptions(max_new_tokens=40, suppress_tokens=[END])


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    path = write_language_model(tmp_path_factory.mktemp("language") / "words")
    with pyengine.load(path, task=Generator, threads=1) as found:
        yield found


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("options", [GenerationOptions(), LONG, GenerationOptions(num_beams=3, max_new_tokens=9)])
def test_the_pieces_joined_are_the_result(generator: Generator, prompt: str, options: GenerationOptions) -> None:
    *pieces, last = generator.stream(prompt, options=options)
    expected = generator.generate(prompt, options=options)
    assert last.result == expected and all(piece.result is None for piece in pieces)
    assert "".join(piece.text for piece in (*pieces, last)) == expected.text
    assert sum((piece.ids for piece in (*pieces, last)), ()) == expected.ids


def test_without_words(tmp_path: Path) -> None:
    path = write_language_model(tmp_path / "ids", words=False)
    with pyengine.load(path, task=Generator, threads=1) as bare:
        *pieces, last = bare.stream([5, 6, 7], options=LONG)
        assert last.result == bare.generate([5, 6, 7], options=LONG)
        assert sum((piece.ids for piece in (*pieces, last)), ()) == last.result.ids
        assert {piece.text for piece in (*pieces, last)} == {""}
        with pytest.raises(OptionError, match="stop is for texts, but the model has no tokenizer"):
            bare.stream([5], stop="a")


def test_leaving_the_loop_cancels(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is given back, empty, and no step runs any more."""
    expected = list(generator.stream("the sea", options=LONG))
    sessions = generator.info()["sessions"]
    held: list[int] = []
    monkeypatch.setattr(Scheduler, "events", counted(Scheduler.events, held))
    for _ in range(3):
        for _ in islice(generator.stream("the sea", options=LONG), 2):
            assert held == [1]
        assert held == []
    pieces = generator.stream("the sea", options=LONG)
    assert next(pieces) == expected[0]
    pieces.close()  # type: ignore[attr-defined]
    assert held == [] and list(pieces) == []
    assert generator.info()["sessions"] == sessions and list(generator.stream("the sea", options=LONG)) == expected


def counted(events: Any, held: list[int]) -> Any:
    """`events`, which are in `held` as long as they run."""

    def run(self: Scheduler, requests: Any) -> Iterator[Event]:
        held.append(1)
        try:
            yield from events(self, requests)
        finally:
            held.pop()

    return run


def test_a_stream_beside_other_calls(generator: Generator) -> None:
    expected = generator.generate(PROMPTS, options=LONG)
    pieces = generator.stream("the sea", options=LONG)
    next(pieces)
    assert generator.generate(PROMPTS, options=LONG) == expected
    assert list(pieces)[-1].result == expected[0]


def test_time_that_the_caller_takes_does_not_count(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pyengine.scheduling.deadline.time.monotonic", lambda: now[0])
    pieces = generator.stream("the sea", options=LONG, timeout=5.0)
    for _ in pieces:
        now[0] += 100.0
    step = Scheduler._step
    monkeypatch.setattr(Scheduler, "_step", lambda *rest: (now.append(now.pop() + 3.0), step(*rest)))
    pieces = generator.stream("the sea", options=LONG, timeout=5.0)
    next(pieces)
    with pytest.raises(DeadlineError):
        list(pieces)


def test_what_is_no_stream(generator: Generator) -> None:
    with pytest.raises(InputError, match="stream takes one prompt, found a list of them"):
        generator.stream(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="num_return_sequences is more than 1"):
        generator.stream("a", num_beams=2, num_return_sequences=2)


class Words:
    """A token is a piece of text; the last character may come with the next token."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def stream(self) -> Words:
        return self

    def push(self, id: int) -> str:
        return self.pieces[id]

    def finish(self) -> str:
        return ""


NO_PROMPT = np.zeros(0, np.int32)


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "count"),
    [
        (("ab", "cd", "ef"), ("cd",), "ab", 2),
        (("ab", "cd", "ef"), ("bc",), "a", 2),
        (("ab", "cd", "ef"), ("de", "bcde"), "a", 3),  # the one that begins first
        (("ab", "cd", "ef"), ("f",), "abcde", 3),
        (("ab", "cd", "ef"), ("abx", "ce"), "abcdef", None),
        (("aa", "ab"), ("aab",), "a", 2),
        (("a", "b", "", "c"), ("bc",), "a", 4),
        (("\n", "\n", "x"), ("\n\n",), "", 2),
    ],
)
def test_stop_strings_across_tokens(
    pieces: tuple[str, ...], stop: tuple[str, ...], text: str, count: int | None
) -> None:
    whole = Writer(Words(*pieces), NO_PROMPT, stop)  # type: ignore[arg-type]
    assert whole.push(range(len(pieces))) == count
    whole.finish()
    assert whole.text == text
    writer = Writer(Words(*pieces), NO_PROMPT, stop)  # type: ignore[arg-type]
    given = []
    for id in range(len(pieces)):
        found = writer.push([id])
        given.append(writer.take())
        assert text.startswith("".join(given))  # nothing is given that a stop string would have taken back
        if found is not None:
            assert (id + 1, found) == (count, 1)
            break
    assert "".join([*given, writer.finish()]) == text


def test_a_stop_string_ends_it(generator: Generator) -> None:
    free = generator.generate("the sea", options=LONG)
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 3]
    expected = free.text[: free.text.index(stop)]
    result = generator.generate("the sea", stop=stop, options=LONG)
    assert (result.text, result.finish_reason) == (expected, "stop")
    assert result.ids == free.ids[: len(result.ids)] and len(result.ids) < len(free.ids)
    assert generator.generate("the sea", stop=["never seen", stop], options=LONG) == result
    *pieces, last = generator.stream("the sea", stop=stop, options=LONG)
    assert last.result == result and "".join(piece.text for piece in (*pieces, last)) == expected
    assert sum((piece.ids for piece in (*pieces, last)), ()) == result.ids
    both = generator.generate(["a", "the sea"], stop=stop, options=LONG)
    assert both == [generator.generate("a", stop=stop, options=LONG), result]
    for wrong in ("", ["a", ""], [3], 3):
        with pytest.raises(OptionError, match="stop is .*; expected a string, or strings, that are not empty"):
            generator.generate("a", stop=wrong)  # type: ignore[call-overload]


def test_a_stop_string_that_only_the_end_completes(generator: Generator) -> None:
    """Half a character is none until nothing follows."""
    [first] = generator.score("\u00e9").ids[:1]
    options = GenerationOptions(max_new_tokens=1, logit_bias={first: 1000.0})
    assert generator.generate("a", options=options).text == "\ufffd"
    result = generator.generate("a", stop="\ufffd", options=options)
    assert (result.text, result.ids, result.finish_reason) == ("", (first,), "stop")
    [*pieces, last] = generator.stream("a", stop="\ufffd", options=options)
    assert last.result == result and {piece.text for piece in (*pieces, last)} == {""}


def test_samples_depend_on_the_seed_alone(generator: Generator) -> None:
    how = {"temperature": 1.5, "seed": 7, "max_new_tokens": 12}
    result = generator.generate("the sea", num_return_sequences=3, **how)
    assert len({each.ids for each in result.hypotheses}) == 3
    assert generator.generate(PROMPTS, num_return_sequences=3, **how)[0] == result
    *_, last = generator.stream("the sea", **how)
    assert last.result is not None and last.result.ids == result.ids
    assert generator.generate("the sea", **{**how, "seed": 8}).ids != result.ids


def test_a_processor_of_ones_own(generator: Generator) -> None:
    seen: list[list[int]] = []

    def always_nine(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen.append(ids.tolist())
        return np.where(np.arange(len(logits)) == 9, 0.0, -np.inf)

    result = generator.generate([BEGIN, 5], processor=always_nine, max_new_tokens=3)
    assert result.ids == (9, 9, 9) and seen == [[BEGIN, 5], [BEGIN, 5, 9], [BEGIN, 5, 9, 9]]
    *_, last = generator.stream([BEGIN, 5], processor=always_nine, max_new_tokens=3)
    assert last.result == result

    def fails(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        raise KeyError("mine")

    for call in (generator.generate, lambda *a, **k: list(generator.stream(*a, **k))):
        with pytest.raises(KeyError, match="mine"):
            call([BEGIN, 5], processor=fails)
    assert generator.generate([BEGIN, 5], processor=always_nine, max_new_tokens=3) == result
    for how in ({"processor": always_nine}, {"stop": "a"}):
        with pytest.raises(OptionError, match="num_beams is 2; expected 1 with (a processor|stop)"):
            generator.generate("a", num_beams=2, **how)
    with pytest.raises(OptionError, match="processor is 3; expected a function of ids and logits"):
        generator.generate("a", processor=3)  # type: ignore[call-overload]


def test_log_probs(generator: Generator) -> None:
    result = generator.generate([BEGIN, 9, 10], max_new_tokens=6, suppress_tokens=[END])
    assert result.hypotheses[0].log_probs == pytest.approx(generator.score([BEGIN, 9, 10, *result.ids]).log_probs[2:])
    assert result.score == pytest.approx(sum(result.hypotheses[0].log_probs) / 6)
    assert result.hypotheses[0].best is None
    best = generator.generate([BEGIN, 9, 10], max_new_tokens=6, suppress_tokens=[END], logprobs=3).hypotheses[0].best
    assert best is not None and [each.after[0][0] for each in best] == list(result.ids)
    logits = generator.logits([BEGIN, 9, 10, *result.ids])[2:-1]
    for each, row in zip(best, logits.astype(np.float64), strict=True):
        expected = row - np.logaddexp.reduce(row)
        order = np.argsort(-expected)[:3]
        assert [id for id, _ in each.before] == order.tolist()
        assert [value for _, value in each.before] == pytest.approx(expected[order])
