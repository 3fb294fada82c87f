"""Which tokenizer files of a checkpoint go into a model directory, and whether they fit its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyengine.errors import TokenizerError
from pyengine.formats.strict_json import load_object, shorten

__all__ = ["find_tokenizer"]

_SENTENCEPIECE = ("source.spm", "target.spm", "vocab.json")
_TARGET_VOCAB = "target_vocab.json"
_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def find_tokenizer(
    directory: Path, source_vocab: int, target_vocab: int
) -> tuple[str | None, dict[str, Path]]:
    """(kind, name -> path): "sentencepiece", "tokenizers", or None and no files.

    The sentencepiece files win over tokenizer.json, because they give the original's ids. TokenizerError if
    some are there and others missing, or if an id lies outside the model's table.
    """
    present = [name for name in _SENTENCEPIECE if (directory / name).is_file()]
    separate = (directory / _TARGET_VOCAB).is_file()
    if len(present) == len(_SENTENCEPIECE):
        kind, names = "sentencepiece", [*_SENTENCEPIECE, *([_TARGET_VOCAB] if separate else [])]
        _check_ids(directory / "vocab.json", source_vocab if separate else min(source_vocab, target_vocab))
        if separate:
            _check_ids(directory / _TARGET_VOCAB, target_vocab)
        elif _wants_separate(directory):
            raise TokenizerError(
                f"{directory}: tokenizer_config.json has separate_vocabs, but {_TARGET_VOCAB} is missing"
            )
    elif (directory / "tokenizer.json").is_file():
        kind, names = "tokenizers", ["tokenizer.json"]
        _check_tokenizer_json(directory / "tokenizer.json", min(source_vocab, target_vocab))
    elif present:
        missing = ", ".join(name for name in _SENTENCEPIECE if name not in present)
        raise TokenizerError(f"{directory}: {', '.join(present)} without {missing}")
    else:
        return None, {}
    names += [name for name in _EXTRAS if (directory / name).is_file()]
    return kind, {name: directory / name for name in names}


def _wants_separate(directory: Path) -> bool:
    path = directory / "tokenizer_config.json"
    return path.is_file() and bool(load_object(path, TokenizerError).get("separate_vocabs"))


def _check_ids(path: Path, size: int) -> None:
    """Every id of a piece -> id file is an integer below ``size``, and none occurs twice."""
    vocab = load_object(path, TokenizerError)
    if not vocab:
        raise TokenizerError(f"{path}: no pieces")
    _check_range(path, vocab.items(), size)
    different = len(set(vocab.values()))
    if different != len(vocab):
        raise TokenizerError(f"{path}: {len(vocab)} pieces have only {different} different ids")


def _check_range(path: Path, pieces: Any, size: int) -> None:
    for piece, number in pieces:
        if type(number) is not int or not 0 <= number < size:
            raise TokenizerError(
                f"{path}: piece {shorten(piece)} has id {shorten(number)}, "
                f"expected an integer from 0 to {size - 1}"
            )


def _check_tokenizer_json(path: Path, size: int) -> None:
    """The ids of a tokenizers file: the model's vocabulary (by piece, or a list by id) and added tokens."""
    data = load_object(path, TokenizerError)
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        _check_range(path, vocab.items(), size)
    elif isinstance(vocab, list):
        _check_range(path, ((shorten(piece), number) for number, piece in enumerate(vocab)), size)
    else:
        raise TokenizerError(f"{path}: model.vocab: expected an object or a list, found {shorten(vocab)}")
    added = data.get("added_tokens", [])
    if not isinstance(added, list) or any(not isinstance(token, dict) for token in added):
        raise TokenizerError(f"{path}: added_tokens: expected a list of objects, found {shorten(added)}")
    _check_range(path, ((token.get("content"), token.get("id")) for token in added), size)
