"""Importers: from the raw names and the config of a training framework to a CanonicalModel.

A family is a table, read by ``table``: one module each, with the names that ``config.json`` gives under
"architectures".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyengine.canonical import CanonicalModel
from pyengine.checkpoints import open_weights
from pyengine.checkpoints.gguf import is_gguf
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.foreign import what_else
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import load_object, shorten
from pyengine.importers import bart, gemma, gpt2, gpt_neox, llama, marian, phi3, qwen, t5
from pyengine.importers.gguf import read_gguf
from pyengine.importers.gguf_tokenizer import tokenizer_files_of
from pyengine.importers.table import Family, RawCheckpoint, import_checkpoint
from pyengine.importers.tokenizer_files import EXPECTED, find_tokenizer

__all__ = ["FAMILIES", "open_checkpoint"]

FAMILIES = (
    marian.FAMILY, *llama.FAMILIES, *qwen.FAMILIES, *gemma.FAMILIES, *phi3.FAMILIES, *gpt2.FAMILIES, *gpt_neox.FAMILIES,
    *bart.FAMILIES, *t5.FAMILIES,
)
_BY_ARCHITECTURE: dict[str, Family] = {name: family for family in FAMILIES for name in family.architectures}
# For a config without "architectures": what transformers' auto classes would choose.
_BY_MODEL_TYPE = {family.model_type: family.architectures[0] for family in FAMILIES}


def open_checkpoint(path: str | Path, *, allow_unknown_keys: Collection[str] = ()) -> CanonicalModel:
    """Open a checkpoint without reading its tensors: a directory as Hugging Face exports it, or a GGUF file.

    Tables that may be tied are compared, so those are read once. ``allow_unknown_keys``: names of keys that are passed
    over where they are unknown to the importer; the caller knows that they change no result. Raises CheckpointError
    (missing or damaged files, tensors that do not fit the configuration), UnsupportedError (an architecture, option or
    format that the engine lacks) or TokenizerError (the tokenizer is damaged, or some of its files are missing).
    """
    path = usable_path(path, CheckpointError)
    raw = _read_file(path) if is_gguf(path) else _read_directory(path)
    family = _BY_ARCHITECTURE[_architecture(raw.config, raw.place)]
    model = import_checkpoint(family, raw, allow_unknown_keys)
    model.validate()
    if model.tokenizer_kind is None:
        lacking = "tokenizer in the metadata" if raw.place == path else f"tokenizer files (expected {EXPECTED})"
        note = f"{path}: no {lacking}: the model takes and gives token ids, no text"
        model = replace(model, notes=(*model.notes, note))
    return model


def _read_directory(path: Path) -> RawCheckpoint:
    if (found := what_else(path)) is not None:
        raise CheckpointError(f"{path}: expected a checkpoint directory or a GGUF file, found {found}")
    config = load_object(path / "config.json", CheckpointError, CONFIG_BYTES)
    if config.get("format") == "pyengine":
        raise CheckpointError(f"{path}: a model directory already, expected a training checkpoint")
    return RawCheckpoint(path, path / "config.json", config, open_weights(path), *find_tokenizer(path, config))


def _read_file(path: Path) -> RawCheckpoint:
    file = read_gguf(path)
    files = tokenizer_files_of(file.metadata, str(path))
    return RawCheckpoint(path, path, file.config, file.weights, "tokenizers" if files else None, files)


def _architecture(config: Mapping[str, Any], path: Path) -> str:
    names = config.get("architectures")
    if not names:
        model_type = config.get("model_type")
        names = [_BY_MODEL_TYPE.get(model_type, model_type) if isinstance(model_type, str) else None]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: architectures: expected one name, found {shorten(names)}")
    if names[0] not in _BY_ARCHITECTURE:
        known = ", ".join(_BY_ARCHITECTURE)
        raise UnsupportedError(f"{path}: architecture {shorten(names[0])}; supported: {known}")
    return names[0]
