"""Tokenizer files that are missing, damaged or hostile: a typed error that names file and fault."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyengine.errors import InputError, TokenizerError, UnsupportedError
from pyengine.text import TOKENIZER_KINDS, open_tokenizer

from . import models

VOCABULARY = {"</s>": 0, "<unk>": 1, "a": 2, "<pad>": 3}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return models.VARIANTS["separate"](tmp_path)


def open_here(directory: Path) -> None:
    open_tokenizer(directory, "sentencepiece")


@pytest.mark.parametrize("name", ("source.spm", "target.spm", "vocab.json", "target_vocab.json"))
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(TokenizerError, match=f"{name}: cannot be read: No such file"):
        open_here(directory)


@pytest.mark.parametrize("name", ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"))
def test_another_kind_of_entry_is_refused(directory: Path, name: str) -> None:
    path = directory / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TokenizerError, match=f"{name}: expected a regular file"):
        open_here(directory)
    path.unlink()
    path.mkdir()
    with pytest.raises(TokenizerError, match=f"{name}: expected a regular file"):
        open_here(directory)


@pytest.mark.parametrize(("name", "most"), (("source.spm", 32), ("vocab.json", 64), ("tokenizer_config.json", 8)))
def test_a_huge_file_is_not_read(directory: Path, name: str, most: int) -> None:
    os.truncate(directory / name, (most << 20) + 1)
    with pytest.raises(TokenizerError, match=f"{name}: larger than {most << 20} bytes"):
        open_here(directory)


@pytest.mark.parametrize("name", ("source.spm", "target.spm"))
@pytest.mark.parametrize("content", (b"", b"\0" * 100, b"not a model", b"\xff" * 1000))
def test_a_file_that_is_no_model_is_named(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}: expected a SentencePiece model"):
        open_here(directory)


def test_damaged_models_are_refused_or_work(tmp_path: Path) -> None:
    """Whatever the damage, the answer is a text or a typed error, and never a crash."""
    directory = models.VARIANTS["bytes and symbols"](tmp_path)
    path = directory / "target.spm"
    whole, random = path.read_bytes(), Random(5)
    outcomes = set()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(random.choice((1, 1, 5))):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged[: random.choice((len(whole), len(whole), random.randrange(len(whole))))])
        try:
            tokenizer = open_tokenizer(directory, "sentencepiece")
            tokenizer.decode(tokenizer.encode_target(models.ENGLISH[0] + "\U0001f642", end=True))
            outcomes.add("works")
        except TokenizerError as error:
            assert "target.spm: " in str(error)
            outcomes.add("refused")
    assert outcomes == {"works", "refused"}


def test_a_model_that_writes_no_unicode_is_named(directory: Path) -> None:
    """The text for an unknown piece is the model's own; a model with a bad one opens."""
    model = models.train(models.ENGLISH, 80, unk_surface="QQQ")
    (directory / "target.spm").write_bytes(model.replace(b"QQQ", b"Q\xff\xff"))
    vocab = json.loads((directory / "target_vocab.json").read_text(encoding="utf-8"))
    write_config(directory, separate_vocabs=True, unk_token="a")
    tokenizer = open_tokenizer(directory, "sentencepiece")
    with pytest.raises(TokenizerError, match="target.spm: cannot join"):
        tokenizer.decode([vocab["<unk>"]])


