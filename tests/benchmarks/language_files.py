"""A tiny language model as a GGUF file that has a tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
from tokenizers import pre_tokenizers

from ..importers.gguf_files import write_gguf
from ..importers.gguf_vocabularies import byte_level, original
from ..importers.test_gguf import CONFIGS, raw_tensors


def write_language_model(file: Path) -> None:
    """A Llama of random weights with byte-level pairs; without biases, which transformers leaves out of a GGUF file."""
    metadata = byte_level(original(pre_tokenizers.ByteLevel()), "gpt-2")

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_types(metadata["tokenizer.ggml.token_type"])
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])

    plain = {"attention_bias": False, "mlp_bias": False}
    config = {**CONFIGS["llama"], **plain, "vocab_size": len(metadata["tokenizer.ggml.tokens"])}
    write_gguf(file, "llama", config, raw_tensors("llama", config), change=add)
