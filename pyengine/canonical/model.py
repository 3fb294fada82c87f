"""A model as the rest of the conversion sees it: configuration, search defaults, tensors read on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping

import numpy as np

from pyengine.canonical.config import GenerationDefaults, ModelConfig
from pyengine.canonical.tensors import mismatches, tensor_specs
from pyengine.errors import CheckpointError

__all__ = ["CanonicalModel", "LazyTensor"]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked. ``dtype`` is the stored type: float32, float16 or bfloat16."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray] = field(repr=False)

    def read(self) -> np.ndarray:
        """The values: a C-contiguous float32 array of ``shape``. Raises what ``load`` raises."""
        values = np.ascontiguousarray(self.load(), dtype=np.float32)
        if values.shape != self.shape:
            found = list(values.shape)
            raise CheckpointError(f"{self.name}: expected shape {list(self.shape)}, read {found}")
        return values


@dataclass(frozen=True)
class CanonicalModel:
    """What an importer returns; ``tokenizer_files`` are by name and lie in the checkpoint.

    ``tokenizer`` is None, "sentencepiece" or "tokenizers": how the files are to be read.
    """

    config: ModelConfig
    generation: GenerationDefaults
    tensors: Mapping[str, LazyTensor]
    tokenizer: str | None = None
    tokenizer_files: Mapping[str, Path] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise one CheckpointError that lists every missing, extra and mis-shaped tensor."""
        expected = {name: spec.shape for name, spec in tensor_specs(self.config).items()}
        problem = mismatches(expected, {name: tensor.shape for name, tensor in self.tensors.items()})
        if problem:
            raise CheckpointError(f"the tensors do not match the configuration: {problem}")
