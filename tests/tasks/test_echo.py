"""The prompt in the result, and what the model thinks of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import Generator, OptionError
from tests.tasks.language import BEGIN, END, POSITIONS, write_language_model

LONG = [BEGIN, *range(4, 69)]
HOW: dict[str, Any] = {"max_new_tokens": 6, "suppress_tokens": [END]}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    path = write_language_model(tmp_path_factory.mktemp("language") / "words")
    with pyengine.load(path, task=Generator, threads=1) as found:
        yield found


@pytest.mark.parametrize("how", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"seed": 3, "temperature": 2.0}])
@pytest.mark.parametrize("prompt", ["the sea", "\u00e9t\u00e9 "])
def test_a_text_begins_with_its_prompt(generator: Generator, prompt: str, how: dict[str, int]) -> None:
    plain = generator.generate(prompt, **HOW, **how)
    result = generator.generate(prompt, echo=True, **HOW, **how)
    assert plain.prompt is None and result.prompt is not None and result.prompt.decoded is not None
    assert result.prompt.decoded.text == prompt
    assert len(result.prompt.ids) == len(result.prompt.decoded.tokens) == result.usage.prompt_tokens
    assert [each.text for each in result.hypotheses] == [prompt + each.text for each in plain.hypotheses]
    assert [each.ids for each in result.hypotheses] == [each.ids for each in plain.hypotheses]
    assert result.prompt.log_probs is None and result.prompt.best is None


@pytest.mark.parametrize("prompt", [LONG, [BEGIN, 7], [9], list(range(4, 4 + POSITIONS))])
def test_log_probabilities_of_a_prompt(generator: Generator, prompt: list[int]) -> None:
    """Those that `score` gives, and the best of what `logits` gives."""
    result = generator.generate(prompt, echo=True, logprobs=3, max_new_tokens=1, processor=lambda ids, logits: logits)
    echo = result.prompt
    assert echo is not None and echo.ids == tuple(prompt) and echo.best is not None
    rows = generator.logits(prompt).astype(np.float64)[:-1]
    own = rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)
    assert echo.log_probs == pytest.approx(own[np.arange(len(rows)), prompt[1:]], abs=1e-6)
    if prompt[0] == BEGIN:
        assert echo.log_probs == generator.score(prompt[1:]).log_probs
    assert len(echo.best) == len(prompt) - 1
    for pairs, row in zip(echo.best, own, strict=True):
        order = np.argsort(-row, kind="stable")[:3]
        assert [id for id, _ in pairs] == order.tolist()
        assert [value for _, value in pairs] == pytest.approx(row[order], abs=1e-6)


def test_in_a_batch_and_in_a_stream(generator: Generator) -> None:
    options = [pyengine.GenerationOptions(echo=own, logprobs=2, **HOW) for own in (True, False, True)]
    prompts = ["the sea", "a", "stones"]
    found = generator.generate(prompts, options=options)
    assert found == [generator.generate(each, options=own) for each, own in zip(prompts, options)]
    assert [each.prompt is None for each in found] == [False, True, False]
    first, *rest = generator.stream("the sea", options=options[0])
    assert first.text.startswith("the sea") and rest[-1].result == found[0]
    assert "".join(piece.text for piece in (first, *rest)) == found[0].text
    assert sum((piece.ids for piece in (first, *rest)), ()) == found[0].ids


def test_a_stop_string_in_the_prompt_stops_nothing(generator: Generator) -> None:
    plain = generator.generate("the sea", stop="the", **HOW)
    assert generator.generate("the sea", stop="the", echo=True, **HOW).text == "the sea" + plain.text


def test_where_there_is_nothing_to_echo(int8_directory: Path, tmp_path: Path) -> None:
    with pyengine.load(int8_directory) as translator:
        with pytest.raises(OptionError, match="echo is True; expected False: it is for language models") as caught:
            translator.translate("Ein Mann", echo=True)
        assert caught.value.keywords == ("echo",)
    with pyengine.load(write_language_model(tmp_path / "ids", words=False), task=Generator) as bare:
        echo = bare.generate([5, 6], echo=True, logprobs=1, **HOW).prompt
        assert echo is not None and echo.ids == (5, 6) and echo.decoded is None and len(echo.log_probs or ()) == 1
