"""A tokenizer in two steps: SentencePiece cuts the text, ``vocab.json`` gives the ids.

    text -> added tokens cut out -> language code >>fra<< cut off -> SentencePiece -> pieces -> vocab.json

SentencePiece's own ids are never used: such a vocabulary is ordered in another way, and it may lack pieces
that the .spm file has (these become the unknown token) or have more (one vocabulary for two .spm files). The
ids equal those of the original in transformers 5.24.0, the text that of its
``decode(ids, skip_special_tokens=True)``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.cpus import affinity_kept
from pyengine.errors import TokenizerError
from pyengine.formats.limits import EXPANSION, SENTENCEPIECE_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import shorten
from pyengine.native import native
from pyengine.text.detokenizer import CleanUp, Detokenizer, StageMaker, Stripped
from pyengine.text.settings import AddedToken, Settings, read_settings
from pyengine.text.tokenizer import checked_ids, checked_text, clean_up_spaces
from pyengine.text.vocabulary import Vocabulary, read_vocabulary
from pyengine.threads import side_by_side

with affinity_kept():
    import sentencepiece

SOURCE_MODEL_FILE = "source.spm"
TARGET_MODEL_FILE = "target.spm"
VOCABULARY_FILE = "vocab.json"
TARGET_VOCABULARY_FILE = "target_vocab.json"

_MULTIPLES = (8, 16, 32, 64, 128, 256, 512, 1024)  # to one of which tables are padded, if they are
_WORD_START = "\u2581"  # SentencePiece writes a space as this

# Bytes that the library makes of a message or string of a model, which may be two bytes in the file.
_FIELD_COST = 100


class _Model:
    """One SentencePiece model.

    Damage may show only with some texts (pieces that are not UTF-8, say), so that each method may raise
    TokenizerError.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        """``data`` is the content of ``path``."""
        self._path = path
        _check_cost(path, data)
        self._processor = native(sentencepiece.SentencePieceProcessor)
        try:
            native(self._processor.LoadFromSerializedProto, data)
        except (RuntimeError, ValueError) as error:  # its messages, too, may hold bytes that are not UTF-8
            raise TokenizerError(
                f"{path}: expected a SentencePiece model, found {len(data)} bytes: {error!s:.200}"
            ) from error

    def cut(self, text: str) -> list[str]:
        """The pieces of ``text``, normalized; what no piece covers is there as it is."""
        try:
            return native(self._processor.encode, text, out_type=str)
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{self._path}: cannot cut {shorten(text)}: {error!s:.200}") from error

    def join(self, pieces: list[str]) -> str:
        """The text that ``pieces`` make."""
        try:
            text: str = native(self._processor.decode_pieces, pieces)
            return text
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{self._path}: cannot join {shorten(pieces)}: {error!s:.200}") from error

    def __del__(self, ended: Callable[[], bool] = sys.is_finalizing) -> None:
        """Freeing a model is a call, too. Once other threads are gone it needs no care, and globals may be gone."""
        if not ended():
            native(self.__dict__.clear)


