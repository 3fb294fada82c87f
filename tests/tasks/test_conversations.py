"""Conversations that are too long: oldest turns go, what the system says stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pyengine
from pyengine import Generator, InputError, OptionError
from pyengine.modelfile import open_head
from pyengine.text import text_tokenizer_of
from tests.tasks.language import END, POSITIONS, write_language_model

SYSTEM = {"role": "system", "content": "be brief"}
HOW: dict[str, Any] = {"max_new_tokens": 8, "suppress_tokens": [END]}


def turns(count: int) -> list[dict[str, str]]:
    """Of about 14 tokens each."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i}: the sea"} for i in range(2 * count - 1)]


@pytest.mark.parametrize("before", [[], [SYSTEM], [SYSTEM, {**SYSTEM, "content": "and kind"}]])
def test_the_oldest_turns_go(generator: Generator, before: list[dict[str, str]]) -> None:
    messages = [*before, *turns(30)]
    with pytest.raises(InputError, match=rf"the conversation has .* {POSITIONS} positions \(truncate=True keeps its"):
        generator.chat(messages, **HOW)
    result = generator.chat(messages, truncate=True, **HOW)
    assert result.truncated
    for gone in range(0, 60, 2):
        kept = [*before, *messages[len(before) + gone :]]
        try:
            expected = generator.chat(kept, **HOW)
        except InputError:
            continue
        if expected.usage.prompt_tokens <= POSITIONS + 1 - HOW["max_new_tokens"]:  # room for the new ones, too
            break
    assert 0 < gone < 58 and not expected.truncated
    assert (result.ids, result.usage) == (expected.ids, expected.usage)
    *_, last = generator.chat_stream(messages, truncate=True, **HOW)
    assert last.result == result
    assert generator.chat([messages, messages], truncate=True, **HOW) == [result, result]
    assert generator.chat(kept, truncate=True, **HOW) == expected  # which fits


def test_the_beginning_of_a_message_goes_if_it_alone_is_too_long(directory: Path, generator: Generator) -> None:
    tokenizer = text_tokenizer_of(open_head(directory))
    assert tokenizer is not None
    text = "the stones and the sea " * 40
    result = generator.chat([SYSTEM, *turns(2)[:2], {"role": "user", "content": text}], truncate=True, **HOW)
    room = POSITIONS + 1 - HOW["max_new_tokens"]
    [system] = [id for id, name in enumerate(("<s>", "</s>", "<|user|>", "<|assistant|>")) if name == "<|user|>"]
    begin = [*tokenizer.encode("<|system|>be brief", special=False), system]
    end = [*tokenizer.encode(text, special=False), system + 1]
    ids = [*begin, *end[len(begin) - room :]]
    assert result.usage.prompt_tokens == room == len(ids)
    expected = generator.generate(ids, **HOW)
    assert result.ids == expected.ids and result.truncated and not expected.truncated


ANSWER = {"role": "assistant", "content": "I look"}
PARTS = [{"type": "image"}, {"type": "text", "text": "the stones "}, {"type": "text", "text": "and the sea " * 40}]


@pytest.mark.parametrize("content", ["the stones " + "and the sea " * 40, PARTS, " " + "aba" * 200])
@pytest.mark.parametrize("behind", [[], [ANSWER], [ANSWER, {"role": "tool", "content": "a tide of the sea"}]])
def test_only_the_text_of_the_user_is_cut(
    directory: Path, generator: Generator, content: Any, behind: list[dict[str, str]]
) -> None:
    """What others say behind it stays, and what stands beside a text in its message."""
    tokenizer = text_tokenizer_of(open_head(directory))
    assert tokenizer is not None
    encode = partial(generator.chat_template.encode, tokenizer)
    user = {"role": "user", "content": content}
    result = generator.chat([SYSTEM, *turns(2)[:2], user, *behind], truncate=True, **HOW)
    room = POSITIONS + 1 - HOW["max_new_tokens"]
    alone = encode([SYSTEM, {"role": "user", "content": PARTS[:1] if content is PARTS else ""}], None, False)
    before, whole = encode([SYSTEM, user], None, False), encode([SYSTEM, user, *behind])
    after = whole[len(before) :]
    ids = [*alone, *before[len(before) - (room - len(alone) - len(after)) :], *after]
    assert whole[: len(before)] == before and len(ids) == room
    assert result.ids == generator.generate(ids, **HOW).ids and result.truncated
    assert result.usage.prompt_tokens == room


def test_what_stands_behind_the_text_of_the_user_is_too_long(generator: Generator) -> None:
    tool = {"role": "tool", "content": "and the sea " * 40}
    message = r"the conversation: beside the text that its last turn begins with it has \d+ tokens; .* for \d+ in all"
    for user in ({"role": "user", "content": "the stones " * 40}, {"role": "user", "content": [{"type": "image"}]}):
        with pytest.raises(InputError, match=message):
            generator.chat([SYSTEM, user, ANSWER, tool], truncate=True, **HOW)


def test_what_the_system_says_is_too_long(generator: Generator) -> None:
    messages = [{**SYSTEM, "content": "be brief " * 60}, {"role": "user", "content": "a"}]
    with pytest.raises(InputError, match="the conversation: beside the text that its last .* has .* room for"):
        generator.chat(messages, truncate=True)


def test_a_conversation_is_not_echoed(generator: Generator) -> None:
    for call in (generator.chat, generator.chat_stream):
        with pytest.raises(OptionError, match="echo is True; expected False: a conversation is answered") as caught:
            call([SYSTEM], echo=True)
        assert caught.value.keywords == ("echo",)


def test_echo_of_a_checkpoint_is_for_prompts(generator: Generator, tmp_path: Path) -> None:
    path = write_language_model(tmp_path / "echoes", echo=True)
    with pyengine.load(path, task=Generator, threads=1) as echoes:
        assert echoes.generate("the sea", **HOW).prompt is not None
        assert echoes.chat([SYSTEM], **HOW) == generator.chat([SYSTEM], **HOW)
