"""A model as the rest of the conversion sees it: configuration, search defaults, tensors read on demand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Mapping

import numpy as np

from pyengine.canonical.config import ModelConfig
from pyengine.canonical.generation import GenerationDefaults
from pyengine.canonical.tensors import mismatches, tensor_specs
from pyengine.errors import CheckpointError, ModelFileError, TokenizerError
from pyengine.formats.limits import VOCABULARY_BYTES
from pyengine.formats.regular_files import read_regular
from pyengine.formats.strict_json import Fields

__all__ = ["REMOVABLE", "CanonicalModel", "LazyTensor", "Removal", "content_of"]

REMOVABLE = ("heads", "neurons", "layers", "tokens")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when asked. ``dtype`` is the stored type, float32 or another."""

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

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> LazyTensor:
        """One that is in memory, float32."""
        return cls(name, values.shape, "float32", lambda: values)


@dataclass(frozen=True)
class Removal:
    """``removed`` of ``total`` of what, one of REMOVABLE, went from ``place``: a layer by canonical name, a stack, or
    "source" or "target" for tokens of a vocabulary.
    """

    what: str
    place: str
    removed: int
    total: int

    def __post_init__(self) -> None:
        if self.what not in REMOVABLE:
            raise ValueError(f"what: expected one of {', '.join(REMOVABLE)}, found {self.what!r}")
        if not 1 <= self.removed < self.total:
            raise ValueError(f"removed: expected a number from 1 to {self.total - 1}, found {self.removed}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object, where: str) -> Removal:
        """Read ``to_json``'s form; ModelFileError for anything else."""
        fields = Fields(data, where, ModelFileError)
        what, place = fields.choice("what", REMOVABLE), fields.text("place")
        total = fields.integer("total", 2, 1 << 31)
        removed = fields.integer("removed", 1, total - 1)
        fields.finish()
        return cls(what, place, removed, total)


def content_of(source: Path | bytes) -> bytes:
    """The content of a tokenizer file that lies somewhere or is made; TokenizerError if it cannot be read."""
    return source if isinstance(source, bytes) else read_regular(source, TokenizerError, VOCABULARY_BYTES)


@dataclass(frozen=True)
class CanonicalModel:
    """What an importer returns; ``tokenizer_files`` are by name: they lie in the checkpoint, or are made, as bytes.

    ``generation`` is None without a decoder: nothing is searched for then. ``tokenizer_kind`` is None, "sentencepiece"
    or "tokenizers": how the files are to be read. ``removed``: what pruning took from the model that was trained, in
    that order; the configuration is that of what is left. ``kv``: the type of cached keys and values that the model
    directory asked for, if it is of one and did. ``notes``: what was passed over or is missing, for people.
    """

    config: ModelConfig
    generation: GenerationDefaults | None
    tensors: Mapping[str, LazyTensor]
    tokenizer_kind: str | None = None
    tokenizer_files: Mapping[str, Path | bytes] = field(default_factory=dict)
    removed: tuple[Removal, ...] = ()
    kv: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where the tokenizer files lie, which there must be, all of them (``laid_out``)."""
        source = next(iter(self.tokenizer_files.values()))
        assert isinstance(source, Path)
        return source.parent

    @contextmanager
    def laid_out(self) -> Iterator[CanonicalModel]:
        """The model with all tokenizer files in one directory: made ones in one that is gone afterwards."""
        if all(isinstance(source, Path) for source in self.tokenizer_files.values()):
            yield self
            return
        with TemporaryDirectory(prefix="pyengine-") as scratch:
            places = {name: Path(scratch) / name for name in self.tokenizer_files}
            for name, source in self.tokenizer_files.items():
                places[name].write_bytes(content_of(source))
            yield replace(self, tokenizer_files=places)

    def validate(self) -> None:
        """Raise one CheckpointError that lists every missing, extra and mis-shaped tensor."""
        expected = {name: spec.shape for name, spec in tensor_specs(self.config).items()}
        problem = mismatches(expected, {name: tensor.shape for name, tensor in self.tensors.items()})
        if problem:
            raise CheckpointError(f"the tensors do not match the configuration: {problem}")
