"""Small Marian tokenizers, trained in a moment, for what the example checkpoint does not have."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

GERMAN = (
    "Ein Mann fährt mit dem Fahrrad durch die Stadt.",
    "Zwei Hunde spielen auf einer grünen Wiese.",
    "Die Frau im blauen Hemd liest ein Buch, und das Kind schläft.",
    "Mehrere Kinder laufen über die Straße.",
)
ENGLISH = (
    "A man is riding a bike through the city.",
    "Two dogs are playing on a green meadow .",
    "The woman in the blue shirt doesn't read a book , and the child is asleep !",
    "Several children are running across the street.",
)


@cache
def train(lines: Iterable[str], size: int, **options: Any) -> bytes:
    """A serialized SentencePiece model of at most ``size`` pieces; ``options`` are the trainer's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    loaded = sentencepiece.SentencePieceProcessor()
    loaded.LoadFromSerializedProto(model)
    return loaded


def pieces(model: bytes) -> list[str]:
    """The pieces of a model that Marian would take over: all but its control and unknown symbols."""
    loaded = processor(model)
    ids = range(len(loaded))
    return [loaded.id_to_piece(i) for i in ids if not loaded.is_control(i) and not loaded.is_unknown(i)]


def vocabulary(*parts: Iterable[str]) -> dict[str, int]:
    """Each piece once, in order, numbered from 0."""
    return {piece: i for i, piece in enumerate(dict.fromkeys(piece for part in parts for piece in part))}


def write_marian(
    directory: Path,
    source: bytes,
    target: bytes,
    vocab: Mapping[str, int],
    target_vocab: Mapping[str, int] | None = None,
    **json_files: Any,
) -> Path:
    """Writes the files of a Marian tokenizer; ``json_files`` are more of them, by name without ``.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "source.spm").write_bytes(source)
    (directory / "target.spm").write_bytes(target)
    files = {"vocab": vocab, **json_files}
    if target_vocab is not None:
        files["target_vocab"] = target_vocab
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of ``added_tokens_decoder``."""
    off = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    return {"content": content, **off, **flags}


def _shared(directory: Path, **json_files: Any) -> Path:
    """One vocabulary for two models, with language codes, without every seventh piece."""
    source, target = train(GERMAN, 90), train(ENGLISH, 80)
    kept = [piece for i, piece in enumerate(pieces(source) + pieces(target)) if i % 7 != 3]
    vocab = vocabulary(["</s>", "<unk>"], kept, [">>fra<<", ">>deu<<", "<pad>"])
    return write_marian(directory, source, target, vocab, **json_files)


def _separate(directory: Path, source: bytes, target: bytes) -> Path:
    return write_marian(
        directory,
        source,
        target,
        vocabulary(["</s>", "<unk>"], pieces(source), ["<pad>"]),
        vocabulary(["</s>", "<unk>"], pieces(target), ["<pad>"]),
        tokenizer_config={"separate_vocabs": True},
    )


def _without_pad(directory: Path, **json_files: Any) -> Path:
    source = train(GERMAN, 90)
    vocab = vocabulary(["</s>", "<unk>"], pieces(source))
    return write_marian(directory, source, source, vocab, **json_files)


def _added(directory: Path) -> Path:
    size = len(json.loads((_shared(directory) / "vocab.json").read_text()))
    added = {
        "0": token("</s>", special=True),
        "1": token("<unk>", special=True),
        str(size - 1): token("<pad>", special=True),
        str(size): token("<left>", lstrip=True),
        str(size + 1): token("<right>", rstrip=True),
        str(size + 2): token("Stadt", single_word=True),
        str(size + 3): token("<both>", lstrip=True, rstrip=True, special=True),
    }
    config = {"added_tokens_decoder": added, "extra_special_tokens": ["<both>"]}
    return _shared(directory, tokenizer_config=config)


def _bytes_and_symbols(directory: Path) -> Path:
    source = train(GERMAN, 400, byte_fallback=True, model_type="bpe")
    target = train(ENGLISH, 100, user_defined_symbols="<sep>,<pad>", normalization_rule_name="identity")
    vocab = vocabulary(["</s>", "<unk>"], pieces(source), pieces(target), ["<pad>"])
    return write_marian(directory, source, target, vocab)


VARIANTS = {
    "shared": _shared,
    "separate": lambda directory: _separate(directory, train(GERMAN, 90), train(ENGLISH, 80)),
    "separate, larger target": lambda directory: _separate(directory, train(ENGLISH, 80), train(GERMAN, 90)),
    "added": _added,
    "bytes and symbols": _bytes_and_symbols,
    "without pad": _without_pad,
    "legacy files": lambda directory: _without_pad(
        directory,
        special_tokens_map={"bos_token": token("<s>", lstrip=True), "extra_special_tokens": ["<x>"]},
        added_tokens={"<x>": len(pieces(train(GERMAN, 90))) + 2},
    ),
    "other special tokens": lambda directory: _shared(
        directory, tokenizer_config={"pad_token": None, "mask_token": "<mask>", "image_token": ">>deu<<"}
    ),
    "clean up": lambda directory: _shared(directory, tokenizer_config={"clean_up_tokenization_spaces": True}),
    "split special": lambda directory: _shared(directory, tokenizer_config={"split_special_tokens": True}),
}
