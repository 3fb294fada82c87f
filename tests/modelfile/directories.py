"""Tiny model directories, written through the public functions, and ways to damage them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from pyengine.quantize import convert

from ..checkpoints import handmade as checkpoints
from ..text import models as tokenizers


def checkpoint_with_tokenizer(directory: Path, **changes: Any) -> Path:
    """A tiny checkpoint with SentencePiece models that know more pieces than its vocabulary has."""
    config = checkpoints.marian_config(**changes)
    source, target = tokenizers.train(tokenizers.GERMAN, 90), tokenizers.train(tokenizers.ENGLISH, 80)
    names = ["</s>", "<unk>", *tokenizers.pieces(source)[: config["vocab_size"] - 3], "<pad>"]
    tokenizers.write_marian(directory, source, target, tokenizers.vocabulary(names))
    return checkpoints.write_checkpoint(directory, config)


def model_directory(directory: Path, weights: str = "int8", tokenizer: bool = True, **changes: Any) -> Path:
    """A converted tiny checkpoint at ``directory``/model."""
    if tokenizer:
        checkpoint = checkpoint_with_tokenizer(directory / "checkpoint", **changes)
    else:
        config = checkpoints.marian_config(**changes)
        checkpoint = checkpoints.write_checkpoint(directory / "checkpoint", config)
    convert(checkpoint, directory / "model", weights=weights)
    return directory / "model"


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the object in ``path``."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
