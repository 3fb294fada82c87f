"""Tiny checkpoints of language models as transformers writes them, and what it makes of changed configs."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from pyengine.canonical import CanonicalModel

from .family import randomized
from .transformer import Transformer

__all__ = ["config_of", "floats", "logits_by", "model_of", "random_ids", "save", "theirs_by"]

transformers.logging.set_verbosity_error()  # of ids beyond a vocabulary so small
transformers.logging.disable_progress_bar()


def save(directory: Path, model: Any, config: dict[str, Any] | None = None) -> None:
    """As users get it, in float32; ``config``: what config.json says in place of all that transformers writes."""
    model.float().save_pretrained(directory)
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def model_of(kind: type, config: dict[str, Any]) -> Any:
    """What transformers makes of the keys of a config.json: the class ``kind``, every parameter random."""
    return randomized(kind(kind.config_class.from_dict(deepcopy(config), attn_implementation="eager")))


def random_ids(model: CanonicalModel, length: int) -> np.ndarray:
    return np.random.RandomState(1).randint(0, model.config.target_side()[1], length)


def floats(model: CanonicalModel) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in model.tensors.items()}


def logits_by(model: CanonicalModel, ids: np.ndarray) -> np.ndarray:
    """What an imported model computes, in float64: [length, vocabulary]. An encoder reads ``ids`` backwards."""
    oracle = Transformer(model.config, floats(model))
    return oracle.decode(ids, None if model.config.encoder is None else oracle.encode(ids[::-1]))


def theirs_by(model: Any, ids: np.ndarray) -> np.ndarray:
    """The same by transformers, in whatever type the model is."""
    given = {"input_ids": torch.tensor(ids)[None]}
    if model.config.is_encoder_decoder:
        given = {"input_ids": given["input_ids"].flip(1), "decoder_input_ids": given["input_ids"]}
    with torch.no_grad():
        found: np.ndarray = model(**given).logits[0].double().numpy()
    return found
