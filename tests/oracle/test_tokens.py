"""Token ids, pieces and decoded text are those of the MarianTokenizer of transformers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from pyengine.text import Tokenizer, open_tokenizer

from ..text import models
from ..text.odd_lines import odd_lines
from ..text.test_tokenizer_golden import MODEL
from .golden_tokens import differences, open_original

pytest.importorskip("transformers")

INSERTED = (
    "<left>", " <left> ", "  <right>  ", " Stadt", "x Stadt", "Stadtx", " <both> <left> ", "<right> <both>",
    "<sep>", " <mask> ", "</s> ", "<x>  ", "\u00a0<left>\u2003", ">>deu<<", "<pad><pad>",
)  # fmt: skip
LINES = [
    *odd_lines(),
    *models.GERMAN,
    *models.ENGLISH,
    *(line.replace(" ", insert, 2) for line in models.GERMAN + models.ENGLISH for insert in INSERTED),
]


def check_random_ids(tokenizer: Tokenizer, original, count: int) -> None:
    random = Random(7)
    for _ in range(count):
        ids = [random.randrange(tokenizer.target_size) for _ in range(random.randrange(20))]
        assert tokenizer.decode(ids) == original.decode(ids, skip_special_tokens=True), ids
        assert tokenizer.pieces(ids) == original.convert_ids_to_tokens(ids), ids


@pytest.mark.parametrize("side", ("source", "target"))
def test_the_example_checkpoint(side: str) -> None:
    tokenizer, original = open_tokenizer(MODEL, "sentencepiece"), open_original(MODEL)
    assert differences(tokenizer, original, LINES, side) == []
    check_random_ids(tokenizer, original, 1000)


@pytest.mark.parametrize("variant", models.VARIANTS)
def test_variants(tmp_path: Path, variant: str) -> None:
    directory = models.VARIANTS[variant](tmp_path)
    tokenizer, original = open_tokenizer(directory, "sentencepiece"), open_original(directory)
    assert tokenizer.source_size == len(original)
    assert differences(tokenizer, original, LINES, "source") == []
    # Where the source's vocabulary is the larger one, the original's literal <pad> is no id of the target.
    lines = [line for line in LINES if max(original(text_target=line)["input_ids"]) < tokenizer.target_size]
    assert len(lines) > 0.9 * len(LINES)
    assert differences(tokenizer, original, lines, "target") == []
    check_random_ids(tokenizer, original, 500)
