"""What the Marian tokenizer does with small models made for the purpose."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pyengine.errors import InputError
from pyengine.text import Tokenizer, open_tokenizer

from . import models
from .odd_lines import odd_lines


def build(tmp_path: Path, variant: str) -> tuple[Tokenizer, dict[str, int], dict[str, int]]:
    """The tokenizer, its source and its target vocabulary."""
    directory = models.VARIANTS[variant](tmp_path)
    source = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    separate = directory / "target_vocab.json"
    target = json.loads(separate.read_text(encoding="utf-8")) if separate.exists() else source
    return open_tokenizer(directory, "sentencepiece"), source, target


def cut(model: bytes, text: str) -> list[str]:
    return models.processor(model).encode(text, out_type=str)


def test_ids_come_from_the_vocabulary(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "shared")
    text = " ".join(models.GERMAN)
    found = cut(models.train(models.GERMAN, 90), text)
    assert any(piece not in vocab for piece in found), "the variant lacks pieces on purpose"
    expected = [vocab.get(piece, vocab["<unk>"]) for piece in found]
    assert tokenizer.encode_source(text) == [*expected, vocab["</s>"]]


def test_each_side_is_cut_by_its_own_model(tmp_path: Path) -> None:
    tokenizer, source, target = build(tmp_path, "separate")
    text = models.ENGLISH[0]
    pieces = cut(models.train(models.ENGLISH, 80), text)
    assert tokenizer.encode_target(text, end=False) == [target[piece] for piece in pieces]
    assert tokenizer.encode_target(text, end=True) == [*(target[piece] for piece in pieces), target["</s>"]]
    pieces = cut(models.train(models.GERMAN, 90), text)
    assert tokenizer.encode_source(text)[:-1] == [source.get(piece, source["<unk>"]) for piece in pieces]
    assert (tokenizer.source_size, tokenizer.target_size) == (len(source), len(target))


def test_language_codes_lead(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "shared")
    plain = tokenizer.encode_source(" Zwei Hunde")
    assert tokenizer.encode_source(">>fra<< Zwei Hunde") == [vocab[">>fra<<"], *plain]
    assert tokenizer.encode_source(">>xyz<< Zwei Hunde") == [vocab["<unk>"], *plain], "an unknown code"
    assert tokenizer.encode_source(">>fra<<") == [vocab[">>fra<<"], vocab["</s>"]]
    assert vocab[">>fra<<"] not in tokenizer.encode_source("Zwei >>fra<< Hunde"), "a code leads or is text"
    assert vocab[">>fra<<"] not in tokenizer.encode_source(" >>fra<< Zwei Hunde")


def test_special_tokens_in_the_text_are_themselves(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "shared")
    first, second = tokenizer.encode_source("Zwei ")[:-1], tokenizer.encode_source(" Hunde")
    assert tokenizer.encode_source("Zwei </s> Hunde") == [*first, vocab["</s>"], *second]
    assert tokenizer.encode_source("<pad><unk>") == [vocab["<pad>"], vocab["<unk>"], vocab["</s>"]]
    after = tokenizer.encode_source("</s>>>fra<< Hunde")
    assert after == [vocab["</s>"], vocab[">>fra<<"], *second], "each part between them may have a code"


def test_added_tokens_strip_their_sides(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "added")
    left, right, word, both = (len(vocab) + i for i in range(4))
    mann, hund = tokenizer.encode_source("Mann")[:-1], tokenizer.encode_source("Hund")
    assert tokenizer.encode_source("Mann  <left>Hund") == [*mann, left, *hund]
    assert tokenizer.encode_source("Mann<right>  Hund") == [*mann, right, *hund]
    assert tokenizer.encode_source("Mann <both> Hund") == [*mann, both, *hund]
    assert word in tokenizer.encode_source("Mann Stadt Hund")
    assert word not in tokenizer.encode_source("MannStadt Hund")
    assert word not in tokenizer.encode_source("Mann StadtHund")
    assert tokenizer.source_size == tokenizer.target_size == len(vocab) + 4
    assert tokenizer.decode([*mann, left, both]) == "Mann<left>", "added is text, special is not"


def test_a_missing_pad_token_gets_the_next_id(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "without pad")
    assert tokenizer.encode_source("<pad>") == [len(vocab), vocab["</s>"]]
    assert tokenizer.target_size == len(vocab) + 1
    assert tokenizer.pieces([len(vocab)]) == ["<pad>"]


def test_special_tokens_may_be_text(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "split special")
    assert tokenizer.encode_source("<pad>") == [
        *(vocab.get(piece, vocab["<unk>"]) for piece in cut(models.train(models.GERMAN, 90), "<pad>")),
        vocab["</s>"],
    ]


def test_a_literal_pad_stays_inside_a_smaller_target_vocabulary(tmp_path: Path) -> None:
    """The original gives the source's id there, which the target does not have."""
    tokenizer, source, target = build(tmp_path, "separate")
    assert source["<pad>"] >= len(target)
    assert tokenizer.encode_target("<pad>", end=False) == [target["<pad>"]]


