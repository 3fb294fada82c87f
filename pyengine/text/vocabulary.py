"""``vocab.json``: the map between pieces and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

from pyengine.errors import TokenizerError
from pyengine.formats.limits import VOCABULARY_BYTES
from pyengine.formats.strict_json import load_object, shorten


class Vocabulary(NamedTuple):
    """Both directions of one vocabulary file of n pieces."""

    ids: dict[str, int]  # piece -> id, n entries
    pieces: list[str]  # id -> piece, n entries


def read_vocabulary(path: Path, required: tuple[str, ...]) -> Vocabulary:
    """The vocabulary in ``path``, whose ids are 0 to n-1, each once.

    The pieces in ``required`` (the unknown and the end token) have to be there. Raises TokenizerError that
    names the file and the first piece or id at fault.
    """
    ids = load_object(path, TokenizerError, VOCABULARY_BYTES)
    count = len(ids)
    pieces: list[str | None] = [None] * count
    if set(map(type, ids.values())) == {int} and min(ids.values()) >= 0 and max(ids.values()) < count:
        for piece, index in ids.items():
            pieces[index] = piece
    if None in pieces:
        _refuse(path, ids)
    try:
        "".join(ids).encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{path}: a piece is not valid Unicode: {error.reason}") from error
    for piece in required:
        if piece not in ids:
            raise TokenizerError(f"{path}: expected a piece {shorten(piece)}, found {count} others")
    return Vocabulary(ids, pieces)  # type: ignore[arg-type]  # n distinct ids below n leave no None


def _refuse(path: Path, ids: dict[str, object]) -> NoReturn:
    """Raise for the first id that is none, or that came before."""
    count = len(ids)
    before: dict[int, str] = {}
    for piece, index in ids.items():
        if type(index) is not int or not 0 <= index < count:
            raise TokenizerError(
                f"{path}: expected the ids 0 to {count - 1} for its {count} pieces, "
                f"found {shorten(index)} for {shorten(piece)}"
            )
        if index in before:
            raise TokenizerError(
                f"{path}: expected each id once, found {index} for {shorten(before[index])} and {shorten(piece)}"
            )
        before[index] = piece
    raise AssertionError("every id occurs once")
