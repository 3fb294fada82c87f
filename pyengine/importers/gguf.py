"""GGUF files as checkpoints of transformers: their metadata as a config.json, their tensors by its classes' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyengine.checkpoints import StoredTensor
from pyengine.checkpoints.gguf import open_gguf
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.importers.gguf_architectures import ARCHITECTURES, Architecture
from pyengine.importers.gguf_keys import Keys
from pyengine.importers.gguf_names import renamed

__all__ = ["GgufCheckpoint", "read_gguf"]

_LISTED = 8
_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # read by gguf_ropes
_IDS = {"bos_token_id": "bos_token_id", "padding_token_id": "pad_token_id"}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Special tokens that end an answer, and which llama.cpp knows by these texts as well (src/llama-vocab.cpp).
_END_TEXTS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>")
_SPECIAL = (3, 4)  # token_type: control, user-defined


@dataclass(frozen=True)
class GgufCheckpoint:
    """What importers read of a GGUF file.

    config    as in config.json
    weights   by the names of transformers' classes
    metadata  as they are, for what reads the tokenizer
    """

    config: dict[str, Any]
    weights: dict[str, StoredTensor]
    metadata: dict[str, Any]


def read_gguf(path: Path) -> GgufCheckpoint:
    """The checkpoint in the GGUF file ``path``; no tensors but those of rope factors are read.

    Keys of the architecture that no table knows are in the config under their own names, so that whoever reads it
    refuses them. Raises what ``open_gguf`` raises, CheckpointError for values that cannot be, and UnsupportedError for
    an architecture or tensor that is unknown.
    """
    file = open_gguf(path)
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedError(f"{path}: general.type = {shorten(kind)}; expected a model")
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedError(f"{path}: general.architecture = {shorten(name)}; supported: {known}")
    if not file.tensors:
        raise CheckpointError(f"{path}: no tensors, only metadata")
    architecture = ARCHITECTURES[name]
    keys = Keys(path, name, file.metadata, file.tensors)
    config = _config(keys, architecture)
    weights, others = renamed(file.tensors, architecture.names, architecture.takes(config))
    unknown = [other for other in others if other not in _FACTORS]
    if unknown:
        listed = ", ".join(map(shorten, unknown[:_LISTED])) + (", ..." if len(unknown) > _LISTED else "")
        raise UnsupportedError(f"{path}: {len(unknown)} tensors unknown to the importer of {name}: {listed}")
    return GgufCheckpoint(config | keys.left() | _tokens(path, file.metadata), weights, file.metadata)


def _config(keys: Keys, architecture: Architecture) -> dict[str, Any]:
    """The keys of config.json that the table of the architecture knows."""
    for name, value in (("expert_count", 0), ("expert_used_count", 0), ("attention.causal", True)):
        keys.neutral(name, value)
    given = {
        other: keys.needed(name) if name.endswith("epsilon") else keys.size(name)
        for name, other in architecture.keys.items()
    }
    layers = given[architecture.keys["block_count"]]
    if layers > len(keys.tensors):
        keys.fail("block_count", f"fewer layers than the {len(keys.tensors)} tensors", layers)
    table = keys.tensors.get("token_embd.weight")
    return {
        "architectures": [architecture.name],
        "vocab_size": keys.size("vocab_size", table.shape[0] if table is not None else 1),
        "tie_word_embeddings": not keys.has("output.weight"),
        **given,
        **architecture.config(keys, given),
    }


def _tokens(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Ids of tokens that begin, end and pad."""

    def token(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}"
        value = metadata.get(key)
        if value is not None and type(value) is not int:
            raise CheckpointError(f"{path}: {key}: expected a token id, found {shorten(value)}")
        return value

    ends = [found for name in _ENDS if (found := token(name)) is not None]
    texts, kinds = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    if isinstance(texts, list) and isinstance(kinds, list):
        ends += [i for i, (text, kind) in enumerate(zip(texts, kinds)) if kind in _SPECIAL and text in _END_TEXTS]
    others = {other: token(name) for name, other in _IDS.items()}
    return {**others, "eos_token_id": list(dict.fromkeys(ends)) or None}
