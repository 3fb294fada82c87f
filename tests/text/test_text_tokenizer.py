"""Tokenizers of language models: ids as the tokenizers package gives them, special tokens, and text piece by piece."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Thread

import pytest
import tokenizers
from tokenizers import decoders, models

from pyengine.errors import InputError, TokenizerError, UnsupportedError
from pyengine.text import TextTokenizer, text_tokenizer_of

from .odd_lines import odd_lines
from .trained import KINDS, trained


@dataclass(frozen=True)
class Sizes:
    source_vocab: int | None = None
    target_vocab: int | None = None


@dataclass(frozen=True)
class Head:
    path: Path
    tokenizer_kind: str | None = "tokenizers"
    config: Sizes = Sizes()


def opened(content: str, directory: Path, **config: object) -> TextTokenizer:
    (directory / "tokenizer.json").write_text(content)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    found = text_tokenizer_of(Head(directory))
    assert found is not None
    return found


def package(kind: str, *, split_special: bool) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(trained(kind))
    made.encode_special_tokens = split_special
    return made


def streamed(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*map(stream.push, ids), stream.finish()]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_package(tmp_path: Path, kind: str) -> None:
    tokenizer = opened(trained(kind), tmp_path)
    plain, split = package(kind, split_special=False), package(kind, split_special=True)
    begin = plain.encode("").ids[:1]
    found = 0
    for line in odd_lines():
        for special in (True, False):
            assert tokenizer.encode(line, special=special) == split.encode(line, add_special_tokens=special).ids
            ids = plain.encode(line, add_special_tokens=special).ids
            if ids[:2] == 2 * begin:  # the text begins with the begin token
                found += special
                ids = ids[1:] if special else ids
            assert tokenizer.encode(line, special=special, split_special=False) == ids
    assert found or kind == "word piece"


def test_a_begin_token_in_the_text_is_not_added_again(tmp_path: Path) -> None:
    tokenizer = opened(trained("byte level"), tmp_path)
    begin = tokenizer.encode("")
    assert begin == [0]
    assert tokenizer.encode("<s>Hello", split_special=False) == tokenizer.encode("Hello")
    assert tokenizer.encode("<s><s>Hello", split_special=False) == begin + tokenizer.encode("Hello")
    assert tokenizer.encode("<s>Hello", special=False, split_special=False) == tokenizer.encode("Hello")
    assert tokenizer.encode("<s>Hello").count(0) == 1 and len(tokenizer.encode("<s>")) > 2


def test_threads_with_different_settings_do_not_meet(tmp_path: Path) -> None:
    tokenizer = opened(trained("byte level"), tmp_path)
    expected = {split: package("byte level", split_special=split).encode("a </s> b").ids for split in (False, True)}
    wrong: list[bool] = []

    def run(split: bool) -> None:
        for _ in range(300):
            if tokenizer.encode("a </s> b", split_special=split) != expected[split]:
                wrong.append(split)

    threads = [Thread(target=run, args=(split,)) for split in (False, True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected[False] != expected[True] and not wrong


@pytest.mark.parametrize("kind", ("byte level", "sentencepiece"))
def test_parts_are_one_text(tmp_path: Path, kind: str) -> None:
    """A part that is text is cut as if special tokens were unknown, the others as if they were written there."""
    tokenizer = opened(trained(kind), tmp_path)
    lines, random = odd_lines(), Random(3)
    for number, line in enumerate(lines):
        cut = random.randrange(len(line) + 1)
        special = tokenizer.encode(line, special=False, split_special=False)
        assert tokenizer.encode_parts([(line[:cut], False), (line[cut:], False)]) == special
        if not {"\ufdd2", "\ufdd3", "\ufdd4", "\ufdd5"} & set(line):
            text = tokenizer.encode(line, special=False)
            assert tokenizer.encode_parts([(line, True)]) == text, number
    end = tokenizer.encode("</s>", special=False, split_special=False)
    assert len(end) == 1
    ids = tokenizer.encode_parts([("a b</s>", False), ("</s>", True), (" c d</s>", False)])
    assert ids.count(end[0]) == 2
    assert tokenizer.decode(ids).replace(" ", "") == "ab</s>cd"  # the second kind writes a space behind special tokens
    assert tokenizer.encode_parts([("</s>a", False), ("\ufdd2", True), ("b", False)])[0] == end[0]


def test_parts_keep_the_white_space_rules_of_special_tokens(tmp_path: Path) -> None:
    tokenizer = opened(trained("byte level"), tmp_path)
    text = "a  <|both|> b <|end|>  \n c <tool> d"
    expected = tokenizer.encode(text, special=False, split_special=False)
    assert tokenizer.encode_parts([(text, False), ("</s>", True)])[: len(expected)] == expected


@pytest.mark.parametrize("clean_up", (False, True))
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_stream_are_the_text(tmp_path: Path, kind: str, clean_up: bool) -> None:
    tokenizer = opened(trained(kind), tmp_path, clean_up_tokenization_spaces=clean_up)
    made, random = package(kind, split_special=False), Random(11)
    pieces = tokenizer.pieces(range(tokenizer.size))
    odd = [i for i, piece in enumerate(pieces) if piece.startswith("<0x") or (len(piece) == 1 and not piece.isascii())]
    broken = 0
    samples = [made.encode(line).ids for line in odd_lines()]
    for number in range(400):  # every other one has bytes of several characters, and of none
        choices = odd if number % 2 else range(tokenizer.size)
        samples.append([random.choice(choices) for _ in range(random.randrange(30))])
    for ids in samples:
        text = tokenizer.decode(ids)
        assert "".join(streamed(tokenizer, ids)) == text, ids
        assert clean_up or text == made.decode(ids)
        text.encode("utf-8")
        broken += "\ufffd" in text
    assert broken or kind == "word piece"


DECODERS: dict[str, decoders.Decoder | None] = {
    "none": None,
    "byte level": decoders.ByteLevel(),
    "byte fallback": decoders.ByteFallback(),
    "word piece": decoders.WordPiece(),
    "word piece as it is": decoders.WordPiece(prefix="b", cleanup=False),
    "metaspace": decoders.Metaspace(),
    "metaspace, never": decoders.Metaspace(prepend_scheme="never"),
    "strip": decoders.Strip("a", 2, 0),
    "strip the end": decoders.Strip("a", 1, 1),
    "suffix": decoders.BPEDecoder("b"),
    "ctc": decoders.CTC("a"),
    "a pattern": decoders.Replace(tokenizers.Regex("a+"), "b"),
    "fuse and strip": decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 3, 0)]),
    "fuse and replace": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]),
    "bytes, then spaces": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "bytes by name, then stripped": decoders.Sequence([decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]),
    "nested": decoders.Sequence([decoders.Sequence([decoders.Replace("a", " "), decoders.Fuse()]), decoders.Fuse()]),
    "byte level, stripped": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 2, 0)]),
    "byte level twice": decoders.Sequence([decoders.ByteLevel(), decoders.ByteLevel()]),
}
WORDS = [
    "a", "b", " ", "ab", "ba", "aa", "  ", " .", " n't", "\u2581", "\u2581a", "##a", "##", "'", "n", ".", " ' ", "bb",
    "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xff>", "<0x+F>", "<0x0>", "<0xZZ>", "<0x20>", "\u0120", "\u00e4",
    "\u00f0", "\u0141", "\u00e2", "\u0124", "\u4e2d",
]  # fmt: skip


@pytest.mark.parametrize("clean_up", (False, True))
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder(tmp_path: Path, name: str, clean_up: bool) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    if DECODERS[name] is not None:
        made.decoder = DECODERS[name]
    tokenizer = opened(made.to_str(), tmp_path, clean_up_tokenization_spaces=clean_up)
    random = Random(5)
    for _ in range(400):
        most = random.choice((2, 8, len(WORDS)))  # few words repeat
        start = random.randrange(len(WORDS))
        ids = [(start + random.randrange(most)) % len(WORDS) for _ in range(random.randrange(25))]
        try:
            text = tokenizer.decode(ids)
        except TokenizerError:  # the package's own failure
            continue
        assert "".join(streamed(tokenizer, ids)) == text, [WORDS[index] for index in ids]


def test_a_character_appears_when_its_last_byte_does(tmp_path: Path) -> None:
    tokenizer = opened(trained("byte level"), tmp_path)
    alphabet = {piece: index for index in range(tokenizer.size) for piece in tokenizer.pieces([index])}
    euro = [alphabet[piece] for piece in "\u00e2\u0124\u00ac"]
    assert streamed(tokenizer, [*euro, alphabet["a"], euro[0], euro[1]]) == ["", "", "\u20ac", "a", "", "", "\ufffd"]


def test_a_stream_refuses_what_is_no_id(tmp_path: Path) -> None:
    stream = opened(trained("byte level"), tmp_path).stream()
    for wrong in (-1, 10**6, "a", True):
        with pytest.raises(InputError, match="expected token ids"):
            stream.push(wrong)  # type: ignore[arg-type]


def test_a_tokenizer_fits_its_model(tmp_path: Path) -> None:
    size = opened(trained("byte level"), tmp_path).size
    larger = text_tokenizer_of(Head(tmp_path, config=Sizes(target_vocab=size + 3)))
    assert larger is not None and larger.size == size + 3 and larger.decode([size + 2]) == ""
    with pytest.raises(TokenizerError, match=f"expected ids below the model's {size - 1}, found the id {size - 1}"):
        text_tokenizer_of(Head(tmp_path, config=Sizes(target_vocab=size - 1)))
    file = tmp_path / "tokenizer.json"  # as many ids as the model has, one of which is above them
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"]["~"] = size + 7
    file.write_text(json.dumps(content), encoding="utf-8")
    with_hole = text_tokenizer_of(Head(tmp_path, config=Sizes(target_vocab=size)))
    assert with_hole is not None and with_hole.encode("a") and text_tokenizer_of(Head(tmp_path)).size == size + 8
    with pytest.raises(TokenizerError, match=f"expected ids below {size}, found {size + 7}"):
        with_hole.encode("~")
    assert text_tokenizer_of(Head(tmp_path, tokenizer_kind=None)) is None
    with pytest.raises(UnsupportedError, match="expected one tokenizer, found those of two sides"):
        text_tokenizer_of(Head(tmp_path, tokenizer_kind="sentencepiece"))
