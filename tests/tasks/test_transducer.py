"""What a model of an encoder and a decoder writes of a text: `generate` and `stream`, on the NumPy session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyengine import GenerationOptions, GenerationResult, InputError, OptionError
from tests.tasks.models import translator

TEXTS = ["abc", "k", "hello", "fghijk", "dad"]
GREEDY: dict[str, Any] = {"num_beams": 1, "min_new_tokens": 5}


def test_it_is_the_translation() -> None:
    """Ids, texts and scores, of one, of several and of ids; of a search with beams, too."""
    tiny = translator()
    for beams in (1, 3):
        results = tiny.generate(TEXTS, num_beams=beams, num_return_sequences=beams)
        assert all(isinstance(result, GenerationResult) for result in results)
        for text, result in zip(TEXTS, results, strict=True):
            same = tiny.translate(text, num_beams=beams, num_return_sequences=beams)
            assert [each.ids for each in result.hypotheses] == [each.ids for each in same.hypotheses]
            assert (result.text, result.tokens, result.score) == (same.text, same.tokens, same.score)
            assert result.usage.prompt_tokens == len(text) + 1
            assert result.usage.new_tokens == sum(len(each.ids) for each in result.hypotheses)
    assert tiny.generate([1, 2, 3, 0]) == tiny.generate("abc")


def test_an_empty_text_is_read() -> None:
    """Its end token is; `translate` gives nothing back for nothing."""
    tiny = translator()
    assert tiny.translate("").ids == () and tiny.translate("").score == 0
    assert tiny.generate("") == tiny.generate([0]) and tiny.generate("").score < 0


def test_a_stream_is_the_whole_text() -> None:
    tiny = translator(**GREEDY)
    for text in TEXTS:
        *pieces, last = tiny.stream(text)
        whole = tiny.generate(text)
        assert last.result == whole
        assert "".join(piece.text for piece in [*pieces, last]) == whole.text
        assert tuple(id for piece in [*pieces, last] for id in piece.ids) == whole.ids
        assert len(pieces) > 1


def test_samples_do_not_depend_on_company() -> None:
    tiny = translator(**GREEDY)
    drawn: dict[str, Any] = {"temperature": 1.5, "seed": 3}
    alone = [tiny.generate(text, **drawn) for text in TEXTS]
    assert tiny.generate(TEXTS, **drawn) == alone != tiny.generate(TEXTS)
    assert [list(tiny.stream(text, **drawn))[-1].result for text in TEXTS] == alone


def test_options_of_each() -> None:
    tiny = translator()
    options = [GenerationOptions(num_beams=1, min_new_tokens=3, max_new_tokens=3), GenerationOptions(num_beams=4)]
    found = tiny.generate(["abc", "abc"], options=options)
    assert found == [tiny.generate("abc", options=each) for each in options]
    assert len(found[0].ids) == 3 and found[0].finish_reason == "length"


def test_stop_and_processor() -> None:
    tiny = translator(**GREEDY)
    whole = tiny.generate("abc").text
    stopped = tiny.generate("abc", stop=whole[2])
    assert stopped.text == whole[: whole.index(whole[2])] and stopped.finish_reason == "stop"
    seen = []

    def only_e(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen.append(ids.tolist())
        return np.where(np.arange(len(logits)) == 5, 0.0, -np.inf)

    assert tiny.generate("abc", processor=only_e, min_new_tokens=3, max_new_tokens=3).text == "eee"
    assert seen == [[22], [22, 5], [22, 5, 5]], "the start token and what is written"


def test_ids_alone() -> None:
    tiny = translator(tokenizer=None, **GREEDY)
    result = tiny.generate([1, 2, 3, 0])
    assert result.ids == translator(**GREEDY).generate("abc").ids
    *_, last = tiny.stream([1, 2, 3, 0])
    assert last.result == result and last.text == ""
    with pytest.raises(InputError, match="the model has no tokenizer"):
        tiny.generate("abc")
    with pytest.raises(OptionError, match="stop is for texts"):
        tiny.generate([1, 0], stop="a")


def test_wrong_calls() -> None:
    tiny = translator()
    with pytest.raises(InputError, match="stream takes one text"):
        tiny.stream(TEXTS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="input 2 has 61 tokens; the model has 40 positions"):
        tiny.generate(["a", "a" * 60])
    assert tiny.generate("a" * 60, truncate=True).truncated
    with pytest.raises(OptionError, match="num_beams is 2; expected 1 with stop"):
        tiny.generate("a", stop="b")
    with pytest.raises(OptionError, match="echo is True"):
        tiny.generate("a", echo=True)
    with pytest.raises(OptionError, match="options: expected one, or one for each of 5 prompts, found 1"):
        tiny.generate(TEXTS, options=[GenerationOptions()])
