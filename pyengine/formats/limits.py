"""The most that is read of a file that may be hostile, by its kind, and what reading it may take.

Real files stay far below. What a reader takes in memory is bounded by EXPANSION times the limit of the kind, whatever
the file holds: before anything is built of it, its signs are counted.
"""

from __future__ import annotations

CONFIG_BYTES = 1 << 20  # config.json, generation_config.json, generation.json: some kB
INDEX_BYTES = 16 << 20  # *.index.json of shards: 100 bytes a tensor
HEADER_BYTES = 16 << 20  # of a safetensors file: 120 bytes a tensor
PICKLE_BYTES = 8 << 20  # data.pkl: 150 bytes a tensor
PICKLE_STEPS = 350_000  # opcodes: 40 a tensor
ZIP_DIRECTORY_BYTES = 2 << 20  # of pytorch_model.bin: 100 bytes a tensor
GGUF_HEADER_BYTES = 64 << 20  # of a GGUF file: 10 MB with a vocabulary of 262,144 pieces
GGUF_KEYS = 10_000  # some dozens
GGUF_TENSORS = 50_000  # 1,300 with 120 layers
GGUF_ELEMENTS = 4_000_000  # of all its arrays: 800,000 with that vocabulary
VOCABULARY_BYTES = 64 << 20  # vocab.json, tokenizer.json: 40 MB with 256,000 pieces and their merges
SENTENCEPIECE_BYTES = 32 << 20  # *.spm: 5 MB with 256,000 pieces
TOKENIZER_SETTINGS_BYTES = 8 << 20  # tokenizer_config.json and its like: 1 MB with 6,000 added tokens
ADDED_TOKENS_TEXT = 500_000  # characters, and 8 a token: 150,000 with 6,000 added tokens
TEMPLATE_BYTES = 256 << 10  # chat_template.jinja: 30 kB
CHECKSUMS_BYTES = 64 << 10  # SHA256SUMS: ten lines
REPORT_BYTES = 16 << 20  # report.json

EXPANSION = 10  # times the limit of its kind: memory that a file may take
JSON_DEPTH = 32  # of nested objects and arrays: real files have at most ten
