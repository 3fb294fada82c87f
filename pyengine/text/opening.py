"""From a model directory to its tokenizer."""

from __future__ import annotations

from pathlib import Path

from pyengine.errors import TokenizerError
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import shorten
from pyengine.text.tokenizer import Tokenizer

TOKENIZER_KINDS = ("sentencepiece", "tokenizers")


def open_tokenizer(
    directory: str | Path, kind: str, *, source_vocab: int | None = None, target_vocab: int | None = None
) -> Tokenizer:
    """The tokenizer whose files lie in ``directory``, a model directory or a checkpoint.

    ``kind`` is ``sentencepiece`` (source.spm, target.spm, vocab.json, target_vocab.json where the sides
    differ) or ``tokenizers`` (tokenizer.json); both read tokenizer_config.json. ``source_vocab`` and
    ``target_vocab`` are the model's vocabulary sizes: a SentencePiece tokenizer has to have as many, a
    tokenizer.json at most as many.

    Raises TokenizerError: a file is missing, damaged or does not match the model; UnsupportedError: the files
    ask for what the engine lacks. Each names the file, what was expected and what was found.
    """
    directory = usable_path(directory, TokenizerError)
    # The packages are imported by need: a model of one kind does not wait for the other's library.
    if kind == "tokenizers":
        from pyengine.text.tokenizer_json import JsonTokenizer

        known = [size for size in (source_vocab, target_vocab) if size is not None]
        return JsonTokenizer(directory, size=min(known, default=None))
    if kind != "sentencepiece":
        raise TokenizerError(
            f"{directory}: tokenizer: expected one of {', '.join(TOKENIZER_KINDS)}, found {shorten(kind)}"
        )
    from pyengine.text.sentencepiece import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(directory)
    for side, expected, found in (
        ("source", source_vocab, tokenizer.source_size),
        ("target", target_vocab, tokenizer.target_size),
    ):
        if expected is not None and found != expected:
            raise TokenizerError(
                f"{directory}: {side} vocabulary: expected the model's {expected} pieces, found {found}"
            )
    return tokenizer
