"""A tiny language model with a tokenizer of bytes and a chat template, as a model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pyengine.canonical import CanonicalModel, GenerationDefaults, LazyTensor
from pyengine.quantize import convert
from tests.oracle.random_config import random_config, random_tensors

__all__ = ["BEGIN", "CONFIG", "END", "POSITIONS", "TENSORS", "write_language_model"]

SEED = 0
CONFIG = random_config(SEED)
CONFIG = replace(CONFIG, ropes={name: replace(rope, lengths=()) for name, rope in CONFIG.ropes.items()})
TENSORS = random_tensors(CONFIG, SEED)
assert CONFIG.encoder is None and CONFIG.decoder is not None and CONFIG.target_vocab == 333
POSITIONS = CONFIG.decoder.max_positions
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>")
BEGIN, END = 0, 1
TEMPLATE = """{% for message in messages %}
{% if message.role not in ("user", "assistant", "system", "tool") %}
{{ raise_exception("no such role: " + message.role) }}{% endif %}
{{ "<|" + message.role + "|>" }}
{% if message.content is string %}{{ message.content }}
{% else %}{% for part in message.content %}{{ part.text or "<" + part.type + ">" }}{% endfor %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ "<|assistant|>" }}{% endif %}
"""


def write_language_model(folder: Path, *, begins: bool = True, words: bool = True, **defaults: Any) -> Path:
    """In float32; `begins`: has a start token, `words`: has a tokenizer."""
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in "etaoins" for b in "etaoinsrh\u0120dlu"][: 333 - len(SPECIAL) - len(alphabet)]
    vocab = {word: i for i, word in enumerate([*SPECIAL, *alphabet, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocab, pairs))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("\n", ""), encoding="utf-8")
    values = {"eos_token_id": (END,), "bos_token_id": BEGIN if begins else None, "max_length": POSITIONS + 1}
    search = GenerationDefaults(**{**values, **defaults})
    model = CanonicalModel(CONFIG, search, {name: LazyTensor.of(name, each) for name, each in TENSORS.items()})
    if words:
        files = {name: folder / name for name in ("tokenizer.json", "chat_template.jinja")}
        model = replace(model, tokenizer_kind="tokenizers", tokenizer_files=files)
    convert(model, folder / "model", weights="float32")
    return folder / "model"