@pytest.mark.parametrize("name", ("vocab.json", "target_vocab.json"))
@pytest.mark.parametrize(
    "content, fault",
    (
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ('["</s>"]', "object"),
        ("3", "object"),
        ("[" * 100_000, "JSON"),
        ('{"</s>": ' + "9" * 5000 + "}", "JSON"),
        ('{"</s>": 0, "</s>": 1}', "twice"),
        ('{"</s>": 0, "<unk>": 0, "a": 1}', "each id once, found 0"),
        ('{"</s>": 0, "<unk>": 2}', "ids 0 to 1 .*found 2 for '<unk>'"),
        ('{"</s>": 0, "<unk>": -1}', "found -1"),
        ('{"</s>": 0, "<unk>": 1.0}', "found 1.0"),
        ('{"</s>": 0, "<unk>": true}', "found True"),
        ('{"</s>": 0, "<unk>": "1"}', "found '1'"),
        ('{"</s>": 0, "<unk>": null}', "found None"),
        ('{"</s>": 0, "<unk>": 1, "\\ud800": 2}', "not valid Unicode"),
        ('{"<unk>": 0}', "expected a piece '</s>'"),
        ('{"</s>": 0}', "expected a piece '<unk>'"),
        ("{}", "expected a piece"),
    ),
)
def test_a_wrong_vocabulary_is_named(directory: Path, name: str, content: str, fault: str) -> None:
    (directory / name).write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=rf"{name}: .*{fault}"):
        open_here(directory)


def test_a_vocabulary_is_utf8(directory: Path) -> None:
    (directory / "vocab.json").write_bytes(b'{"</s>": 0, "<unk>": 1, "\xff": 2}')
    with pytest.raises(TokenizerError, match="vocab.json: .*UTF-8"):
        open_here(directory)


def write_config(directory: Path, **fields: Any) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")


@pytest.mark.parametrize(
    "fields, error, fault",
    (
        ({"eos_token": None}, TokenizerError, "eos_token: expected a token, found null"),
        ({"unk_token": 3}, TokenizerError, "unk_token: expected a token, found 3"),
        ({"unk_token": ""}, TokenizerError, "unk_token: expected a token"),
        ({"pad_token": {"lstrip": True}}, TokenizerError, "pad_token: expected a token"),
        ({"pad_token": "\ud800"}, TokenizerError, "pad_token: expected valid Unicode"),
        ({"extra_special_tokens": "<x>"}, TokenizerError, "extra_special_tokens: expected a list"),
        ({"extra_special_tokens": ["<x>", 3]}, TokenizerError, "extra_special_tokens: .*token, found 3"),
        ({"separate_vocabs": "yes"}, TokenizerError, "separate_vocabs: expected true or false, found 'yes'"),
        ({"clean_up_tokenization_spaces": 1}, TokenizerError, "clean_up_tokenization_spaces: expected true"),
        ({"added_tokens_decoder": []}, TokenizerError, "added_tokens_decoder: expected an object"),
        ({"added_tokens_decoder": {"x": {}}}, TokenizerError, "added_tokens_decoder.*expected an id"),
        ({"added_tokens_decoder": {"-1": {}}}, TokenizerError, "added_tokens_decoder.*expected an id"),
        ({"added_tokens_decoder": {"9" * 99: {}}}, TokenizerError, "added_tokens_decoder.*expected an id"),
        ({"added_tokens_decoder": {"0": "</s>"}}, TokenizerError, "added_tokens_decoder.*expected an id"),
        ({"added_tokens_decoder": {"0": {"content": 1}}}, TokenizerError, "added_tokens_decoder.*a token"),
        (
            {"added_tokens_decoder": {"0": {"content": "x", "lstrip": 1}}},
            TokenizerError,
            "lstrip: expected true or false",
        ),
        (
            {"added_tokens_decoder": {"0": {"content": "x"}, "2": {"content": "x"}}},
            TokenizerError,
            "the same added token is given two ids",
        ),
        (
            {"added_tokens_decoder": {"9999": {"content": "x"}}},
            TokenizerError,
            "expected the id [0-9]+ for the next added token, found 9999 for 'x'",
        ),
        ({"sp_model_kwargs": {"enable_sampling": True}}, UnsupportedError, "sp_model_kwargs"),
    ),
)
def test_a_wrong_config_is_named(directory: Path, fields: dict, error: type[Exception], fault: str) -> None:
    write_config(directory, **fields)
    with pytest.raises(error, match=fault):
        open_here(directory)


