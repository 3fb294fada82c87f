"""From a model directory to its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyengine.errors import TokenizerError, UnsupportedError
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import shorten
from pyengine.text.chat import ChatTemplate, open_chat_template
from pyengine.text.languages import MultilingualTokenizer, has_languages
from pyengine.text.tokenizer import TextTokenizer, Tokenizer

if TYPE_CHECKING:
    from pyengine.text.tokenizer_json import JsonTokenizer

TOKENIZER_KINDS = ("sentencepiece", "tokenizers")


class Sizes(Protocol):
    """The ids that a model reads and writes, None where it has no such stack."""

    @property
    def source_vocab(self) -> int | None: ...
    @property
    def target_vocab(self) -> int | None: ...


class Head(Protocol):
    """A model, open or not: where its tokenizer lies, of which kind it is (None: there is none), and its sizes."""

    @property
    def path(self) -> Path: ...
    @property
    def tokenizer_kind(self) -> str | None: ...
    @property
    def config(self) -> Sizes: ...


def tokenizer_of(head: Head) -> Tokenizer | None:
    """The tokenizer of a model, None if it has none. Raises what ``open_tokenizer`` raises."""
    kind, config = head.tokenizer_kind, head.config
    if kind is None:
        return None
    return open_tokenizer(head.path, kind, source_vocab=config.source_vocab, target_vocab=config.target_vocab)


def text_tokenizer_of(head: Head) -> TextTokenizer | None:
    """The tokenizer of a model that has one stack, None if it has none.

    Raises what ``open_tokenizer`` raises, and UnsupportedError for files that are for the two sides of a translation.
    """
    if head.tokenizer_kind is None:
        return None
    if head.tokenizer_kind != "tokenizers":
        raise UnsupportedError(f"{head.path}: expected one tokenizer, found those of two sides, {head.tokenizer_kind}")
    return _open_json(usable_path(head.path, TokenizerError), head.config.source_vocab, head.config.target_vocab)


def chat_template_of(head: Head) -> ChatTemplate | None:
    """The chat template of a model, None if it has none. Raises TokenizerError: it is no template."""
    return open_chat_template(usable_path(head.path, TokenizerError))


def open_tokenizer(
    directory: str | Path, kind: str, *, source_vocab: int | None = None, target_vocab: int | None = None
) -> Tokenizer:
    """The tokenizer whose files lie in ``directory``, a model directory or a checkpoint.

    ``kind`` is ``sentencepiece`` (source.spm, target.spm, vocab.json, target_vocab.json where the sides
    differ) or ``tokenizers`` (tokenizer.json); both read tokenizer_config.json, and
    languages.json if there is one. ``source_vocab`` and ``target_vocab`` are the model's vocabulary sizes, where these
    are known. They may be larger than the tokenizer's, since embedding tables are often padded: beside .spm files up to
    the next multiple of 8, 64 or another power of two.

    Raises TokenizerError: a file is missing, damaged or does not match the model; UnsupportedError: the files
    ask for what the engine lacks. Each names the file, what was expected and what was found.
    """
    directory = usable_path(directory, TokenizerError)
    if has_languages(directory):
        plain = _open_plain(directory, kind, source_vocab, target_vocab, codes=False)
        return MultilingualTokenizer(directory, plain)
    return _open_plain(directory, kind, source_vocab, target_vocab, codes=True)


def _open_plain(
    directory: Path, kind: str, source_vocab: int | None, target_vocab: int | None, *, codes: bool
) -> Tokenizer:
    """``codes``: a leading ``>>fra<<`` is a token."""
    # The packages are imported by need: a model of one kind does not wait for the other's library.
    if kind == "tokenizers":
        return _open_json(directory, source_vocab, target_vocab)
    if kind != "sentencepiece":
        raise TokenizerError(
            f"{directory}: tokenizer: expected one of {', '.join(TOKENIZER_KINDS)}, found {shorten(kind)}"
        )
    from pyengine.text.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(directory, source_size=source_vocab, target_size=target_vocab, codes=codes)


def _open_json(directory: Path, *sizes: int | None) -> JsonTokenizer:
    """``sizes``: how many ids the model has on its sides, where they are known."""
    from pyengine.text.tokenizer_json import JsonTokenizer

    return JsonTokenizer(directory, size=min((size for size in sizes if size is not None), default=None))
