"""Which tokenizer files go along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyengine.errors import TokenizerError, UnsupportedError
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

TEMPLATE = {"chat_template.jinja": b"{{ messages }}"}


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
        ({**TOKENIZERS, **TEMPLATE}, "tokenizers", ["tokenizer.json", *TEMPLATE]),
        ({**SPM, **TEMPLATE}, "sentencepiece", list(SPM)),
        (TEMPLATE, None, []),
    ),
)
def test_files(tmp_path: Path, files: dict[str, Any], kind: str | None, names: list[str]) -> None:
    model = open_checkpoint(checkpoint(tmp_path, files))
    assert model.tokenizer_kind == kind
    assert list(model.tokenizer_files) == names
    assert all(path == tmp_path / name for name, path in model.tokenizer_files.items())


@pytest.mark.parametrize("name", SPM)
def test_an_incomplete_set(tmp_path: Path, name: str) -> None:
    files = {key: value for key, value in SPM.items() if key != name}
    with pytest.raises(TokenizerError, match=f" without {name}$"):
        open_checkpoint(checkpoint(tmp_path, files))


def test_a_vocabulary_with_merges(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="merges.txt: expected tokenizer.json"):
        open_checkpoint(checkpoint(tmp_path, {"vocab.json": VOCAB, "merges.txt": b"a b"}))
