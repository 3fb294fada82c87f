"""What the JSON files beside a vocabulary say about special and added tokens.

transformers 5.24.0 is the model: ``tokenizer_config.json``, and where that has no ``added_tokens_decoder``
also the older ``special_tokens_map.json`` and ``added_tokens.json``. All three may be absent.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.limits import ADDED_TOKENS_TEXT, TOKENIZER_SETTINGS_BYTES
from pyengine.formats.strict_json import load_object, shorten

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"

# The order gives ids to special tokens that a vocabulary lacks.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_DEFAULT_TOKENS = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before anything else looks at it."""

    content: str
    lstrip: bool = False  # takes the white space on its left with it
    rstrip: bool = False  # takes the white space on its right with it
    single_word: bool = False  # is plain text where it touches a neighbour that is not a space


@dataclass(frozen=True)
class Settings:
    """The settings of a tokenizer that cuts by SentencePiece and numbers by ``vocab.json``."""

    unknown: str
    end: str
    special: tuple[str, ...]  # skipped in decoding; ``unknown`` and ``end`` are among them
    added: dict[int, AddedToken]  # tokens whose ids a file gives
    separate_vocabularies: bool
    clean_up_spaces: bool
    split_special: bool  # special tokens in the text are plain text


def read_settings(directory: Path) -> Settings:
    """The settings in ``directory``.

    Raises TokenizerError that names file and field, UnsupportedError for options of the SentencePiece processor
    (sampling among them), which would change the ids.
    """
    path = directory / CONFIG_FILE
    config = read_config(directory)
    options = config.get("sp_model_kwargs")
    if options:
        raise UnsupportedError(f"{path}: sp_model_kwargs: expected none, found {shorten(options)}")

    values = {**_DEFAULT_TOKENS, **config}
    if "added_tokens_decoder" in config:
        added = _added_tokens(path, config["added_tokens_decoder"])
    else:
        legacy = directory / SPECIAL_TOKENS_FILE
        if os.path.lexists(legacy):
            values.update(load_object(legacy, TokenizerError, TOKENIZER_SETTINGS_BYTES))
        legacy = directory / ADDED_TOKENS_FILE
        added = _legacy_added_tokens(legacy) if os.path.lexists(legacy) else {}

    given = [name for name in _NAMED_TOKENS if values.get(name) is not None]
    named = {name: _content(path, name, values[name]) for name in given}
    for name in ("unk_token", "eos_token"):
        if name not in named:
            raise TokenizerError(f"{path}: {name}: expected a token, found null")
    special = list(named.values())
    for name, value in values.items():
        if name.endswith("_token") and name not in _NAMED_TOKENS and isinstance(value, str):
            special.append(_content(path, name, value))
    special += _extra_tokens(path, values)
    # They become one pattern, which takes a hundred times as much to compile.
    text = sum(8 + len(content) for content in (*special, *(token.content for token in added.values())))
    if text > ADDED_TOKENS_TEXT:
        count = len(special) + len(added)
        raise TokenizerError(f"{path}: {count} added tokens are too many or too long, more than known tokenizers have")
    return Settings(
        unknown=named["unk_token"],
        end=named["eos_token"],
        special=tuple(dict.fromkeys(special)),
        added=added,
        separate_vocabularies=flag(path, config, "separate_vocabs"),
        clean_up_spaces=flag(path, config, "clean_up_tokenization_spaces"),
        split_special=flag(path, config, "split_special_tokens"),
    )


def special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that the files in ``directory`` name, ``bos_token`` and the like, by that name.

    Raises TokenizerError that names file and field.
    """
    path = directory / CONFIG_FILE
    values = read_config(directory)
    older = directory / SPECIAL_TOKENS_FILE
    if "added_tokens_decoder" not in values and os.path.lexists(older):
        values.update(load_object(older, TokenizerError, TOKENIZER_SETTINGS_BYTES))
    return {name: _content(path, name, values[name]) for name in _NAMED_TOKENS if values.get(name)}


def read_config(directory: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` in ``directory``, empty where there is none. Raises TokenizerError."""
    path = directory / CONFIG_FILE
    return load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES) if os.path.lexists(path) else {}


def flag(path: Path, fields: dict[str, Any], name: str) -> bool:
    """A field of ``path`` that is true or false; absent and null are false. Raises TokenizerError."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"{path}: {name}: expected true or false, found {shorten(value)}")
    return bool(value)


def _content(path: Path, name: str, value: Any) -> str:
    """A token is a string or an object with a ``content``."""
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise TokenizerError(f"{path}: {name}: expected a token, found {shorten(value)}")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(f"{path}: {name}: expected valid Unicode, found {shorten(content)}") from None
    return content


def _extra_tokens(path: Path, values: dict[str, Any]) -> list[str]:
    """``extra_special_tokens``, a list or an object, or its older name."""
    name = "extra_special_tokens" if values.get("extra_special_tokens") else "additional_special_tokens"
    extra = values.get(name) or []
    if isinstance(extra, dict):
        extra = list(extra.values())
    if not isinstance(extra, list):
        raise TokenizerError(f"{path}: {name}: expected a list, found {type(extra).__name__}")
    return [_content(path, name, token) for token in extra]


def _added_tokens(path: Path, table: Any) -> dict[int, AddedToken]:
    """``added_tokens_decoder``: id -> properties."""
    if not isinstance(table, dict):
        raise TokenizerError(f"{path}: added_tokens_decoder: expected an object, found {shorten(table)}")
    added = {}
    for key, fields in table.items():
        name = f"added_tokens_decoder[{key[:20]!r}]"
        if not key.isascii() or not key.isdigit() or len(key) > 9 or not isinstance(fields, dict):
            raise TokenizerError(f"{path}: {name}: expected an id and an object, found {shorten(fields)}")
        flags = {field: flag(path, fields, field) for field in ("lstrip", "rstrip", "single_word")}
        added[int(key)] = AddedToken(_content(path, name, fields), **flags)
    return added


def _legacy_added_tokens(path: Path) -> dict[int, AddedToken]:
    """``added_tokens.json``: token -> id."""
    added = {}
    for content, index in load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES).items():
        if type(index) is not int or index < 0:
            raise TokenizerError(f"{path}: expected an id for {shorten(content)}, found {shorten(index)}")
        added[index] = AddedToken(_content(path, "token", content))
    return added
