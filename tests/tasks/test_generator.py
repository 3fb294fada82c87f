"""The generator's surface, on a tiny model in the core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine import (
    ClosedError,
    DeadlineError,
    GenerationOptions,
    GenerationResult,
    Generator,
    InputError,
    OptionError,
    Translator,
    UnsupportedError,
)
from pyengine.text import text_tokenizer_of
from pyengine.modelfile import open_head
from tests.oracle.transformer import Transformer
from tests.tasks.language import BEGIN, CONFIG, END, POSITIONS, TENSORS, write_language_model

PROMPTS = ["the sea", "a", "it is an ante room, and no", "\u00e9t\u00e9", "stones"]


@pytest.fixture(scope="module")
def without_words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    """Of the same model; it has no start token either."""
    path = write_language_model(tmp_path_factory.mktemp("language") / "ids", begins=False, words=False)
    with pyengine.load(path, task=Generator, threads=1) as found:
        yield found


def ids_of(directory: Path, text: str) -> list[int]:
    tokenizer = text_tokenizer_of(open_head(directory))
    assert tokenizer is not None
    return tokenizer.encode(text)


def greedy(prompt: list[int], steps: int) -> list[int]:
    """What NumPy in float64 goes on with."""
    oracle, ids = Transformer(CONFIG, TENSORS), list(prompt)
    for _ in range(steps):
        ids.append(int(oracle.decode(ids)[-1].argmax()))
        if ids[-1] == END:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


def test_a_model_is_what_its_stacks_make_it(
    directory: Path, float32_directory: Path, generator: Generator, tmp_path: Path
) -> None:
    assert isinstance(pyengine.load(directory), Generator)
    with pytest.raises(UnsupportedError, match=r"words/model: expected a model to translate with.*; found one to gen"):
        pyengine.load(directory, task=Translator)
    with pytest.raises(UnsupportedError, match=r"float32: expected a model to generate text .*; found one to trans"):
        pyengine.load(float32_directory, task=Generator)
    with pytest.raises(OptionError, match="shortlist is .*expected none: it is for a model to translate with"):
        pyengine.load(directory, shortlist=tmp_path / "list")
    with pytest.raises(OptionError, match="task is 'Generator'; expected pyengine.Translator or pyengine.Generator"):
        pyengine.load(directory, task="Generator")  # type: ignore[call-overload]
    about = generator.info()
    assert about["tokenizer"] == "tokenizers" and about["generation"]["bos_token_id"] == BEGIN  # type: ignore[index]


def test_text_in_text_out(directory: Path, generator: Generator) -> None:
    prompt = ids_of(directory, "the sea")
    result = generator.generate("the sea", max_new_tokens=12)
    assert isinstance(result, GenerationResult)
    assert list(result.ids) == greedy(prompt, 12) and result.finish_reason == "end"
    assert (result.usage.prompt_tokens, result.usage.new_tokens) == (len(prompt), len(result.ids))
    assert not result.truncated and len(result.tokens) == len(result.ids)
    tokenizer = text_tokenizer_of(open_head(directory))
    assert tokenizer is not None and result.text == tokenizer.decode(result.ids)
    assert generator.generate(prompt, max_new_tokens=12) == result
    assert generator.generate(np.array(prompt), max_new_tokens=12) == result


@pytest.mark.parametrize("beams", [1, 3])
def test_alone_as_in_a_batch(directory: Path, generator: Generator, beams: int) -> None:
    alone = [generator.generate(each, max_new_tokens=9, num_beams=beams) for each in PROMPTS]
    assert generator.generate(PROMPTS, max_new_tokens=9, num_beams=beams) == alone
    assert generator.generate(PROMPTS, max_new_tokens=9, num_beams=beams, max_batch_tokens=1) == alone
    with pyengine.load(directory, task=Generator, threads=2, replicas=2) as other:
        assert other.generate(tuple(PROMPTS), max_new_tokens=9, num_beams=beams) == alone
    with pyengine.load(directory, task=Generator, threads=1, cache_bytes=1 << 17) as other:
        assert other.generate(PROMPTS, max_new_tokens=9, num_beams=beams) == alone
    assert generator.generate([]) == []
    assert generator.generate(PROMPTS[:1], max_new_tokens=9, num_beams=beams) == alone[:1]


def test_several_hypotheses(generator: Generator) -> None:
    result = generator.generate("the sea", num_beams=4, num_return_sequences=3, max_new_tokens=6)
    assert len(result.hypotheses) == 3 and result.usage.new_tokens == sum(len(each.ids) for each in result.hypotheses)
    assert result.score == max(each.score for each in result.hypotheses)


def test_options_of_each_prompt(generator: Generator) -> None:
    options = [GenerationOptions(max_new_tokens=3), GenerationOptions(num_beams=2, max_new_tokens=5)]
    found = generator.generate(PROMPTS[:2], options=options)
    assert found == [generator.generate(each, options=own) for each, own in zip(PROMPTS, options)]
    with pytest.raises(OptionError, match="options: expected one, or one for each of 3 prompts, found 2"):
        generator.generate(PROMPTS[:3], options=options)
    with pytest.raises(OptionError, match="options is a list; expected GenerationOptions"):
        generator.generate("a", options=options)  # type: ignore[call-overload]


def test_the_end_token_ends_and_is_no_part_of_it(tmp_path: Path, generator: Generator) -> None:
    ids = generator.generate("the sea", max_new_tokens=12).ids
    end = ids[2]
    with pyengine.load(write_language_model(tmp_path / "m", eos_token_id=(END, end)), task=Generator) as other:
        result = other.generate("the sea", max_new_tokens=12)
    assert result.ids == ids[: ids.index(end)] and result.finish_reason == "end"


def test_the_context_running_full_ends(without_words: Generator) -> None:
    prompt = list(range(10, POSITIONS - 10))
    result = without_words.generate(prompt, max_new_tokens=POSITIONS, suppress_tokens=[END])
    assert len(prompt) + len(result.ids) == POSITIONS + 1 and result.finish_reason == "length"  # the last is not read
    full = without_words.generate(list(range(POSITIONS)), suppress_tokens=[END])
    assert len(full.ids) == 1 and full.finish_reason == "length"


def test_a_prompt_longer_than_the_context(generator: Generator) -> None:
    long = [BEGIN, *range(4, POSITIONS + 20)]
    with pytest.raises(InputError, match=f"prompt 2 has {len(long)} tokens; the model has {POSITIONS} positions"):
        generator.generate([[5], long])
    result = generator.generate(long, truncate=True, max_new_tokens=8)
    kept = POSITIONS + 1 - 8
    same = generator.generate([BEGIN, *long[-kept + 1 :]], max_new_tokens=8)
    assert result.truncated and not same.truncated
    assert (result.ids, result.usage) == (same.ids, same.usage) and result.usage.prompt_tokens == kept
    most = generator.generate(long, truncate=True, max_new_tokens=POSITIONS)
    assert most.usage.prompt_tokens == (POSITIONS + 1) // 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (b"abc", "expected text or token ids, found bytes"),
        (["abc", None], "prompt 2: expected text or token ids, found NoneType"),
        (None, "expected text, token ids or a list of these, found NoneType"),
        ([1, 2, 333], "the prompt: expected token ids from 0 to 332, found 333"),
        ("\ud800", "the prompt: expected valid Unicode text"),
    ],
)
def test_what_the_model_cannot_take(generator: Generator, prompt: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generator.generate(prompt)  # type: ignore[call-overload]


def test_nothing_to_go_on_from(generator: Generator, without_words: Generator) -> None:
    assert generator.generate("", max_new_tokens=4) == generator.generate([BEGIN], max_new_tokens=4)
    with pytest.raises(InputError, match="the prompt is text, but the model has no tokenizer"):
        without_words.generate("")
    with pytest.raises(InputError, match="prompt 1 is empty, and the model has no token to begin with"):
        without_words.generate([[]])
    for options in ({"min_new_tokens": 9, "max_length": 8}, {"min_length": 12, "max_new_tokens": 5}):
        with pytest.raises(OptionError, match=r"min_\w+ is \d+; expected at most [58] behind the 3 tokens of the "):
            generator.generate([5, 6, 7], **options)
    with pytest.raises(OptionError, match="max_length is 3; expected more than the 3 tokens of the prompt"):
        generator.generate([5, 6, 7], max_length=3)


def test_names_of_special_tokens(directory: Path, generator: Generator) -> None:
    text = generator.generate("a</s>b", max_new_tokens=1).usage.prompt_tokens
    token = generator.generate("a</s>b", max_new_tokens=1, split_special_tokens=False).usage.prompt_tokens
    assert (text, token) == (6, 3)


def test_scores_and_perplexity(generator: Generator, without_words: Generator) -> None:
    ids = [7, 8, 9, 200, 30, 31, 32]
    logits = Transformer(CONFIG, TENSORS).decode([BEGIN, *ids[:-1]])
    expected = [row[id] - np.logaddexp.reduce(row) for row, id in zip(logits, ids)]
    score = generator.score(ids)
    assert score.ids == tuple(ids) and np.allclose(score.log_probs, expected, atol=1e-4)
    assert generator.score([BEGIN, *ids]) == score  # it has one already
    assert generator.score([ids, ids[:2]]) == [score, generator.score(ids[:2])]
    assert score.total == pytest.approx(sum(score.log_probs))
    assert generator.perplexity(ids) == pytest.approx(np.exp(-score.total / len(ids)))
    parts = [generator.score(ids[i : i + 3]) for i in range(0, len(ids), 3)]
    total = sum(each.total for each in parts)
    assert generator.perplexity(ids, window=3) == pytest.approx(np.exp(-total / len(ids)))
    bare = without_words.score([BEGIN, *ids])
    assert bare.ids == tuple(ids) and bare.log_probs == score.log_probs and bare.tokens is None
    assert without_words.perplexity(ids, window=3) == pytest.approx(
        np.exp(-sum(without_words.score(ids[i : i + 3]).total for i in (0, 3)) / 4)
    )
    long = list(range(4, 300))
    assert generator.perplexity(long) == generator.perplexity(long, window=POSITIONS)
    with pytest.raises(InputError, match=f"the text has 296 tokens; the model has {POSITIONS} positions"):
        generator.score(long)
    with pytest.raises(InputError, match="text 2 has no token that another comes before"):
        without_words.score([[3, 4], [5]])
    for wrong in (1, POSITIONS + 1, 2.5):
        with pytest.raises(OptionError, match=f"window is {wrong}; expected a whole number, 2..{POSITIONS}"):
            generator.perplexity(long, window=wrong)  # type: ignore[arg-type]


def test_perplexity_without_end(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text that the model takes for impossible: no float64 holds it."""
    monkeypatch.setattr("pyengine.tasks.judge.judged", lambda *a, **k: [np.array([-1.0, -2e3, -1e4])])
    assert generator.perplexity([7, 8, 9]) == np.inf


