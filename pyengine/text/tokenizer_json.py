"""A tokenizer in one ``tokenizer.json``, run by the tokenizers package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from pyengine.errors import EngineError, TokenizerError
from pyengine.formats.limits import EXPANSION, VOCABULARY_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import check_cost, parse_object
from pyengine.native import native
from pyengine.text.detokenizer import Detokenizer, stages_of
from pyengine.text.settings import CONFIG_FILE, flag, read_config
from pyengine.text.tokenizer import checked_ids, checked_text, clean_up_spaces

TOKENIZER_FILE = "tokenizer.json"

# Bytes of a node in the trees that the library makes of a Unigram model's pieces, and of added tokens.
_NODE_COST = 300
# A Unigram model's vocabulary is a list. Letters that are written as escapes might hide it.
_PIECE_TREE = re.compile(rb'"vocab"\s*:\s*\[')
_LETTER_ESCAPE = re.compile(rb"\\u00[4-7]")
_CONTENT = re.compile(rb'"content"\s*:\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)

# Noncharacters that stand for special tokens where the package is to see no others, by what these take with them: the
# white space on their left, on their right.
_MARKS = {"\ufdd2": (False, False), "\ufdd3": (True, False), "\ufdd4": (False, True), "\ufdd5": (True, True)}
_NO_MARKS = dict.fromkeys(map(ord, _MARKS))


class JsonTokenizer:
    """A ``TextTokenizer``, and a ``Tokenizer`` with one vocabulary for both sides.

    ``size`` is the model's number of ids where it is known: embedding tables are often padded, and the ids
    above the tokenizer's have no piece and no text. A file may be wrong in ways that show only with some texts:
    any method may raise TokenizerError.
    """

    def __init__(self, directory: Path, *, size: int | None = None) -> None:
        path = directory / TOKENIZER_FILE
        data = read_regular(path, TokenizerError, VOCABULARY_BYTES)
        strings = len(data) + _NODE_COST // 2 * _count_nodes(path, data)
        check_cost(data, strings, str(path), TokenizerError, VOCABULARY_BYTES)
        with _failures_of(path, f"expected a tokenizer, found {len(data)} bytes"):
            self._tokenizer = native(tokenizers.Tokenizer.from_buffer, data)
            # What a file says about batches: here every text is encoded by itself, and whole.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            count = self._tokenizer.get_vocab_size(with_added_tokens=True)
            if size is None or count > size:  # else nothing is above, or is found when it is needed: see _ids
                count = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if count == 0:
            raise TokenizerError(f"{path}: expected a vocabulary, found none")
        if size is not None and count > size:
            raise TokenizerError(f"{path}: expected ids below the model's {size}, found the id {count - 1}")
        self._path = path
        self.size = self.source_size = self.target_size = count if size is None else size
        self._clean_up_spaces = _reads_clean_up(directory, self._tokenizer)
        added = self._tokenizer.get_added_tokens_decoder()
        marks = {flags: mark for mark, flags in _MARKS.items()}
        self._special = {
            token.content: (index, marks[token.lstrip, token.rstrip]) for index, token in added.items() if token.special
        }
        self._special_ids = frozenset(index for index, _ in self._special.values())
        # Made when a text first needs them.
        self._splitting: tokenizers.Tokenizer | None = None
        self._marking: tokenizers.Tokenizer | None = None
        decoder = self._tokenizer.decoder
        self._stages = stages_of(
            None if decoder is None else json.loads(decoder.__getstate__()), self._decode_tokens, self._clean_up_spaces
        )

    def encode_source(self, text: str) -> list[int]:
        """See ``Tokenizer``; the end token is the file's to add (its post-processor), and it may add others."""
        return self._encode(text, special=True)

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        """See ``Tokenizer``; with ``end`` as ``encode_source``, without it the text alone."""
        return self._encode(text, special=end)

    def encode(self, text: str, *, special: bool = True, split_special: bool = True) -> list[int]:
        """See ``TextTokenizer``."""
        checked_text(text)
        if split_special and self._splitting is not None:
            return self._ids(self._run(self._splitting, text, special).ids)
        found = self._run(self._tokenizer, text, special)
        ids: list[int] = found.ids
        if not self._special_ids.isdisjoint(ids):
            added = found.special_tokens_mask  # the others come from the text
            if not split_special:
                begin = next((i for i, mask in enumerate(added) if not mask), len(ids))
                return self._ids(ids[begin:] if begin and ids[begin : 2 * begin] == ids[:begin] else ids)
            if any(index in self._special_ids and not mask for index, mask in zip(ids, added)):
                splitting = self._splitting = self._copy()
                ids = self._run(splitting, text, special).ids
        return self._ids(ids)

    @property
    def special_tokens(self) -> Collection[str]:
        """See ``TextTokenizer``."""
        return self._special.keys()

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """See ``TextTokenizer``."""
        if not any(split for _, split in parts):
            return self.encode("".join(part for part, _ in parts), special=False, split_special=False)
        if self._marking is None:
            marking = self._copy()
            for mark, (left, right) in _MARKS.items():
                token = tokenizers.AddedToken(mark, lstrip=left, rstrip=right, normalized=False, special=False)
                marking.add_tokens([token])
            self._marking = marking
        found: list[int] = []

        def marked(match: re.Match[str]) -> str:
            index, mark = self._special[match[0]]
            found.append(index)
            return mark

        names = re.compile("|".join(map(re.escape, sorted(self._special, key=len, reverse=True))))
        plain = [(checked_text(part).translate(_NO_MARKS), split) for part, split in parts]
        text = "".join(part if split else names.sub(marked, part) for part, split in plain)
        ids: list[int] = self._run(self._marking, text, special=False).ids
        marks = {self._marking.token_to_id(mark) for mark in _MARKS}
        special = iter(found)
        return self._ids([next(special) if index in marks else index for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        known = checked_ids(ids, self.size)
        with _failures_of(self._path, "cannot decode token ids"):
            text = native(self._tokenizer.decode, known, skip_special_tokens=True)
        return clean_up_spaces(text) if self._clean_up_spaces else text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """See ``Tokenizer``; an id without a piece gives the empty string."""
        return [self._tokenizer.id_to_token(index) or "" for index in checked_ids(ids, self.size)]

    def stream(self) -> Detokenizer:
        """See ``TextTokenizer``."""
        return Detokenizer(self._token_of, [stage() for stage in self._stages])

    def _token_of(self, index: int) -> str | None:
        """The piece of an id that is part of the text."""
        token: str | None = self._tokenizer.id_to_token(*checked_ids((index,), self.size))
        return None if token in self._special else token

    def _decode_tokens(self, tokens: list[str]) -> str:
        decoder = self._tokenizer.decoder
        with _failures_of(self._path, "cannot decode tokens"):
            text: str = native(decoder.decode, tokens)
        return text

    def _copy(self) -> tokenizers.Tokenizer:
        """One for which special tokens in a text are text: a setting of the whole object, which other threads use."""
        with _failures_of(self._path, "cannot be read again"):
            copy = native(tokenizers.Tokenizer.from_str, native(self._tokenizer.to_str))
        copy.encode_special_tokens = True
        return copy

    def _run(self, tokenizer: tokenizers.Tokenizer, text: str, special: bool) -> tokenizers.Encoding:
        with _failures_of(self._path, "cannot encode the text"):
            return native(tokenizer.encode, text, add_special_tokens=special)

    def _ids(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.size:  # the post-processor has ids of its own, and a vocabulary may leave some out
            raise TokenizerError(f"{self._path}: expected ids below {self.size}, found {max(ids)}")
        return ids

    def _encode(self, text: str, *, special: bool) -> list[int]:
        checked_text(text)
        return self._ids(self._run(self._tokenizer, text, special).ids)


def _count_nodes(path: Path, data: bytes) -> int:
    """How many nodes trees of the pieces and added tokens have at most: one for each byte that a text does not share.

    0 for a file that is too small for them to matter. Raises TokenizerError as ``parse_object``.
    """
    if 2 * _NODE_COST * len(data) <= EXPANSION * VOCABULARY_BYTES:
        return 0
    if not _PIECE_TREE.search(data) and not _LETTER_ESCAPE.search(data):
        return sum(map(len, _CONTENT.findall(data)))
    content = parse_object(data, str(path), TokenizerError, VOCABULARY_BYTES)
    model, added = content.get("model"), content.get("added_tokens")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    texts = [entry[0] for entry in pieces if isinstance(entry, list) and entry] if isinstance(pieces, list) else []
    texts += [token.get("content") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    ordered = sorted(text.encode("utf-8", "surrogatepass") for text in texts if isinstance(text, str))
    shared = sum(len(os.path.commonprefix(pair)) for pair in zip(ordered, ordered[1:]))
    return sum(map(len, ordered)) - shared


@contextmanager
def _failures_of(path: Path, what: str) -> Iterator[None]:
    """Turns what the package raises into TokenizerError; a panic inside it is no ``Exception``."""
    try:
        yield
    except EngineError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path}: {what}: {error!s:.200}") from error


def _reads_clean_up(directory: Path, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether spaces before punctuation are dropped; never for BPE, as in transformers 5.24.0."""
    wanted = flag(directory / CONFIG_FILE, read_config(directory), "clean_up_tokenization_spaces")
    return wanted and not isinstance(tokenizer.model, tokenizers.models.BPE)
