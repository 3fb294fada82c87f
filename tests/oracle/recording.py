"""The reference model, noting what each packed linear layer reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyengine.canonical.config import ModelConfig

from .reference import ReferenceModel

__all__ = ["RecordingReference"]

# The part whose input stands for that of a packed layer, which parts of one input share.
SELF = {"q": "qkv", "output": "output"}
CROSS = {"q": "q", "k": "kv", "output": "output"}


class RecordingReference(ReferenceModel):
    """``seen``: packed name -> inputs [rows, K], one array for each sentence, in the order in which they ran."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray], dtype: type = np.float64) -> None:
        super().__init__(config, tensors, dtype)
        self.seen: dict[str, list[np.ndarray]] = {}

    def run(self, source: np.ndarray, target: np.ndarray) -> None:
        """int [T] and int [U], the decoder's input."""
        self.decode(target, self.encode(source))

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        stem, part = name.rsplit(".", 1)
        names = SELF if stem.endswith("self_attention") else CROSS if stem.endswith("cross_attention") else {part: part}
        if part in names:
            self._note(f"{stem}.{names[part]}", x)
        return super()._linear(name, x)

    def _logits(self, x: np.ndarray) -> np.ndarray:
        self._note("output", x)
        return super()._logits(x)

    def _note(self, name: str, x: np.ndarray) -> None:
        self.seen.setdefault(name, []).append(x)
