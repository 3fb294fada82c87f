"""Tokenizers of language models, trained in a moment: the three kinds that their files have."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .odd_lines import odd_lines

# Without special tokens, which it would otherwise be trained to make of plain text.
TEXT = [line for line in odd_lines()[:700] if ">" not in line]


def byte_level() -> tokenizers.Tokenizer:
    """Pieces of bytes; a begin token; special tokens that take white space with them."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False), AddedToken("<|both|>", lstrip=True)])
    made.add_tokens([AddedToken("<tool>", normalized=False)])
    made.post_processor = _ends(made, "<s> $A", "<s>")
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """Pieces of characters, bytes for those that have none, and a space before the text."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
        limit_alphabet=150,
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] in special]
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.post_processor = _ends(made, "<s> $A", "<s>")
    return made


def word_piece() -> tokenizers.Tokenizer:
    """Words in lower case and their pieces, between two tokens."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "</s>", "<pad>"]
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    made.post_processor = _ends(made, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return made


def _ends(made: tokenizers.Tokenizer, single: str, *names: str) -> processors.TemplateProcessing:
    ids = [(name, made.token_to_id(name)) for name in names]
    return processors.TemplateProcessing(single=single, special_tokens=ids)


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "word piece": word_piece,
}


@cache
def trained(kind: str) -> str:
    """The tokenizer.json of a kind."""
    return KINDS[kind]().to_str()
