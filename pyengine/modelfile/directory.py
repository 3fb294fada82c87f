"""Names and JSON forms that the writer and the reader of a model directory share.

    config.json         {"format": "pyengine", "version", "weights", "other_weights", "lines", "kv", "model",
                         "removed", "tokenizer", "created_by"}
    generation.json     defaults of the search, where there is a decoder
    model.safetensors   packed tensors, in the order of use
    ...                 tokenizer files, as they were
    SHA256SUMS          of all of these
"""

from __future__ import annotations

FORMAT = "pyengine"
VERSION = 5
CONFIG_NAME = "config.json"
GENERATION_NAME = "generation.json"
TENSORS_NAME = "model.safetensors"

KV = ("int8", "float32")  # types of cached keys and values

# The files that a tokenizer of each kind must have.
TOKENIZER_FILES: dict[str | None, tuple[str, ...]] = {
    None: (),
    "sentencepiece": ("source.spm", "target.spm", "vocab.json"),
    "tokenizers": ("tokenizer.json",),
}