def test_decoding_skips_special_tokens(tmp_path: Path) -> None:
    tokenizer, vocab, _ = build(tmp_path, "without pad")
    for text in models.GERMAN:
        ids = tokenizer.encode_source(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([len(vocab), ids[0], vocab["<unk>"], *ids[1:]]) == text
    assert tokenizer.decode([]) == tokenizer.decode([vocab["</s>"]]) == ""


def test_pieces_keep_special_tokens(tmp_path: Path) -> None:
    tokenizer, vocab, target = build(tmp_path, "separate")
    ids = tokenizer.encode_target("A man", end=True)
    assert tokenizer.pieces(ids) == [*cut(models.train(models.ENGLISH, 80), "A man"), "</s>"]
    assert tokenizer.pieces(np.array(ids, np.int32)) == tokenizer.pieces(tuple(ids))


def test_spaces_before_punctuation_go_where_the_config_says(tmp_path: Path) -> None:
    kept, cleaned = build(tmp_path / "a", "shared")[0], build(tmp_path / "b", "clean up")[0]
    ids = kept.encode_target(models.ENGLISH[1], end=True)
    assert kept.decode(ids).endswith(" .")
    assert cleaned.decode(ids) == kept.decode(ids).removesuffix(" .") + "."


@pytest.mark.parametrize("variant", models.VARIANTS)
def test_nothing_of_nothing(tmp_path: Path, variant: str) -> None:
    tokenizer, vocab, _ = build(tmp_path, variant)
    for text in ("", " ", "   "):
        assert tokenizer.encode_source(text) == [vocab["</s>"]] == tokenizer.encode_target(text, end=True)
        assert tokenizer.encode_target(text, end=False) == []


@pytest.mark.parametrize("variant", models.VARIANTS)
def test_ids_lie_in_the_vocabularies(tmp_path: Path, variant: str) -> None:
    tokenizer, _, _ = build(tmp_path, variant)
    for line in odd_lines()[::5]:
        assert 0 <= max(tokenizer.encode_source(line)) < tokenizer.source_size
        target = tokenizer.encode_target(line, end=True)
        assert 0 <= max(target) < tokenizer.target_size
        tokenizer.decode(target).encode("utf-8")
        assert len(tokenizer.pieces(target)) == len(target)


def test_threads_share_a_tokenizer(tmp_path: Path) -> None:
    tokenizer, _, _ = build(tmp_path, "shared")
    lines = odd_lines()

    def both(line: str) -> tuple[list[int], list[int]]:
        return tokenizer.encode_source(line), tokenizer.encode_target(line, end=True)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(both, lines)) == [both(line) for line in lines]


@pytest.mark.parametrize("text", ("\ud800", "Mann \udfff", "</s>\udc80", "\ud83d"))
def test_lone_surrogates_are_refused(tmp_path: Path, text: str) -> None:
    tokenizer, _, _ = build(tmp_path, "shared")
    surrogate = f"U+{ord(text[-1]):04X} at character {len(text) - 1}"
    with pytest.raises(InputError, match=surrogate.replace("+", r"\+")):
        tokenizer.encode_source(text)
    with pytest.raises(InputError, match=surrogate.replace("+", r"\+")):
        tokenizer.encode_target(text, end=True)


@pytest.mark.parametrize("text", (None, 3, b"Mann", ["Mann"]))
def test_only_text_is_encoded(tmp_path: Path, text: object) -> None:
    tokenizer, _, _ = build(tmp_path, "shared")
    with pytest.raises(InputError, match=f"expected text .*found {type(text).__name__}"):
        tokenizer.encode_source(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", ([-1], [10**6], [0, 2**70], [1.0], ["a"], 5, None))
def test_only_ids_of_the_vocabulary_are_decoded(tmp_path: Path, ids: object) -> None:
    tokenizer, _, _ = build(tmp_path, "shared")
    with pytest.raises(InputError, match="expected token ids"):
        tokenizer.decode(ids)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected token ids"):
        tokenizer.pieces(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", models.VARIANTS)
def test_a_stream_is_what_decode_gives(tmp_path: Path, variant: str) -> None:
    """Of odd lines, and of random ids; its pieces come a word later at most."""
    tokenizer, _, _ = build(tmp_path, variant)
    rng = np.random.RandomState(1)
    texts = [tokenizer.encode_target(line, end=True) for line in odd_lines()[:300]]
    for ids in [*texts, *(rng.randint(0, tokenizer.target_size, 30).tolist() for _ in range(100))]:
        stream = tokenizer.stream()
        pieces = [stream.push(id) for id in ids]
        assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids), ids
