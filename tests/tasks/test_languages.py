"""Translations from one language into another, on the NumPy session with a tokenizer of letters."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine import InputError, OptionError, Translator
from pyengine.errors import TokenizerError
from pyengine.text import MultilingualTokenizer
from tests.tasks.models import LetterTokenizer, translator

GERMAN, ENGLISH, FRENCH = 19, 20, 21
CONTENT: dict[str, Any] = {
    "source": "begin",
    "target": "first",
    "default": "fra_Latn",
    "end": "_",
    "tokens": {"deu_Latn": "s", "eng_Latn": "t", "fra_Latn": "u"},
}


def multilingual(directory: Path, content: dict[str, Any] = CONTENT, **changes: Any) -> MultilingualTokenizer:
    (directory / "languages.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return MultilingualTokenizer(directory, LetterTokenizer())


@pytest.fixture
def tiny(tmp_path: Path) -> Translator:
    return translator(tokenizer=multilingual(tmp_path), min_new_tokens=4)


def test_the_first_token_tells_the_target(tiny: Translator) -> None:
    found = tiny.translate("abc", source="deu_Latn", target="eng_Latn")
    expected = translator(min_new_tokens=4).translate([GERMAN, 1, 2, 3, 0], forced_bos_token_id=ENGLISH)
    assert found.ids == expected.ids and found.ids[0] == ENGLISH and found.score == expected.score
    unsaid = tiny.translate(["abc", "k"], target="deu_Latn")
    assert unsaid[0].ids == tiny.translate([FRENCH, 1, 2, 3, 0], target="deu_Latn").ids
    assert unsaid == tiny.translate(["abc", "k"], source="fra_Latn", target="deu_Latn")
    assert unsaid[0].ids != found.ids


def test_the_start_token_tells_the_target(tmp_path: Path) -> None:
    tiny = translator(tokenizer=multilingual(tmp_path, source="end", target="start"), min_new_tokens=4)
    found = tiny.translate("abc", source="deu_Latn", target="eng_Latn")
    other = translator(min_new_tokens=4, decoder_start_token_id=ENGLISH)
    assert found.ids == other.translate([1, 2, 3, 0, GERMAN]).ids


def test_every_way_to_translate(tiny: Translator, tmp_path: Path) -> None:
    ways: dict[str, Any] = {"source": "eng_Latn", "target": "deu_Latn"}
    texts = ["abc", "", "hello"]
    expected = tiny.translate(texts, **ways)
    assert expected[1].ids == ()
    assert list(tiny.translate_iter(texts, **ways)) == expected
    (tmp_path / "lines").write_text("\n".join(texts) + "\n", encoding="utf-8")
    written = io.BytesIO()
    tiny.translate_file(tmp_path / "lines", written, **ways)
    assert written.getvalue().decode().splitlines() == [result.text for result in expected]


def test_a_prefix_follows_the_language(tiny: Translator) -> None:
    found = tiny.translate("abc", target="eng_Latn", target_prefix="de")
    assert found.ids[:3] == (ENGLISH, 4, 5)
    plain = translator(min_new_tokens=4)
    assert found.ids == plain.translate([FRENCH, 1, 2, 3, 0], target_prefix=[ENGLISH, 4, 5]).ids


def test_a_target_that_the_checkpoint_says(tmp_path: Path) -> None:
    words = multilingual(tmp_path)
    said = translator(tokenizer=words, forced_bos_token_id=ENGLISH, min_new_tokens=4)
    assert said.translate("abc") == said.translate("abc", target="eng_Latn")
    behind = said.translate("abc", target_prefix="de")
    assert behind == said.translate("abc", target="eng_Latn", target_prefix="de")
    words = multilingual(tmp_path, target="start")
    said = translator(tokenizer=words, decoder_start_token_id=ENGLISH, min_new_tokens=4)
    assert said.translate("abc") == said.translate("abc", target="eng_Latn")


def test_what_ends_a_source_stays(tmp_path: Path) -> None:
    """Of a text that is cut: the end token, and that of the language behind it."""
    words = multilingual(tmp_path, source="end", target="start")
    tiny, letters = translator(tokenizer=words), "a" * 60
    found = tiny.translate(letters, source="deu_Latn", target="eng_Latn", truncate=True)
    assert found.truncated
    read = tiny._inputs.source(letters, truncate=True, language="deu_Latn")
    assert read.ids.tolist() == [1] * 38 + [0, GERMAN]
    first = translator(tokenizer=multilingual(tmp_path))._inputs.source(letters, truncate=True, language="deu_Latn")
    assert first.ids.tolist() == [GERMAN, *[1] * 38, 0]


def test_generate_asks_for_no_language(tiny: Translator) -> None:
    assert tiny.generate("abc") == tiny.generate([FRENCH, 1, 2, 3, 0])
    assert tiny.generate("abc", forced_bos_token_id=ENGLISH).ids == tiny.translate("abc", target="eng_Latn").ids


def test_wrong_codes(tiny: Translator) -> None:
    with pytest.raises(OptionError, match="target is not given; expected the code of one of 3 languages, such as deu_"):
        tiny.translate("abc", source="deu_Latn")
    with pytest.raises(OptionError, match="target is 'eng'; expected the code of one of 3 languages, such as eng_Latn"):
        tiny.translate("abc", target="eng")
    with pytest.raises(OptionError, match="source is 'DEU_LATN'; expected .* such as deu_Latn"):
        tiny.translate_iter(["abc"], source="DEU_LATN", target="eng_Latn")
    with pytest.raises(OptionError, match="source is 5"):
        tiny.translate("abc", source=5, target="eng_Latn")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="the model has 40 positions"):
        tiny.translate("a" * 60, target="eng_Latn")
    with pytest.raises(OptionError, match="target is 'eng_Latn'; expected none: the model is told no languages$"):
        translator().translate("abc", target="eng_Latn")
    offered = translator(prefixes={"summarization": "summarize: ", "to_german": "translate English to German: "})
    with pytest.raises(OptionError, match="begin with their task: 'summarize: ', 'translate English to German: '$"):
        offered.translate("abc", source="eng_Latn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default": "ita_Latn"}, "default: expected one of the 3 languages, found 'ita_Latn'"),
        ({"source": "middle"}, "source: expected one of .* found 'middle'"),
        ({"tokens": {"fra_Latn": "tu"}}, "expected a special token of the vocabulary, found 'tu'"),
        ({"more": 1}, "more"),
        ({"end": 3}, "end: expected"),
    ],
)
def test_a_damaged_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        multilingual(tmp_path, **changes)


def test_ids_are_those_of_the_vocabulary(tmp_path: Path) -> None:
    languages = multilingual(tmp_path).languages
    assert languages.codes == list(CONTENT["tokens"]) and languages.id("eng_Latn", "target") == ENGLISH
    assert np.int64(ENGLISH) in languages and 3 not in languages and None not in languages
