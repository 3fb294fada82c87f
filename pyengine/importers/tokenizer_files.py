"""Which tokenizer files of a checkpoint go into a model directory; what is in them is for ``text`` to say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.limits import SENTENCEPIECE_BYTES, TOKENIZER_SETTINGS_BYTES, VOCABULARY_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import load_object, shorten
from pyengine.importers.byte_tokenizer import BYTES, byte_tokenizer
from pyengine.importers.languages import LANGUAGES_FILE, M2M100, RULES, languages_file, m2m_tokens
from pyengine.importers.sentencepiece_json import CLASSES, tokenizer_json

__all__ = ["EXPECTED", "find_tokenizer", "kept_files"]

Files = dict[str, "Path | bytes"]

_SENTENCEPIECE = ("source.spm", "target.spm", "vocab.json")
_TOKENIZERS = ("tokenizer.json",)
EXPECTED = f"{', '.join(_SENTENCEPIECE)}; or {_TOKENIZERS[0]}"
# What transformers' tokenizers of these files are called.
_CLASSES = (None, "MarianTokenizer")
# Those of the line of T5 and BART have one of these beside or in place of tokenizer.json.
_MODELS = ("spiece.model", "sentencepiece.bpe.model")
_BY_MODEL_TYPE = {
    "t5": "T5Tokenizer", "mt5": "T5Tokenizer", "mbart": "MBartTokenizer", "pegasus": "PegasusTokenizer",
    "m2m_100": M2M100,
}  # fmt: skip
_SETTINGS = "tokenizer_config.json"
_TOKENS = "special_tokens_map.json"
_EXTRAS = (_SETTINGS, _TOKENS, "added_tokens.json")
_TEMPLATE = "chat_template.jinja"


def find_tokenizer(directory: Path, config: Mapping[str, Any]) -> tuple[str | None, Files]:
    """(kind, name -> path or content): "sentencepiece", "tokenizers", or None and no files.

    ``config``: config.json, which may say of which class it is. The sentencepiece files win over tokenizer.json,
    because they give the original's ids. TokenizerError if some are there and others missing, UnsupportedError for a
    class of tokenizer that reads them in another way.
    """

    def present(*names: str) -> list[str]:
        # A link to nothing is there as well: opening the tokenizer says so.
        return [name for name in names if os.path.lexists(directory / name)]

    def places(names: list[str]) -> Files:
        return {name: directory / name for name in [*names, *present(*_EXTRAS)]}

    found = present(*_SENTENCEPIECE)
    if len(found) == len(_SENTENCEPIECE):
        if present(_SETTINGS):
            _check_class(directory / _SETTINGS)
        return "sentencepiece", places([*found, *present("target_vocab.json")])
    path = directory / _SETTINGS
    settings = load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES) if present(_SETTINGS) else {}
    name = _class(settings, config)
    if present(*_TOKENIZERS):
        files = places([*_TOKENIZERS, *present(_TEMPLATE)])
        if name is not None and name in RULES:
            content = load_object(directory / _TOKENIZERS[0], TokenizerError, VOCABULARY_BYTES)
            files |= _languages(name, settings, content)
        return "tokenizers", files
    if present("merges.txt"):
        raise UnsupportedError(f"{directory}: merges.txt: expected {_TOKENIZERS[0]}, as transformers writes it")
    models = present(*_MODELS)
    if models and name == M2M100 and present("vocab.json"):
        return "sentencepiece", _m2m(directory, directory / models[0], settings, places(["vocab.json"]))
    if models and name in CLASSES:
        content = tokenizer_json(name, directory / models[0], settings)
        files = places([]) | {"tokenizer.json": json.dumps(content).encode("ascii")}
        return "tokenizers", files | _languages(name, settings, content)
    if name == BYTES:
        return "tokenizers", places([]) | {"tokenizer.json": byte_tokenizer(settings, str(directory / _SETTINGS))}
    if models:
        known = ", ".join([*CLASSES, M2M100])
        raise UnsupportedError(
            f"{directory / models[0]}: of a {shorten(name)}; expected {_TOKENIZERS[0]}, or one of {known}"
        )
    if found:
        missing = ", ".join(name for name in _SENTENCEPIECE if name not in found)
        raise TokenizerError(f"{directory}: {', '.join(found)} without {missing}")
    return None, {}


def kept_files(directory: Path, kind: str | None) -> Files:
    """Those of a tokenizer of that kind in a model directory, as ``find_tokenizer`` found them."""
    if kind is None:
        return {}
    own = (*_SENTENCEPIECE, "target_vocab.json") if kind == "sentencepiece" else (*_TOKENIZERS, _TEMPLATE)
    return {name: directory / name for name in (*own, LANGUAGES_FILE, *_EXTRAS) if os.path.lexists(directory / name)}


def _class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """What transformers would choose, whichever of the two it names."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if named is None and isinstance(config.get("model_type"), str):
        named = _BY_MODEL_TYPE.get(config["model_type"])
    return named.removesuffix("Fast") if isinstance(named, str) else None


def _languages(name: str, settings: Mapping[str, Any], content: Mapping[str, Any]) -> Files:
    """``languages.json``, where special tokens of a tokenizer.json are those of languages; ``name``: of its class."""
    added = content.get("added_tokens")
    tokens = [each.get("content") for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    made = languages_file(name, settings, [each for each in tokens if isinstance(each, str)], "</s>")
    return {} if made is None else {LANGUAGES_FILE: made}


def _m2m(directory: Path, model: Path, settings: Mapping[str, Any], files: Files) -> Files:
    """One model for both sides; tokens of languages have the ids behind those of the vocabulary."""
    first = len(load_object(directory / "vocab.json", TokenizerError, VOCABULARY_BYTES))
    tokens = m2m_tokens(settings, str(directory / _SETTINGS))
    added = settings.get("added_tokens_decoder")
    known = {**added} if isinstance(added, dict) else {}
    for index, token in enumerate(tokens, first):
        known[str(index)] = {"content": token, "special": True}
    content = {**settings, "added_tokens_decoder": known, "additional_special_tokens": tokens}
    content.pop("extra_special_tokens", None)
    made = languages_file(M2M100, settings, tokens, "</s>")
    assert made is not None
    return files | {
        **dict.fromkeys(("source.spm", "target.spm"), read_regular(model, TokenizerError, SENTENCEPIECE_BYTES)),
        _SETTINGS: json.dumps(content).encode("ascii"),
        LANGUAGES_FILE: made,
    }


def _check_class(path: Path) -> None:
    name = load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES).get("tokenizer_class")
    if name not in _CLASSES:
        raise UnsupportedError(f"{path}: tokenizer_class: expected {_CLASSES[1]}, found {shorten(name)}")
