"""Metadata of tokenizers as they stand in GGUF files, made of tokenizers that other libraries trained in a moment."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

TEXT = (
    "Ein Mann fährt mit dem Fahrrad durch die Straße, und zwei Hunde spielen auf einer grünen Wiese.",
    "A man isn't riding 2 bikes through the city; it's 1234.5 metres wide!  Well, 20 % of them DON'T.",
    "def main(argv):\n    return [x ** 2 for x in range(10)]\n\n\n\tif True:  # comment",
    "Зимой дети играют. 我想在苹果工作 1314151 天～ naïve co-op e-mail@example.com",
)
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6


def original(splitting: pre_tokenizers.PreTokenizer) -> tokenizers.Tokenizer:
    """Byte-level pairs, trained on what the splitting leaves whole."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = splitting
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    made.train_from_iterator(TEXT * 3, trainer)
    made.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in ("<tool>", "    ")])
    return made


def byte_level(made: tokenizers.Tokenizer, pre: str, **more: Any) -> dict[str, Any]:
    """The metadata of such a tokenizer, with the splitting named ``pre``."""
    content = json.loads(made.to_str())
    ids = made.get_vocab(with_added_tokens=True)
    added = {token["content"]: CONTROL if token["special"] else USER for token in content["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [added.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": ids["<|end|>"],
        **more,
    }


@cache
def trained(prefix: bool) -> bytes:
    """A SentencePiece model of pairs, with bytes and tokens of users."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        user_defined_symbols=["<tool>", "\n"], normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=prefix, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def processor(prefix: bool) -> sentencepiece.SentencePieceProcessor:
    loaded = sentencepiece.SentencePieceProcessor()
    loaded.LoadFromSerializedProto(trained(prefix))
    return loaded


def pieces(prefix: bool, **more: Any) -> dict[str, Any]:
    """The metadata of that model, as llama.cpp's converter writes them."""
    model = processor(prefix)
    users = ("<tool>", "\n")
    ids = range(len(model))
    types = [
        UNKNOWN if model.is_unknown(i) else CONTROL if model.is_control(i) else BYTE if model.is_byte(i)
        else USER if model.id_to_piece(i) in users else NORMAL
        for i in ids
    ]  # fmt: skip
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [model.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": model.bos_id(),
        "tokenizer.ggml.eos_token_id": model.eos_id(),
        "tokenizer.ggml.unknown_token_id": model.unk_id(),
        "tokenizer.ggml.add_space_prefix": prefix,
        **more,
    }


def words() -> tokenizers.Tokenizer:
    """Word pieces, of text without capitals and accents."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(TEXT * 3, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    return made


def word_pieces(made: tokenizers.Tokenizer, **more: Any) -> dict[str, Any]:
    """The metadata of word pieces: those that begin a word are marked, not those that go on."""
    ids = made.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    special = tokens[:5]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [
            token if token in special else token[2:] if token.startswith("##") else f"\u2581{token}" for token in tokens
        ],
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.padding_token_id": ids["[PAD]"],
        "tokenizer.ggml.unknown_token_id": ids["[UNK]"],
        "tokenizer.ggml.cls_token_id": ids["[CLS]"],
        "tokenizer.ggml.seperator_token_id": ids["[SEP]"],
        **more,
    }
