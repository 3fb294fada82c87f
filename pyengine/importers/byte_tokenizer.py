"""The tokenizer of ByT5, which has no file: a byte is a token. Reference: transformers 5.24.0, tokenization_byt5.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyengine.errors import TokenizerError
from pyengine.formats.strict_json import shorten

__all__ = ["BYTES", "byte_tokenizer"]

BYTES = "ByT5Tokenizer"

_SPECIAL = ("<pad>", "</s>", "<unk>")
_EXTRA_IDS, _MOST_EXTRA_IDS = 125, 10000
# The characters by which the package's byte level writes bytes: those that can be printed, and others from 256 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = {byte: 256 + i for i, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)}


def byte_tokenizer(settings: Mapping[str, Any], where: str) -> bytes:
    """A tokenizer.json; ``settings``: of tokenizer_config.json, which is ``where``. Raises TokenizerError."""
    listed = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    count = len(listed) if isinstance(listed, list) else settings.get("extra_ids", _EXTRA_IDS)  # a list: of all of them
    if type(count) is not int or not 0 <= count <= _MOST_EXTRA_IDS:
        raise TokenizerError(f"{where}: extra_ids: expected an integer to {_MOST_EXTRA_IDS}, found {shorten(count)}")
    letters = [chr(_OTHERS.get(byte, byte)) for byte in range(256)]
    tokens = [*_SPECIAL, *letters, *(f"<extra_id_{i}>" for i in range(count))]
    special = [token for token in tokens if token not in letters]
    ids = {token: index for index, token in enumerate(tokens)}
    flags = {"single_word": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, end]
    # Bytes that are no character are left out.
    nothing = {"type": "Replace", "pattern": {"String": "\ufffd"}, "content": ""}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[token], "content": token, "lstrip": token in _SPECIAL, "rstrip": token in _SPECIAL, **flags}
            for token in special
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [ids["</s>"]], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [level, nothing]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": ids, "merges": [],
        },
    }  # fmt: skip
    return json.dumps(content).encode("ascii")
