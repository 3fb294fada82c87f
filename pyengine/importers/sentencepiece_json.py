"""From a SentencePiece model alone to a tokenizer.json, as transformers' classes make one of it.

Reference: transformers 5.24.0, tokenization_t5.py, tokenization_pegasus.py, tokenization_mbart.py and
tokenization_mbart50.py, with convert_slow_tokenizer.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.importers.languages import MBART, MBART50
from pyengine.importers.sentencepiece_file import CONTROL, UNIGRAM, Model, read_model

__all__ = ["CLASSES", "tokenizer_json"]

Pieces = list[tuple[str, float]]

_MARK = "\u2581"  # what SentencePiece has for a space
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<mask_1>", "<mask_2>")
_EXTRA_IDS, _MOST_EXTRA_IDS = 100, 10000  # of T5, for what was left out of a text
_OFFSET = 103  # of Pegasus, whose first ids were for its training
_METASPACE = {"type": "Metaspace", "replacement": _MARK, "prepend_scheme": "always", "split": True}
_WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _METASPACE]}
_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_NO_LINES = {"type": "Replace", "pattern": {"Regex": "\n"}, "content": " "}


@dataclass(frozen=True)
class _Class:
    """Of transformers. pieces: by id, of a model's pieces and the settings; special: what of these is no text."""

    pieces: Callable[[Model, Mapping[str, Any], str], Pieces]
    special: Callable[[str], bool]
    normalizers: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]  # of that of the model, if it has one
    pre_tokenizer: dict[str, Any]
    template: Sequence[str]


def tokenizer_json(name: str, path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer that the class ``name``, one of CLASSES, makes of the model in ``path``.

    ``settings``: of tokenizer_config.json. Raises TokenizerError, UnsupportedError for a model of another type.
    """
    model, kind = read_model(path), CLASSES[name]
    if model.model_type != UNIGRAM:
        raise UnsupportedError(f"{path}: model_type {model.model_type}: expected {UNIGRAM}, unigram; or tokenizer.json")
    pieces = kind.pieces(model, settings, str(path))
    ids = {text: index for index, (text, _) in reversed(list(enumerate(pieces)))}
    lacking = [text for text in ("<unk>", *kind.template) if text not in ids and text != "$A"]
    if lacking:
        raise TokenizerError(f"{path}: expected pieces {', '.join(lacking)} for a {name}, found {len(pieces)} others")
    controls = {text for text, _, each in model.pieces if each == CONTROL}
    special = [text for text in ids if kind.special(text) or text in controls]
    charsmap = base64.b64encode(model.charsmap).decode("ascii")
    given = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if model.charsmap else []
    normalizers = kind.normalizers(given)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(ids[text], text) for text in special],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": kind.pre_tokenizer,
        "post_processor": _template(kind.template, ids),
        "decoder": _METASPACE,
        "model": {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": pieces, "byte_fallback": False},
    }


def _t5(model: Model, settings: Mapping[str, Any], where: str) -> Pieces:
    count = settings.get("extra_ids", _EXTRA_IDS)
    if type(count) is not int or not 0 <= count <= _MOST_EXTRA_IDS:
        raise TokenizerError(f"{where}: extra_ids: expected an integer to {_MOST_EXTRA_IDS}, found {shorten(count)}")
    return [*_plain(model), *((f"<extra_id_{i}>", 0.0) for i in range(count - 1, -1, -1))]


def _pegasus(model: Model, settings: Mapping[str, Any], where: str) -> Pieces:
    first = [(text, 0.0) for text in ("<pad>", "</s>", "<mask_1>", "<mask_2>")]
    return [*first, *((f"<unk_{i}>", -100.0) for i in range(2, _OFFSET)), *_plain(model)[2:]]


def _fairseq(codes: Sequence[str]) -> Callable[[Model, Mapping[str, Any], str], Pieces]:
    """With the first ids of fairseq, and tokens of languages behind the pieces."""
    first = [(text, 0.0) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    last = [(text, 0.0) for text in (*codes, "<mask>")]
    return lambda model, settings, where: [*first, *_plain(model)[3:], *last]


def _plain(model: Model) -> Pieces:
    return [(text, score) for text, score, _ in model.pieces]


CLASSES: dict[str, _Class] = {
    "T5Tokenizer": _Class(
        _t5, lambda text: text in _SPECIAL or text.startswith("<extra_id_"), list, _WORDS, ("$A", "</s>")
    ),
    "PegasusTokenizer": _Class(
        _pegasus, lambda text: text in _SPECIAL or text.startswith("<unk_"),
        lambda given: [*given, _ONE_SPACE] if given else [_NO_LINES, _ONE_SPACE], _METASPACE, ("$A", "</s>"),
    ),
    "MBartTokenizer": _Class(
        _fairseq(MBART), lambda text: text in _SPECIAL or text in MBART, lambda given: [], _WORDS,
        ("$A", "</s>", "en_XX"),
    ),
    "MBart50Tokenizer": _Class(
        _fairseq(MBART50), lambda text: text in _SPECIAL or text in MBART50, lambda given: [*given, _ONE_SPACE],
        _METASPACE, ("en_XX", "$A", "</s>"),
    ),
}  # fmt: skip


def _added(index: int, text: str) -> dict[str, Any]:
    """A special token; what stands for what was left out takes the space before it."""
    flags = {"single_word": False, "lstrip": text in ("<mask>",), "rstrip": False, "normalized": False}
    return {"id": index, "content": text, **flags, "special": True}


def _template(parts: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    def place(text: str) -> dict[str, Any]:
        if text in ("$A", "$B"):
            return {"Sequence": {"id": text[1:], "type_id": 0}}
        return {"SpecialToken": {"id": text, "type_id": 0}}

    both = [each for text in parts for each in (("$A", "$B") if text == "$A" else (text,))]
    return {
        "type": "TemplateProcessing",
        "single": [place(text) for text in parts],
        "pair": [place(text) for text in both],
        "special_tokens": {
            text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in parts if text != "$A"
        },
    }
