"""Tiny model directories, written through the public functions, and ways to damage them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from pyengine.quantize import convert

from ..checkpoints import handmade as checkpoints


def model_directory(directory: Path, weights: str = "int8", tokenizer: bool = True, **changes: Any) -> Path:
    """A converted tiny checkpoint at ``directory``/model."""
    checkpoint = checkpoints.write_checkpoint(directory / "checkpoint", checkpoints.marian_config(**changes))
    if tokenizer:
        (checkpoint / "source.spm").write_bytes(b"source")
        (checkpoint / "target.spm").write_bytes(b"target")
        (checkpoint / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    convert(checkpoint, directory / "model", weights=weights)
    return directory / "model"


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the object in ``path``."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