class SentencePieceTokenizer:
    """A ``Tokenizer`` over the files named above in a directory.

    ``source_size`` and ``target_size`` are the model's numbers of ids where these are known; those above the pieces
    have no piece and no text. Raises TokenizerError and UnsupportedError as ``open_tokenizer``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        source_size: int | None = None,
        target_size: int | None = None,
        codes: bool = True,
    ) -> None:
        """``codes``: a leading ``>>fra<<`` is a token."""
        self._codes = codes
        settings = read_settings(directory)
        source_data = read_regular(directory / SOURCE_MODEL_FILE, TokenizerError, SENTENCEPIECE_BYTES)
        target_data = read_regular(directory / TARGET_MODEL_FILE, TokenizerError, SENTENCEPIECE_BYTES)

        def read_source() -> tuple[_Model, Vocabulary, Vocabulary]:
            model = _Model(directory / SOURCE_MODEL_FILE, source_data)
            source = read_vocabulary(directory / VOCABULARY_FILE, (settings.unknown, settings.end))
            if not settings.separate_vocabularies:
                return model, source, source
            return model, source, read_vocabulary(directory / TARGET_VOCABULARY_FILE, (settings.unknown, settings.end))

        # The library builds a model without the interpreter's lock: the target's meanwhile.
        calls: list[Callable[[], Any]] = [read_source]
        if target_data != source_data:
            calls.insert(0, lambda: _Model(directory / TARGET_MODEL_FILE, target_data))
        *other, (self._source_model, source, target) = side_by_side(*calls)
        self._target_model = other[0] if other else self._source_model
        self._source_unknown = source.ids[settings.unknown]
        self._target_unknown = target.ids[settings.unknown]

        added = added_tokens(directory, settings, source)
        self._added = {token.content: token for token in added.values()}
        self._added_pattern = None if settings.split_special else _alternatives(self._added)
        self.source_size = _extended_size(directory, source, added)
        self._pieces = target.pieces
        if target is source:
            self._pieces.extend("" for _ in range(self.source_size - len(source.pieces)))
        self.target_size = len(self._pieces)
        for index, token in added.items():
            source.ids[token.content] = index
            # With two vocabularies, too, the source's ids stand for added tokens: so it is in the original.
            if index < self.target_size:
                target.ids[token.content] = index
                self._pieces[index] = token.content
        self._known = self.target_size
        self.source_size = _padded(directory, "source", self.source_size, source_size)
        self.target_size = _padded(directory, "target", self.target_size, target_size)
        self._pieces.extend("" for _ in range(self.target_size - self._known))
        self._source_ids = source.ids
        self._target_ids = target.ids
        self._end = source.ids[settings.end]
        if self._end >= self.target_size:
            raise TokenizerError(
                f"{directory / VOCABULARY_FILE}: {shorten(settings.end)}: expected an id below the target's "
                f"{self.target_size}, found {self._end}"
            )
        self._special = frozenset(settings.special)
        hidden = {source.ids[token] for token in settings.special}
        self._shown = [
            piece if index < self._known and index not in hidden else None for index, piece in enumerate(self._pieces)
        ]
        # The original joins pieces with the source's model unless the vocabularies are separate.
        self._decoder = self._target_model if settings.separate_vocabularies else self._source_model
        self._clean_up_spaces = settings.clean_up_spaces

    def encode_source(self, text: str) -> list[int]:
        """See ``Tokenizer``. A leading ``>>fra<<`` names the target language of a multilingual model."""
        ids = self._encode(text, self._source_model, self._source_ids, self._source_unknown)
        ids.append(self._end)
        return ids

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        """See ``Tokenizer``."""
        ids = self._encode(text, self._target_model, self._target_ids, self._target_unknown)
        if end:
            ids.append(self._end)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        text = ""
        run = [piece for index in checked_ids(ids, self.target_size) if (piece := self._shown[index]) is not None]
        begin = 0
        # Under another id than its own: two vocabularies that disagree on it.
        for place in [place for place, piece in enumerate(run) if piece in self._special]:
            text += self._decoder.join(run[begin:place]) + run[place] + " "
            begin = place + 1
        text += self._decoder.join(run[begin:])
        text = text.replace(_WORD_START, " ").strip()
        return clean_up_spaces(text) if self._clean_up_spaces else text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """See ``Tokenizer``."""
        return [self._pieces[index] for index in checked_ids(ids, self.target_size)]

    def stream(self) -> Detokenizer:
        """See ``Tokenizer``."""
        stages: list[StageMaker] = [lambda: _Words(self._decoder.join, self._special), Stripped]
        if self._clean_up_spaces:
            stages.append(CleanUp)
        return Detokenizer(self._shown_piece, [stage() for stage in stages])

    def _shown_piece(self, index: int) -> str | None:
        """The piece of an id that is part of the text."""
        [known] = checked_ids((index,), self.target_size)
        return self._shown[known]

    def _encode(self, text: str, model: _Model, table: dict[str, int], unknown: int) -> list[int]:
        """The ids of ``text`` without the end token."""
        ids: list[int] = []
        for part in self._split(checked_text(text)):
            if part in self._added and self._added_pattern is not None:
                ids.append(table.get(part, unknown))
                continue
            code, part = _split_language_code(part) if self._codes else ("", part)
            if code:
                ids.append(table.get(code, unknown))
            ids.extend([table.get(piece, unknown) for piece in model.cut(part)])
        return ids

    def _split(self, text: str) -> list[str]:
        """``text`` cut at added tokens, which stay as parts of their own; no part is empty."""
        if self._added_pattern is None:
            return [text] if text else []
        parts = [part for part in self._added_pattern.split(text) if part]
        for i, part in enumerate(parts):
            token = self._added.get(part)
            if token is None:
                continue
            left = parts[i - 1] if i > 0 else ""
            right = parts[i + 1] if i + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[i + 1] = right.lstrip()
            if token.lstrip and left:
                parts[i - 1] = left.rstrip()
            if token.single_word:
                if left and left[-1] != " ":
                    parts[i - 1] += part
                    parts[i] = ""
                elif right and right[0] != " ":
                    parts[i + 1] = part + parts[i + 1]
                    parts[i] = ""
        return [part for part in parts if part]


class _Words:
    """Pieces of a text, joined a word at a time: behind the one before it, so that it keeps its spaces."""

    def __init__(self, join: Callable[[list[str]], str], special: Collection[str]) -> None:
        self._join, self._special = join, special
        self._before: list[str] = []
        self._word: list[str] = []

    def push(self, token: str) -> Iterable[str]:
        if token in self._special:
            made = (*self.finish(), token + " ")
            self._before = []
            return made
        made = self.finish() if token.startswith(_WORD_START) else ()
        self._word.append(token)
        return made

    def finish(self) -> tuple[str, ...]:
        if not self._word:
            return ()
        begin = len(self._join(self._before)) if self._before else 0
        text = self._join(self._before + self._word)[begin:].replace(_WORD_START, " ")
        spaces = all(piece.strip(_WORD_START) == "" for piece in self._word)
        self._before, self._word = [*(self._before if spaces else ()), *self._word], []
        return (text,)


def _check_cost(path: Path, data: bytes) -> None:
    """Raise TokenizerError if to parse a model may take more memory than one of the largest size should.

    What may be the tag of a message or string (wire type 2) and a length is counted: one below 16, since those of more
    bytes take little more than these, or one of several bytes, which may be small all the same.
    """
    tag, length = np.frombuffer(data, np.uint8)[:-1], np.frombuffer(data, np.uint8)[1:]
    fields = np.count_nonzero((tag & 7 == 2) & ((length < 16) | (length >= 128)))
    cost = 2 * len(data) + _FIELD_COST * fields
    if cost > EXPANSION * SENTENCEPIECE_BYTES:
        most = EXPANSION * SENTENCEPIECE_BYTES
        raise TokenizerError(f"{path}: to parse it may take {cost} bytes of memory, expected at most {most}")


def _split_language_code(text: str) -> tuple[str, str]:
    """``>>fra<< Hello`` -> (``>>fra<<``, `` Hello``); the code is empty where there is none."""
    if text.startswith(">>"):
        end = text.find("<<")
        if end >= 0:
            return text[: end + 2], text[end + 2 :]
    return "", text


def _alternatives(contents: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the leftmost added token, the longest of those that start there."""
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def added_tokens(directory: Path, settings: Settings, source: Vocabulary) -> dict[int, AddedToken]:
    """All tokens that are cut out of the text, by id; the next ids go to special ones without an id."""
    added = dict(settings.added)
    known = {token.content: index for index, token in added.items()}
    if len(known) != len(added):
        raise TokenizerError(f"{directory}: the same added token is given two ids")
    following = len(source.ids.keys() | known.keys())
    for content in settings.special:
        if content in known:
            continue
        index = source.ids.get(content)
        if index is None:
            index = following
            following += 1
        added[index] = AddedToken(content)
    return added


def _extended_size(directory: Path, source: Vocabulary, added: dict[int, AddedToken]) -> int:
    """The number of ids with those of added tokens, which have to follow the vocabulary's without a gap."""
    size = len(source.pieces)
    for index in sorted(added):
        if index > size:
            raise TokenizerError(
                f"{directory}: expected the id {size} for the next added token, "
                f"found {index} for {shorten(added[index].content)}"
            )
        size = max(size, index + 1)
    return size


def _padded(directory: Path, side: str, pieces: int, rows: int | None) -> int:
    """The number of ids of a model whose table has ``rows``: as many as pieces, or padded to a multiple."""
    if rows is not None and rows != pieces and all(rows != pieces + -pieces % step for step in _MULTIPLES):
        raise TokenizerError(f"{directory}: {side} vocabulary: expected the model's {rows} pieces, found {pieces}")
    return pieces if rows is None else rows