def test_how_several_results_are_asked_for(generator: Generator) -> None:
    with pytest.raises(OptionError, match=r"num_return_sequences is 2; expected 1, .* num_beams .*do_sample, temper"):
        generator.generate("the sea", num_return_sequences=2)


def test_logits_after_each_token(directory: Path, generator: Generator) -> None:
    ids = ids_of(directory, "the sea, the sea")
    logits = generator.logits("the sea, the sea")
    assert logits.dtype == np.float32 and logits.shape == (len(ids), 333)
    assert np.abs(logits - Transformer(CONFIG, TENSORS).decode(ids)).max() < 1e-4
    assert generator.logits(ids[:1]).tobytes() == logits[:1].tobytes()
    with pytest.raises(InputError, match="the text is empty"):
        generator.logits([])


def test_chat(directory: Path, generator: Generator, without_words: Generator) -> None:
    messages = [{"role": "user", "content": "the sea"}]
    prompt = [2, *ids_of(directory, "the sea"), 3]
    result = generator.chat(messages, max_new_tokens=7)
    assert result == generator.generate(prompt, max_new_tokens=7)
    assert generator.chat([messages, messages], max_new_tokens=7) == [result, result]
    assert [piece.text for piece in generator.chat_stream(messages, max_new_tokens=7)] == [
        piece.text for piece in generator.stream(prompt, max_new_tokens=7)
    ]
    with pytest.raises(InputError, match="conversation 2: the chat template refuses .*: no such role: judge"):
        generator.chat([messages, [{"role": "judge", "content": ""}]])
    with pytest.raises(InputError, match="the conversation has .* tokens; the model has"):
        generator.chat([{"role": "user", "content": "the sea " * 60}])
    for wrong in ("hello", [], None):
        with pytest.raises(InputError, match="expected messages"):
            generator.chat(wrong)
    for variables in ({1: 2}, {"messages": []}, ["a"]):
        with pytest.raises(OptionError, match="chat_template_kwargs is .*; expected a template's own variables"):
            generator.chat(messages, chat_template_kwargs=variables)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chat_stream takes one conversation"):
        generator.chat_stream([messages])
    with pytest.raises(UnsupportedError, match="ids/model: the model has no chat template"):
        without_words.chat(messages)


def test_closed_and_late(directory: Path) -> None:
    with pyengine.load(directory, task=Generator, threads=1) as other:
        with pytest.raises(DeadlineError, match="timeout: the call was not done"):
            other.generate("the sea", timeout=1e-9)
        with pytest.raises(DeadlineError):
            other.perplexity("the sea", timeout=1e-9)
    for call in (other.generate, other.score, other.perplexity, other.logits):
        with pytest.raises(ClosedError):
            call("the sea")
