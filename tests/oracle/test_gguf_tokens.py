"""Tokenizers of GGUF files give llama.cpp's golden ids, and on odd lines those of transformers for the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from pyengine.checkpoints.gguf import open_gguf
from pyengine.errors import UnsupportedError
from pyengine.importers.gguf_tokenizer import tokenizer_files_of
from pyengine.importers.gguf_tokenizer.splits import SPLITS
from pyengine.text.tokenizer_json import JsonTokenizer

from ..real_models import real_file
from ..text.odd_lines import odd_lines

GOLDEN = (
    "bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "llama-bpe", "llama-spm",
    "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder",
)  # fmt: skip
BETWEEN = "\n__ggml_vocab_test__\n"


def opened(path: Path, directory: Path) -> JsonTokenizer:
    metadata = open_gguf(path).metadata
    for name, content in tokenizer_files_of(metadata, str(path)).items():
        (directory / name).write_bytes(content)
    return JsonTokenizer(directory, size=len(metadata["tokenizer.ggml.tokens"]))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids(tmp_path: Path, name: str) -> None:
    path = real_file(f"vocabularies/ggml-vocab-{name}.gguf")
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().removesuffix(BETWEEN).split(BETWEEN)
    ids = [[int(each) for each in line.split()] for line in path.with_suffix(".gguf.out").read_text().splitlines()]
    tokenizer = opened(path, tmp_path)
    assert len(texts) == len(ids) >= 46
    for text, expected in zip(texts, ids):
        assert tokenizer.encode(text, special=False) == expected, text


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("aquila", "tokenizer.ggml.pre: None"),
        ("gpt-neox", "tokenizer.ggml.pre: None"),
        ("nomic-bert-moe", "tokenizer.ggml.model: 't5'"),
    ),
)
def test_what_does_not_say_how_it_splits_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(real_file(f"vocabularies/ggml-vocab-{name}.gguf"), tmp_path)


def test_splittings_are_those_of_transformers() -> None:
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    theirs = mapping.GGUF_PRE_TOKENIZER_SPLITS
    shared = theirs.keys() & SPLITS.keys()
    assert shared >= {"llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o"}
    assert {name: SPLITS[name].patterns for name in shared} == {name: (theirs[name],) for name in shared}


def transformers_tokenizer(path: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def check_odd_lines(ours: JsonTokenizer, theirs: Any, lines: list[str]) -> None:
    for line in lines:
        for split in (True, False):
            ids = theirs(line, split_special_tokens=split).input_ids
            assert ours.encode(line, split_special=split) == ids, line
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_pieces_of_a_real_model(tmp_path: Path) -> None:
    path = real_file("gemma3.gguf")
    check_odd_lines(opened(path, tmp_path), transformers_tokenizer(path), odd_lines())


def test_byte_level_pairs_of_a_real_model(tmp_path: Path) -> None:
    """transformers does not know the splitting "smollm": it leaves digits together, the original does not."""
    path = real_file("smollm2.gguf")
    ours, theirs = opened(path, tmp_path), transformers_tokenizer(path)
    check_odd_lines(ours, theirs, [line for line in odd_lines() if not any(map(str.isnumeric, line))])
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    check_odd_lines(ours, theirs, odd_lines())
