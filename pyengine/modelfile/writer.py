"""Write a model directory: tensors are streamed, and the directory appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from pyengine.canonical import GenerationDefaults, ModelConfig, Removal
from pyengine.errors import ModelFileError, OptionError, TokenizerError
from pyengine.formats.limits import CONFIG_BYTES, VOCABULARY_BYTES
from pyengine.formats.regular_files import read_regular, usable_path
from pyengine.formats.safetensors_header import build_header
from pyengine.formats.strict_json import load_object
from pyengine.modelfile.checksums import SUMS_NAME, build_sums, hash_file
from pyengine.modelfile.directory import (
    CONFIG_NAME,
    FORMAT,
    GENERATION_NAME,
    TENSORS_NAME,
    TOKENIZER_FILES,
    VERSION,
)
from pyengine.modelfile.layout import DTYPES, PackedSpec, packed_specs

__all__ = ["check_target", "write_directory"]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_CHUNK_BYTES = 4 << 20


def check_target(path: str | Path, *, force: bool) -> None:
    """Raise OptionError if ``path`` cannot become a model directory.

    What exists is only replaced if it is an empty directory, or a model directory and ``force`` is given.
    """
    path = usable_path(path, OptionError)
    if not path.parent.is_dir():
        raise OptionError(f"{path}: the directory {path.parent} does not exist")
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise OptionError(f"{path}: exists and is not a directory")
    if not any(path.iterdir()):
        return
    if not _is_model_directory(path):
        raise OptionError(f"{path}: exists, is not empty and is no model directory; choose another place")
    if not force:
        raise OptionError(f"{path}: exists; --force replaces it")


def _is_model_directory(path: Path) -> bool:
    try:
        return load_object(path / CONFIG_NAME, ModelFileError, CONFIG_BYTES).get("format") == FORMAT
    except ModelFileError:
        return False


def write_directory(
    path: str | Path,
    *,
    config: ModelConfig,
    weights: str,
    other_weights: Mapping[str, str] | None = None,
    lines: Mapping[str, int] | None = None,
    generation: GenerationDefaults,
    tensors: Iterable[tuple[str, np.ndarray]],
    tokenizer: str | None,
    tokenizer_files: Mapping[str, Path],
    created_by: str,
    kv: str | None = None,
    removed: Sequence[Removal] = (),
    force: bool = False,
) -> int:
    """Write the model directory ``path`` and return its size in bytes.

    ``tensors`` yields (packed name, array) in the order of ``packed_specs`` for these types and ``lines``; each array
    is stored before the next one is asked for. Everything goes to a temporary directory beside ``path``, which
    is renamed at the end; whatever is raised in between (Ctrl-C too) leaves nothing behind. Raises
    OptionError as ``check_target`` does, and OSError from the file system.
    """
    check_target(path, force=force)
    path = Path(os.path.abspath(path))
    missing = [name for name in TOKENIZER_FILES[tokenizer] if name not in tokenizer_files]
    if missing:
        raise ModelFileError(f"{path}: a {tokenizer} tokenizer without {', '.join(missing)}")
    head = {
        "format": FORMAT,
        "version": VERSION,
        "weights": weights,
        **({"other_weights": dict(other_weights)} if other_weights else {}),
        **({"lines": dict(lines)} if lines else {}),
        **({"kv": kv} if kv else {}),
        "model": config.to_json(),
        **({"removed": [each.to_json() for each in removed]} if removed else {}),
        "tokenizer": tokenizer,
        "created_by": created_by,
    }
    scratch = _beside(path)
    try:
        scratch.mkdir()
        specs = packed_specs(config, weights, other_weights, lines)
        sums = {TENSORS_NAME: _write_tensors(scratch / TENSORS_NAME, specs, tensors)}
        _write(scratch / CONFIG_NAME, _json_bytes(head))
        _write(scratch / GENERATION_NAME, _json_bytes(generation.to_json()))
        for name, source in tokenizer_files.items():
            _write(scratch / name, read_regular(source, TokenizerError, VOCABULARY_BYTES))
        for entry in scratch.iterdir():
            sums.setdefault(entry.name, hash_file(entry))
        _write(scratch / SUMS_NAME, build_sums(sums))
        size = sum(entry.stat().st_size for entry in scratch.iterdir())
        _publish(scratch, path, force)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return size


def _beside(path: Path) -> Path:
    """A name that nothing has yet, in the directory of ``path``.

    A name only, so that whoever makes the directory can be inside a ``try`` that removes it.
    """
    return path.parent / f".{path.name}.{secrets.token_hex(8)}"


def _write_tensors(
    path: Path, specs: Mapping[str, PackedSpec], tensors: Iterable[tuple[str, np.ndarray]]
) -> str:
    """Stream the tensors to a safetensors file; returns its SHA-256."""
    table = {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
    header = build_header(table, {"format": FORMAT}, ALIGNMENT)
    digest = hashlib.sha256(header)
    expected = iter(specs.items())
    with open(path, "wb") as file:
        file.write(header)
        for name, array in tensors:
            wanted, spec = next(expected, ("no more tensors", None))
            given = (name, array.shape, array.dtype)
            if spec is None or given != (wanted, spec.shape, DTYPES[spec.dtype]):
                raise ModelFileError(f"{path.name}: expected {wanted} {spec}, was given {given}")
            # A packed array is a transposed view: made contiguous some panels at a time, not as a whole.
            step = max(1, _CHUNK_BYTES * len(array) // array.nbytes)
            for start in range(0, len(array), step):
                chunk = np.ascontiguousarray(array[start : start + step]).data
                file.write(chunk)
                digest.update(chunk)
            del array, chunk  # so that the next tensor is made without this one beside it
        for name, _ in expected:
            raise ModelFileError(f"{path.name}: expected {name}, was given no more tensors")
        _sync(file)
    return digest.hexdigest()


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode("ascii")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(scratch: Path, path: Path, force: bool) -> None:
    """Rename the finished directory into place; an older one goes only after the new one is there.

    Packing takes a while, so the target is looked at again: OptionError if something has appeared there that
    may not be replaced.
    """
    check_target(path, force=force)
    if force and path.exists() and any(path.iterdir()):
        old = _beside(path)
        os.rename(path, old)
        try:
            check_target(old, force=force)  # what was moved away, and what will be removed, is what was meant
            os.rename(scratch, path)
        except BaseException:
            os.rename(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(scratch, path)  # fails, and removes nothing, unless there is nothing or an empty directory
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
