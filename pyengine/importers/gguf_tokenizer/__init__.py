"""From the metadata of a GGUF file to the files of a tokenizer.

The ids are llama.cpp's, of which such files come: some originals normalize the text as well (NFC), which no GGUF file
says. Where llama.cpp's patterns approach those of the original, the original's hold (``splits``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.limits import TEMPLATE_BYTES, TOKENIZER_SETTINGS_BYTES, VOCABULARY_BYTES
from pyengine.formats.strict_json import shorten
from pyengine.importers.gguf_tokenizer.kinds import KINDS, Parts
from pyengine.importers.gguf_tokenizer.metadata import Metadata, TokenType, Vocabulary

__all__ = ["tokenizer_files_of"]

_MODEL = "tokenizer.ggml.model"
_NONE = (None, "none", "no_vocab")
_TEMPLATE = "tokenizer.chat_template"


def tokenizer_files_of(metadata: Mapping[str, Any], where: str = "metadata") -> dict[str, bytes]:
    """Name -> content of tokenizer.json, tokenizer_config.json and chat_template.jinja; none without a tokenizer.

    ``metadata``: values of Python by key. ``where`` begins messages. Raises TokenizerError for what is damaged or
    contradicts itself, UnsupportedError for a kind of tokenizer or of splitting that the engine lacks.
    """
    values = Metadata(metadata, where)
    name = values.text(_MODEL)
    if name in _NONE:
        return {}
    if name not in KINDS:
        raise UnsupportedError(f"{where}: {_MODEL}: {shorten(name)}; supported: {', '.join(KINDS)}")
    vocabulary = values.vocabulary()
    parts = KINDS[name](values, vocabulary)
    named = {name: parts.tokens[index] for name, index in vocabulary.named.items()}
    config = {**named, "clean_up_tokenization_spaces": False}
    files = {
        "tokenizer.json": _encoded(_tokenizer(parts, vocabulary), where, VOCABULARY_BYTES),
        "tokenizer_config.json": _encoded(config, where, TOKENIZER_SETTINGS_BYTES),
    }
    if (template := values.text(_TEMPLATE)) is not None:
        if len(data := template.encode()) > TEMPLATE_BYTES:
            values.fail(_TEMPLATE, f"a text of at most {TEMPLATE_BYTES} bytes", f"{len(data)} bytes")
        files["chat_template.jinja"] = data
    return files


def _encoded(content: dict[str, Any], where: str, limit: int) -> bytes:
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    if len(data) > limit:
        raise TokenizerError(f"{where}: expected a tokenizer of at most {limit} bytes, found {len(data)}")
    return data


def _tokenizer(parts: Parts, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(parts, vocabulary),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": _post_processor(parts),
        "decoder": parts.decoder,
        "model": parts.model,
    }


def _added_tokens(parts: Parts, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """What is cut out of a text: tokens of users always, special ones where the caller says so."""
    added = vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    return [
        {
            "id": index,
            "content": parts.tokens[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": parts.tokens[index] in parts.stripping,
            "normalized": parts.normalized and vocabulary.types[index] is TokenType.USER_DEFINED,
            "special": vocabulary.types[index] is not TokenType.USER_DEFINED,
        }
        for index in added.values()
    ]


def _post_processor(parts: Parts) -> dict[str, Any] | None:
    """What adds the begin and the end token."""
    if parts.begin is None and parts.end is None:
        return None

    def token(index: int | None, side: int) -> list[dict[str, Any]]:
        return [] if index is None else [{"SpecialToken": {"id": parts.tokens[index], "type_id": side}}]

    def text(name: str, side: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": side}}

    first = [*token(parts.begin, 0), text("A", 0), *token(parts.end, 0)]
    special = {
        parts.tokens[index]: {"id": parts.tokens[index], "ids": [index], "tokens": [parts.tokens[index]]}
        for index in (parts.begin, parts.end)
        if index is not None
    }
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, text("B", 1), *token(parts.end, 1)],
        "special_tokens": special,
    }
