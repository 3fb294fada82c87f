"""The shortlist of a model: which target ids the translation of a sentence may take.

    FILE       safetensors; metadata: format "pyengine-shortlist", version "1", source_vocab, target_vocab
    offsets    I32 [source_vocab + 1]   the candidates of source id s are ids[offsets[s]:offsets[s + 1]]
    ids        I32 [E]                  ascending within a source id
    frequent   I32 [F]                  ascending: candidates of every sentence
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pyengine.errors import ModelFileError
from pyengine.formats.regular_files import copy_regular, usable_path
from pyengine.formats.safetensors_header import Entry, build_header, parse_with_metadata
from pyengine.formats.strict_json import shorten
from pyengine.output import Target, new_file

__all__ = ["Shortlist"]

FORMAT, VERSION = "pyengine-shortlist", 1
TENSORS = ("offsets", "ids", "frequent")
STORED = np.dtype("<i4")
ALIGNMENT = 64


class Shortlist:
    """Candidates by source id. Immutable, so that several threads may share one."""

    def __init__(self, offsets: np.ndarray, ids: np.ndarray, frequent: np.ndarray, target_vocab: int) -> None:
        """int32 arrays as in the file; the caller vouches for them, `open` checks them."""
        self.offsets, self.ids, self.frequent = offsets, ids, frequent
        self.target_vocab = target_vocab

    @classmethod
    def open(cls, path: str | Path, source_vocab: int, target_vocab: int) -> Shortlist:
        """Read the file `path` for a model with so many ids.

        Raises ModelFileError naming the file, the tensor, what was expected and what was found.
        """
        path = usable_path(path, ModelFileError)
        where = str(path)
        data = copy_regular(path, ModelFileError)  # not mapped: the file may change, or shrink
        entries, metadata = parse_with_metadata(data, where, ModelFileError)
        _check_head(metadata, where, {"source_vocab": source_vocab, "target_vocab": target_vocab})
        if set(entries) != set(TENSORS):
            found = shorten(sorted(entries))
            raise ModelFileError(f"{where}: expected the tensors {', '.join(TENSORS)}, found {found}")
        offsets, ids, frequent = (_read(data, entries[name], f"{where}: tensor {name}") for name in TENSORS)
        name = f"{where}: tensor offsets"
        if len(offsets) != source_vocab + 1:
            raise ModelFileError(f"{name}: expected {source_vocab + 1} of them, found {len(offsets)}")
        if offsets[0] != 0 or offsets[-1] != len(ids) or np.any(offsets[1:] < offsets[:-1]):
            raise ModelFileError(f"{name}: expected to ascend from 0 to {len(ids)}, the number of ids")
        starts = np.zeros(len(ids) + 1, bool)
        starts[offsets] = True
        _check_ids(ids, starts[1:-1], target_vocab, f"{where}: tensor ids")
        _check_ids(frequent, np.zeros(max(len(frequent) - 1, 0), bool), target_vocab, f"{where}: tensor frequent")
        return cls(offsets, ids, frequent, target_vocab)

    def write(self, target: Target, *, overwrite: bool = False) -> int:
        """Write the file `target`, which appears when it is complete, and return its size.

        Raises OptionError if it exists, unless it is a regular file and `overwrite` is given; OutputError if it cannot
        be written.
        """
        arrays = (self.offsets, self.ids, self.frequent)
        table = {name: ("I32", array.shape) for name, array in zip(TENSORS, arrays, strict=True)}
        sizes = {"source_vocab": len(self.offsets) - 1, "target_vocab": self.target_vocab}
        metadata = {"format": FORMAT, "version": str(VERSION), **{name: str(size) for name, size in sizes.items()}}
        parts = [build_header(table, metadata, ALIGNMENT), *(array.astype(STORED).tobytes() for array in arrays)]
        with new_file(target, overwrite=overwrite) as file:
            file.writelines(parts)
        return sum(map(len, parts))

    def lists(self, always: Iterable[int]) -> Callable[[np.ndarray], np.ndarray]:
        """What gives the list of a sentence, int32 and ascending, for its int source ids.

        The candidates of these ids, the frequent ids, and `always`.
        """
        common = np.zeros(self.target_vocab, bool)
        common[self.frequent] = True
        common[list(always)] = True
        offsets, ids = self.offsets, self.ids

        def of(source: np.ndarray) -> np.ndarray:
            spans = zip(offsets[source].tolist(), offsets[source + 1].tolist(), strict=True)
            listed = common.copy()
            listed[np.concatenate([ids[:0], *(ids[first:end] for first, end in spans)])] = True
            return np.flatnonzero(listed).astype(np.int32)

        return of


def _check_head(metadata: dict[str, str], where: str, sizes: dict[str, int]) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelFileError(f"{where}: format: expected {FORMAT!r}, found {shorten(metadata.get('format'))}")
    expected = {"version": VERSION, **sizes}
    for name, value in expected.items():
        if metadata.get(name) != str(value):
            whose = "" if name == "version" else ", as the model has"
            raise ModelFileError(f"{where}: {name}: expected {value}{whose}, found {shorten(metadata.get(name))}")


def _read(data: memoryview, entry: Entry, where: str) -> np.ndarray:
    if entry.dtype != "I32" or len(entry.shape) != 1:
        raise ModelFileError(f"{where}: expected I32 of one dimension, found {entry.dtype} {list(entry.shape)}")
    return np.frombuffer(data[entry.begin : entry.end], STORED).astype(np.int32)


def _check_ids(ids: np.ndarray, restarts: np.ndarray, vocab: int, where: str) -> None:
    """In range, and each above the one before it, but where `restarts` [n - 1] says that a new list begins."""
    outside = np.flatnonzero((ids < 0) | (ids >= vocab))
    if len(outside):
        raise ModelFileError(f"{where}: expected ids from 0 to {vocab - 1}, found {ids[outside[0]]}")
    falls = np.flatnonzero((ids[1:] <= ids[:-1]) & ~restarts)
    if len(falls):
        found = f"{ids[falls[0] + 1]} after {ids[falls[0]]}"
        raise ModelFileError(f"{where}: expected ids that ascend within a list, found {found}")
