"""Which tokenizer files go along, and vocabularies that do not fit the model's tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyengine.errors import TokenizerError
from pyengine.importers import open_checkpoint

from ..checkpoints import handmade

VOCAB = {f"piece{i}": i for i in range(21)}


def checkpoint(directory: Path, files: dict[str, Any], **changes: Any) -> Path:
    handmade.write_checkpoint(directory, handmade.marian_config(**changes))
    for name, content in files.items():
        (directory / name).write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
    return directory


SPM = {"source.spm": b"s", "target.spm": b"t", "vocab.json": VOCAB}
TOKENIZERS = {"tokenizer.json": {"model": {"vocab": VOCAB}, "added_tokens": [{"id": 20, "content": "<pad>"}]}}
EXTRAS = {"tokenizer_config.json": {}, "special_tokens_map.json": {}, "added_tokens.json": {}}


@pytest.mark.parametrize(
    ("files", "kind", "names"),
    (
        ({}, None, []),
        (EXTRAS, None, []),
        (SPM, "sentencepiece", list(SPM)),
        ({**SPM, **EXTRAS}, "sentencepiece", [*SPM, *EXTRAS]),
        ({**SPM, **TOKENIZERS}, "sentencepiece", list(SPM)),
        ({**SPM, "target_vocab.json": VOCAB}, "sentencepiece", [*SPM, "target_vocab.json"]),
        (TOKENIZERS, "tokenizers", ["tokenizer.json"]),
        ({**TOKENIZERS, **EXTRAS}, "tokenizers", ["tokenizer.json", *EXTRAS]),
        ({**TOKENIZERS, "vocab.json": VOCAB}, "tokenizers", ["tokenizer.json"]),
        ({"tokenizer.json": {"model": {"vocab": [["a", 0.0]] * 21}}}, "tokenizers", ["tokenizer.json"]),
    ),
)
def test_files(tmp_path: Path, files: dict[str, Any], kind: str | None, names: list[str]) -> None:
    model = open_checkpoint(checkpoint(tmp_path, files))
    assert model.tokenizer == kind
    assert list(model.tokenizer_files) == names
    assert all(path == tmp_path / name for name, path in model.tokenizer_files.items())


@pytest.mark.parametrize("name", SPM)
def test_an_incomplete_set(tmp_path: Path, name: str) -> None:
    files = {key: value for key, value in SPM.items() if key != name}
    with pytest.raises(TokenizerError, match=f" without {name}$"):
        open_checkpoint(checkpoint(tmp_path, files))


def test_separate_vocabularies_without_the_second(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="separate_vocabs, but target_vocab.json is missing"):
        open_checkpoint(checkpoint(tmp_path, {**SPM, "tokenizer_config.json": {"separate_vocabs": True}}))


@pytest.mark.parametrize(
    ("vocab", "message"),
    (
        ({**VOCAB, "more": 21}, "piece 'more' has id 21, expected an integer from 0 to 20"),
        ({**VOCAB, "less": -1}, "piece 'less' has id -1"),
        ({"a": "0"}, "piece 'a' has id '0'"),
        ({"a": True}, "piece 'a' has id True"),
        ({"a": 1.0}, "piece 'a' has id 1.0"),
        ({"a": [0]}, r"piece 'a' has id \[0\]"),
        ({"a": 1, "b": 1}, "2 pieces have only 1 different ids"),
        ({}, "no pieces"),
        ([], "expected a JSON object"),
        (b'{"a": 1, "a": 2}', "not valid JSON: the name 'a' occurs twice"),
        (b"{", "not valid JSON"),
    ),
)
def test_a_vocabulary_that_does_not_fit(tmp_path: Path, vocab: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=f"/vocab.json: {message}"):
        open_checkpoint(checkpoint(tmp_path, {**SPM, "vocab.json": vocab}))
    if vocab:
        with pytest.raises(TokenizerError, match=f"target_vocab.json: {message}"):
            open_checkpoint(checkpoint(tmp_path / "two", {**SPM, "target_vocab.json": vocab}))


def test_a_smaller_vocabulary_fits(tmp_path: Path) -> None:
    """Tables are often rounded up to a multiple of eight."""
    assert open_checkpoint(checkpoint(tmp_path, {**SPM, "vocab.json": {"a": 3}})).tokenizer == "sentencepiece"


@pytest.mark.parametrize(
    ("content", "message"),
    (
        ({"model": {"vocab": {"a": 21}}}, "piece 'a' has id 21"),
        ({"model": {"vocab": [["a", 0.0]] * 22}}, "has id 21"),
        ({"model": {"vocab": 3}}, "model.vocab: expected"),
        ({"model": 3}, "model.vocab: expected"),
        ({}, "model.vocab: expected"),
        ({"model": {"vocab": {}}, "added_tokens": [{"id": 99, "content": "x"}]}, "piece 'x' has id 99"),
        ({"model": {"vocab": {}}, "added_tokens": [3]}, "added_tokens: expected"),
        ({"model": {"vocab": {}}, "added_tokens": [{}]}, "piece None has id None"),
    ),
)
def test_a_tokenizer_json_that_does_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=f"tokenizer.json: {message}|tokenizer.json: piece .*{message}"):
        open_checkpoint(checkpoint(tmp_path, {"tokenizer.json": content}))
