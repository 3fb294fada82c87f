"""The keys of a GGUF file's metadata below its architecture's name, one taken at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyengine.checkpoints import StoredTensor
from pyengine.errors import CheckpointError
from pyengine.formats.strict_json import shorten

__all__ = ["Keys"]


class Keys:
    """Metadata of ``path``: those whose names begin with ``architecture``, and what ``tensors`` say besides.

    What none of the ``take`` and its like has asked for is left over, under its whole name.
    """

    def __init__(
        self, path: Path, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
    ) -> None:
        self.path = path
        self.tensors = tensors
        self._begin = f"{architecture}."
        self._left = {key: value for key, value in metadata.items() if key.startswith(self._begin)}

    def take(self, name: str, default: Any = None) -> Any:
        """The value, or ``default``."""
        return self._left.pop(self._begin + name, default)

    def needed(self, name: str) -> Any:
        """The value; CheckpointError where there is none."""
        if self._begin + name not in self._left:
            raise CheckpointError(f"{self.path}: no {self._begin}{name} in the metadata")
        return self.take(name)

    def size(self, name: str, default: int | None = None) -> int:
        """A size of at least 1; CheckpointError where there is another value, or none and no ``default``."""
        value = self.needed(name) if default is None else self.take(name, default)
        if type(value) is not int or value < 1:
            self.fail(name, "a size of at least 1", value)
        return int(value)

    def neutral(self, name: str, *values: Any) -> None:
        """Take what changes nothing at one of these ``values``; another stays, to be refused by its name."""
        if self._left.get(self._begin + name, values[0]) in values:
            self.take(name)

    def has(self, tensor: str) -> bool:
        """Whether there is such a tensor."""
        return tensor in self.tensors

    def left(self) -> dict[str, Any]:
        """What nothing has taken, by whole names."""
        return self._left

    def fail(self, name: str, expected: str, found: Any) -> None:
        """Raise CheckpointError for a key's value."""
        raise CheckpointError(f"{self.path}: {self._begin}{name}: expected {expected}, found {shorten(found)}")