@pytest.mark.parametrize("content", ("[1]", '{"x": "a"}', '{"x": -1}', '{"x": true}', '{"": 0}'))
def test_wrong_legacy_files_are_named(directory: Path, content: str) -> None:
    write_config(directory)
    (directory / "added_tokens.json").write_text(content)
    with pytest.raises(TokenizerError, match="added_tokens.json"):
        open_here(directory)


def test_an_end_token_outside_the_target_vocabulary_is_refused(directory: Path) -> None:
    vocab = {piece: i for i, piece in enumerate(["<unk>", *"abcdefgh", "</s>"])}
    (directory / "vocab.json").write_text(json.dumps(vocab))
    (directory / "target_vocab.json").write_text(json.dumps(VOCABULARY))
    with pytest.raises(TokenizerError, match="vocab.json: '</s>': .*below the target's 4, found 9"):
        open_here(directory)


@pytest.mark.parametrize("side, other", (("source", "target"), ("target", "source")))
@pytest.mark.parametrize("change", (-1, 1))
def test_a_vocabulary_has_the_size_of_the_model(directory: Path, side: str, other: str, change: int) -> None:
    whole = open_tokenizer(directory, "sentencepiece")
    sizes = {"source_vocab": whole.source_size, "target_vocab": whole.target_size}
    open_tokenizer(directory, "sentencepiece", **sizes)
    found = sizes[f"{side}_vocab"]
    sizes[f"{side}_vocab"] += change
    with pytest.raises(TokenizerError, match=f"{side} vocabulary: .*{found + change} .*found {found}"):
        open_tokenizer(directory, "sentencepiece", **sizes)


@pytest.mark.parametrize("multiple", (8, 64, 128, 1024))
def test_a_table_may_be_padded(directory: Path, multiple: int) -> None:
    """Ids above the pieces, which no text has, are taken and have no text, as with a tokenizer.json."""
    whole = open_tokenizer(directory, "sentencepiece")
    sizes = {"source_vocab": whole.source_size, "target_vocab": whole.target_size}
    assert all(size % 8 for size in sizes.values())
    sizes = {name: size + -size % multiple for name, size in sizes.items()}
    padded = open_tokenizer(directory, "sentencepiece", **sizes)
    assert (padded.source_size, padded.target_size) == tuple(sizes.values())
    last = padded.target_size - 1
    assert padded.pieces([2, last, 3]) == [*whole.pieces([2]), "", *whole.pieces([3])]
    assert padded.decode([2, last, 3, whole.target_size, 0]) == whole.decode([2, 3, 0])
    assert padded.encode_source("a b") == whole.encode_source("a b")
    with pytest.raises(InputError, match=f"from 0 to {last}, found {last + 1}"):
        padded.decode([last + 1])


@pytest.mark.parametrize(
    "name", ("source.spm", "vocab.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
)
def test_a_link_to_nothing_is_no_absence(directory: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)
    (directory / name).symlink_to("../blobs/0f")
    with pytest.raises(TokenizerError, match=f"{name}: a link to '../blobs/0f', which is not there"):
        open_tokenizer(directory, "sentencepiece")


def test_kinds(directory: Path) -> None:
    with pytest.raises(TokenizerError, match="expected one of sentencepiece, tokenizers, found 'bpe'"):
        open_tokenizer(directory, "bpe")
    assert TOKENIZER_KINDS == ("sentencepiece", "tokenizers")
    with pytest.raises(TokenizerError, match="tokenizer.json: cannot be read: No such file"):
        open_tokenizer(directory, "tokenizers")


@pytest.mark.parametrize("make", (Path, str))
def test_a_missing_directory_is_named(tmp_path: Path, make: Callable[[Path], Path | str]) -> None:
    for kind in TOKENIZER_KINDS:
        with pytest.raises(TokenizerError, match="nowhere"):
            open_tokenizer(make(tmp_path / "nowhere"), kind)
