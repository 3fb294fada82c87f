"""A SentencePiece model as its file has it: pieces, and what the text goes through before them.

The file is a message of protocol buffers: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyengine.errors import TokenizerError
from pyengine.formats.limits import SENTENCEPIECE_BYTES
from pyengine.formats.regular_files import read_regular

__all__ = ["CONTROL", "UNIGRAM", "USER_DEFINED", "Model", "read_model"]

UNIGRAM = 1  # model_type
CONTROL, USER_DEFINED = 3, 4  # types of pieces
_NORMAL = 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Model:
    """pieces: (text, score, type) by id; charsmap: of the normalizer, empty where there is none."""

    pieces: list[tuple[str, float, int]]
    model_type: int
    charsmap: bytes


def read_model(path: Path) -> Model:
    """The model in ``path``. Raises TokenizerError that names the file."""
    data = read_regular(path, TokenizerError, SENTENCEPIECE_BYTES)
    pieces: list[tuple[str, float, int]] = []
    kind, charsmap = UNIGRAM, b""
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == 2 and isinstance(value, bytes):
                kind = next((each for number, each in _fields(value) if number == 3 and isinstance(each, int)), kind)
            elif field == 3 and isinstance(value, bytes):
                found = (each for number, each in _fields(value) if number == 2 and isinstance(each, bytes))
                charsmap = next(found, charsmap)
    except (ValueError, IndexError, struct.error):
        pieces = []
    if not pieces:
        raise TokenizerError(f"{path}: expected a SentencePiece model, found {len(data)} bytes")
    return Model(pieces, kind, charsmap)


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, _NORMAL
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            [score] = struct.unpack("<f", value)
        elif field == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message. ValueError, IndexError: it is none."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while place < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            yield number, varint()
            continue
        if wire not in (_EIGHT, _BYTES, _FOUR):
            raise ValueError(f"no such wire type: {wire}")
        size = varint() if wire == _BYTES else 8 if wire == _EIGHT else 4
        if size > len(data) - place:
            raise ValueError("a field that ends behind the message")
        place += size
        yield number, data[place - size : place]
