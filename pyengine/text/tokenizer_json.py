"""A tokenizer in one ``tokenizer.json``, run by the tokenizers package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers

from pyengine.errors import TokenizerError
from pyengine.text.reading import read_bytes, read_json_object
from pyengine.text.settings import CONFIG_FILE, flag
from pyengine.text.tokenizer import checked_ids, checked_text, clean_up_spaces

TOKENIZER_FILE = "tokenizer.json"


class JsonTokenizer:
    """A ``Tokenizer`` with one vocabulary for both sides.

    ``size`` is the model's number of ids where it is known: embedding tables are often padded, and the ids
    above the tokenizer's have no piece and no text.
    """

    def __init__(self, directory: Path, *, size: int | None = None) -> None:
        path = directory / TOKENIZER_FILE
        self._tokenizer = _load(path)
        # What a file says about batches: here every text is encoded by itself, and whole.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        count = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if count == 0:
            raise TokenizerError(f"{path}: expected a vocabulary, found none")
        if size is not None and count > size:
            raise TokenizerError(f"{path}: expected ids below the model's {size}, found the id {count - 1}")
        self.source_size = self.target_size = count if size is None else size
        self._clean_up_spaces = _reads_clean_up(directory, self._tokenizer)

    def encode_source(self, text: str) -> list[int]:
        """See ``Tokenizer``; the post-processor of the file adds the end token."""
        return self._tokenizer.encode(checked_text(text)).ids

    def encode_target(self, text: str, *, end: bool) -> list[int]:
        """See ``Tokenizer``; with ``end`` what the post-processor makes of it, without the text alone."""
        return self._tokenizer.encode(checked_text(text), add_special_tokens=end).ids

    def decode(self, ids: Iterable[int]) -> str:
        """See ``Tokenizer``."""
        text = self._tokenizer.decode(checked_ids(ids, self.target_size), skip_special_tokens=True)
        return clean_up_spaces(text) if self._clean_up_spaces else text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """See ``Tokenizer``; an id without a piece gives the empty string."""
        return [self._tokenizer.id_to_token(index) or "" for index in checked_ids(ids, self.target_size)]


def _load(path: Path) -> tokenizers.Tokenizer:
    data = read_bytes(path)
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic inside the package is no Exception
        raise TokenizerError(
            f"{path}: expected a tokenizer, found {len(data)} bytes: {error!s:.200}"
        ) from error


def _reads_clean_up(directory: Path, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether spaces before punctuation are dropped; never for BPE, as in transformers 5.23.0."""
    path = directory / CONFIG_FILE
    if not path.exists():
        return False
    wanted = flag(path, read_json_object(path), "clean_up_tokenization_spaces")
    return wanted and not isinstance(tokenizer.model, tokenizers.models.BPE)
