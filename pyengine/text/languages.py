"""A tokenizer whose texts say in which language they are.

``languages.json`` in a model directory:

    tokens   {"eng_Latn": "eng_Latn", ...}: the code of each language, and its token
    source   where the token of a source stands: at its "begin", or at its "end", behind the token that ends it
    target   how a target is told its language: "first" is the token that has to follow the start token, "start" the
             start token itself
    default  the code of a source of which nothing is said
    end      the token that ends a text
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pyengine.errors import OptionError, TokenizerError
from pyengine.formats.limits import TOKENIZER_SETTINGS_BYTES
from pyengine.formats.strict_json import Fields, load_object, shorten
from pyengine.text.tokenizer import Stream, Tokenizer

__all__ = ["LANGUAGES_FILE", "Languages", "MultilingualTokenizer", "has_languages"]

LANGUAGES_FILE = "languages.json"

_CLOSE = 5  # codes in a message


def has_languages(directory: Path) -> bool:
    """Whether the tokenizer in ``directory`` is one of these; a link to nothing is damage, not absence."""
    return os.path.lexists(directory / LANGUAGES_FILE)


class Languages:
    """The codes of languages and their ids; ``starts``: a target's is its start token, else the one behind it."""

    def __init__(self, ids: dict[str, int], starts: bool) -> None:
        self._ids = ids
        self.starts = starts

    @property
    def codes(self) -> Sequence[str]:
        return list(self._ids)

    def __contains__(self, id: object) -> bool:
        """Whether it is that of a language."""
        return id in self._ids.values()

    def id(self, code: object, name: str) -> int:
        """Of the language ``code``. OptionError, which calls it ``name`` and lists close ones: there is none."""
        if isinstance(code, str) and code in self._ids:
            return self._ids[code]
        close = difflib.get_close_matches(str(code)[:40].lower(), [each.lower() for each in self._ids], _CLOSE, 0.4)
        named = [each for each in self._ids if each.lower() in close] or self.codes[:_CLOSE]
        raise OptionError(
            f"{name} is {shorten(code)}; expected the code of one of {len(self._ids)} languages, such as "
            f"{', '.join(named)}",
            keywords=(name,),
        )


class MultilingualTokenizer:
    """A ``Tokenizer`` of one vocabulary around another that knows no languages.

    Raises TokenizerError: languages.json is damaged, or names a token that the vocabulary lacks.
    """

    def __init__(self, directory: Path, tokenizer: Tokenizer) -> None:
        path = directory / LANGUAGES_FILE
        fields = Fields(load_object(path, TokenizerError, TOKENIZER_SETTINGS_BYTES), str(path), TokenizerError)
        self._tokenizer = tokenizer
        self._at_end = fields.choice("source", ("begin", "end")) == "end"
        starts = fields.choice("target", ("first", "start")) == "start"
        default, end = fields.text("default"), fields.text("end")
        given = Fields(fields.take("tokens"), f"{path}: tokens", TokenizerError)
        tokens = {code: given.text(code) for code in given.remaining()}
        fields.finish()
        if default not in tokens:
            expected = f"expected one of the {len(tokens)} languages"
            raise TokenizerError(f"{path}: default: {expected}, found {shorten(default)}")
        self.languages = Languages({code: self._one(path, token) for code, token in tokens.items()}, starts)
        self._default, self._end = default, self._one(path, end)

    @property
    def source_size(self) -> int:
        return self._tokenizer.source_size

    @property
    def target_size(self) -> int:
        return self._tokenizer.target_size

    def encode_source(self, text: str) -> list[int]:
        """See ``Tokenizer``: in the language that texts are in of which nothing is said."""
        return self.encode_from(text, self._default)

    def encode_from(self, text: str, code: object) -> list[int]:
        """The ids of ``text`` in a language. Raises InputError as ``Tokenizer``, OptionError: it has no such one."""
        language = self.languages.id(code, "source")
        ids = [*self._tokenizer.encode_target(text, end=False), self._end]
        return [*ids, language] if self._at_end else [language, *ids]

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        """See ``Tokenizer``: without the token of a language."""
        ids = self._tokenizer.encode_target(text, end=False)
        return [*ids, self._end] if end else ids

    def decode(self, ids: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        return self._tokenizer.decode(ids)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """See ``Tokenizer``."""
        return self._tokenizer.pieces(ids)

    def stream(self) -> Stream:
        """See ``Tokenizer``."""
        return self._tokenizer.stream()

    def _one(self, path: Path, token: str) -> int:
        ids = self._tokenizer.encode_target(token, end=False)
        if len(ids) != 1 or self._tokenizer.pieces(ids) != [token]:
            raise TokenizerError(f"{path}: expected a special token of the vocabulary, found {shorten(token)}")
        return ids[0]
