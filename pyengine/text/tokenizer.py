"""What the tasks need from a tokenizer, whatever files it comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import index
from typing import Protocol

import numpy as np

from pyengine.errors import InputError
from pyengine.formats.strict_json import shorten


class Stream(Protocol):
    """The text of token ids that come one by one; the pieces joined are ``decode`` of all ids."""

    def push(self, index: int) -> str:
        """The text that is certain now that ``index`` follows: whole characters, often none.

        Raises InputError: an id outside the vocabulary.
        """

    def finish(self) -> str:
        """The rest of the text. Nothing may be pushed after it."""


class Tokenizer(Protocol):
    """Text to token ids and back for a translation. Immutable, so that several threads may share one.

    The source and the target side may have vocabularies of their own; ids given to ``decode`` and ``pieces``
    are target ids.
    """

    @property
    def source_size(self) -> int:
        """Number of source ids; every id that ``encode_source`` returns is below it."""

    @property
    def target_size(self) -> int:
        """Number of target ids."""

    def encode_source(self, text: str) -> list[int]:
        """The ids of ``text`` as the encoder reads it, with the end token.

        Raises InputError: not a string, lone surrogates.
        """

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        """The ids of ``text`` as the decoder writes it, with the end token (``end``) or as a prefix, without.

        Raises InputError: not a string, lone surrogates.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of target ids; special tokens are skipped.

        Raises InputError: an id outside the vocabulary.
        """

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The piece of each target id, special tokens too.

        Raises InputError: an id outside the vocabulary.
        """

    def stream(self) -> Stream:
        """For target ids that come one by one."""


class TextTokenizer(Protocol):
    """Text to token ids and back where there is one vocabulary. Immutable, so that several threads may share one."""

    @property
    def size(self) -> int:
        """Number of ids; every id that ``encode`` returns is below it."""

    def encode(self, text: str, *, special: bool = True, split_special: bool = True) -> list[int]:
        """The ids of ``text``; ``special``: with the tokens that begin and end a text, those that the files ask for.

        ``split_special``: names of special tokens in the text are text like any other. Without it they are these
        tokens, and if a text begins with those that begin a text, they are not added again.

        Raises InputError: not a string, lone surrogates.
        """

    @property
    def special_tokens(self) -> Collection[str]:
        """The names of special tokens."""

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """The ids of the text that ``parts`` make together, without tokens that begin or end it.

        Each part comes with whether names of special tokens in it are text; elsewhere they are these tokens. Raises
        InputError: lone surrogates.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are skipped.

        Raises InputError: an id outside the vocabulary.
        """

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The piece of each id, special tokens too.

        Raises InputError: an id outside the vocabulary.
        """

    def stream(self) -> Stream:
        """For ids that come one by one."""


def checked_text(text: str) -> str:
    """``text`` itself if it can be tokenized, else InputError."""
    if not isinstance(text, str):
        raise InputError(f"expected text (str), found {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"expected valid Unicode text, found the lone surrogate U+{ord(text[error.start]):04X} "
            f"at character {error.start}"
        ) from None
    return text


def checked_ids(ids: Iterable[int], size: int) -> list[int]:
    """``ids`` (Python or NumPy integers, no booleans) as a list if each lies in [0, size), else InputError."""
    try:
        given = list(ids)
        kinds = set(map(type, given))
        checked = given if kinds == {int} else [index(token) for token in given]
    except TypeError:
        raise InputError(f"expected token ids (integers), found {shorten(ids)}") from None
    if {bool, np.bool_} & kinds:  # older NumPy's booleans are indices, too
        raise InputError(f"expected token ids (integers), found {shorten(given)}")
    if checked and not (min(checked) >= 0 and max(checked) < size):
        wrong = next(token for token in checked if not 0 <= token < size)
        raise InputError(f"expected token ids from 0 to {size - 1}, found {shorten(wrong)}")
    return checked


# In this order: one replacement may make room for another.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def clean_up_spaces(text: str) -> str:
    """Drops spaces around English punctuation and contractions: transformers' ``clean_up_tokenization``."""
    for spaced in _CLEAN_UP:
        text = text.replace(spaced, spaced.strip(" "))
    return text
