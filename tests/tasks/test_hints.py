"""Several sentences in one text: said where it is sure, and where something may be missing."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from pyengine.results import Decoded, Hypothesis, TranslationResult
from pyengine.tasks.hints import hint
from tests.tasks.models import LETTERS, LetterTokenizer, translator

ONE = "A man is riding a bicycle."
TWO = "A man is riding a bicycle. A woman reads."


def result(text: str) -> TranslationResult:
    return TranslationResult((Hypothesis((3,), 0.0, "end", False, Decoded(text, ())),))


@pytest.mark.parametrize(
    ("text", "translation", "said"),
    [
        ("Ein Mann fährt Fahrrad. Eine Frau liest ein Buch.", ONE, "has 2 sentences or more, and its translation"),
        ("Wo ist der Hund? Er ist im Garten! Ein Ball liegt dort.", TWO, "has 3 sentences"),
        ("Ein Mann fährt “Fahrrad.” Eine Frau liest ein Buch.", "A man", "has 2 sentences"),
        ("他今天去了北京的学校。她今天在家里看书。", ONE, "has 2 sentences"),
        ("Ein Mann fährt Fahrrad\nEine Frau liest", TWO, "has 2 lines and was read as one sentence"),
        ("Ein Mann fährt Fahrrad. Eine Frau liest ein Buch.", TWO, None),
        ("Dr. Prof. Müller fährt z. B. Fahrrad.", ONE, None),
        ("Gestern sprach der Prof. Schmidt über den Kurs.", ONE, None),
        ("Er wohnt in der Hauptstr. 5 in Berlin.", "He lives there", None),
        ("Hallo! Wie geht es dir heute?", "How are you today?", None),
        ("Er zahlte 3.50 Euro für www.example.org. und ging", ONE, None),
        ("Was? fragte er.", ONE, None),
        ("Ein Mann fährt Fahrrad.\r\n", ONE, None),
        ("Ein Mann fährt Fahrrad", "", None),
        ("", "", None),
    ],
)
def test_hint(text: str, translation: str, said: str | None) -> None:
    pairs = [(ONE, result(ONE)), (text, result(translation)), (TWO, result(ONE))]
    found = hint(pairs[: 2 if said is None else 3])
    assert found is None if said is None else found and said in found and "give a list of sentences" in found


def test_ids_and_models_without_tokenizer_get_none() -> None:
    without = TranslationResult((Hypothesis((3,), 0.0, "end", False, None),))
    assert hint([([1, 2, 0], result(ONE)), ([1, 2, 0], without)]) is None


class Reader(LetterTokenizer):
    """Reads what is not one of its letters over."""

    def _ids(self, text: str) -> list[int]:
        return [LETTERS.index(letter) for letter in text if letter in LETTERS]


def test_a_call_warns_once_and_where_it_stands(tmp_path: Path) -> None:
    tiny = translator(tokenizer=Reader())
    bad = ["abc", "abc\ndef", "k\nl"]
    lines = tmp_path / "lines"
    lines.write_text("abcdefgh! Abcdefgh!\n" * 2)
    for call in (
        lambda: tiny.translate(bad),
        lambda: tiny.translate(bad[1]),
        lambda: list(tiny.translate_iter(bad)),
        lambda: tiny.translate_file(lines, tmp_path / "out", overwrite=True),
    ):
        with pytest.warns(UserWarning, match="2 (lines|sentences)") as caught:
            call()
        assert [Path(each.filename).name for each in caught] == ["test_hints.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny.translate(["abc\n", "k"]) == tiny.translate(["abc", "k"])
        list(tiny.translate_iter(["abc\n", "k"]))
