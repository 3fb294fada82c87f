"""Which tokenizer files of a checkpoint go into a model directory; what is in them is for ``text`` to say."""

from __future__ import annotations

import os
from pathlib import Path

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.limits import TOKENIZER_SETTINGS_BYTES
from pyengine.formats.strict_json import load_object, shorten

__all__ = ["EXPECTED", "find_tokenizer"]

_SENTENCEPIECE = ("source.spm", "target.spm", "vocab.json")
_TOKENIZERS = ("tokenizer.json",)
EXPECTED = f"{', '.join(_SENTENCEPIECE)}; or {_TOKENIZERS[0]}"
# What transformers' tokenizers of these files are called.
_CLASSES = (None, "MarianTokenizer")
_SETTINGS = "tokenizer_config.json"
_EXTRAS = (_SETTINGS, "special_tokens_map.json", "added_tokens.json")
_TEMPLATE = "chat_template.jinja"


def find_tokenizer(directory: Path) -> tuple[str | None, dict[str, Path]]:
    """(kind, name -> path): "sentencepiece", "tokenizers", or None and no files.

    The sentencepiece files win over tokenizer.json, because they give the original's ids. TokenizerError if
    some are there and others missing, UnsupportedError for a class of tokenizer that reads them in another way.
    """

    def present(*names: str) -> list[str]:
        # A link to nothing is there as well: opening the tokenizer says so.
        return [name for name in names if os.path.lexists(directory / name)]

    found = present(*_SENTENCEPIECE)
    if len(found) == len(_SENTENCEPIECE):
        kind = "sentencepiece"
        if present(_SETTINGS):
            _check_class(directory / _SETTINGS)
        found += present("target_vocab.json")
    elif present(*_TOKENIZERS):
        kind = "tokenizers"
        found = [*_TOKENIZERS, *present(_TEMPLATE)]
    elif present("merges.txt"):
        raise UnsupportedError(f"{directory}: merges.txt: expected {_TOKENIZERS[0]}, as transformers writes it")
    elif found:
        missing = ", ".join(name for name in _SENTENCEPIECE if name not in found)
        raise TokenizerError(f"{directory}: {', '.join(found)} without {missing}")
    else:
        return None, {}
    return kind, {name: directory / name for name in [*found, *present(*_EXTRAS)]}


def _check_class(path: Path) -> None:
    name = load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES).get("tokenizer_class")
    if name not in _CLASSES:
        raise UnsupportedError(f"{path}: tokenizer_class: expected {_CLASSES[1]}, found {shorten(name)}")
