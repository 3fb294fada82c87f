"""Write a model directory: tensors are streamed, and the directory appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Mapping, Sequence

import numpy as np

from pyengine.canonical import GenerationDefaults, ModelConfig, Removal
from pyengine.canonical.model import content_of
from pyengine.errors import ModelFileError
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.safetensors_header import build_header
from pyengine.formats.strict_json import load_object
from pyengine.modelfile.checksums import SUMS_NAME, build_sums
from pyengine.modelfile.directory import (
    CONFIG_NAME,
    FORMAT,
    GENERATION_NAME,
    TENSORS_NAME,
    TOKENIZER_FILES,
    VERSION,
)
from pyengine.modelfile.layout import DTYPES, PackedSpec, packed_specs
from pyengine.output import check_new_directory, create_file, new_directory, new_file

__all__ = ["check_target", "write_directory"]

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_CHUNK_BYTES = 4 << 20


def check_target(path: str | Path, *, overwrite: bool) -> None:
    """Raise OptionError if ``path`` cannot become a model directory.

    What exists is only replaced if it is an empty directory, or a model directory and ``overwrite`` is given.
    """
    check_new_directory(path, overwrite=overwrite, kind="model", ours=_is_model_directory)


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
    generation: GenerationDefaults | None,
    tensors: Iterable[tuple[str, np.ndarray]],
    tokenizer: str | None,
    tokenizer_files: Mapping[str, Path | bytes],
    created_by: str,
    kv: str | None = None,
    removed: Sequence[Removal] = (),
    overwrite: bool = False,
) -> int:
    """Write the model directory ``path`` and return its size in bytes.

    ``tensors`` yields (packed name, array) in the order of ``packed_specs`` for these types and ``lines``; each array
    is stored before the next one is asked for. It appears when it is complete (``output.new_directory``); SHA256SUMS
    is written last, and no directory without it is read. Raises OptionError as ``check_target`` does, TokenizerError
    for a tokenizer file that cannot be read, and OutputError from the file system.
    """
    path = Path(path)
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
    with new_directory(path, overwrite=overwrite, kind="model", ours=_is_model_directory) as scratch:
        specs = packed_specs(config, weights, other_weights, lines)
        with create_file(scratch / TENSORS_NAME, path / TENSORS_NAME) as file:
            sums = {TENSORS_NAME: _write_tensors(file, specs, tensors)}
        contents = {CONFIG_NAME: _json_bytes(head)}
        if generation is not None:
            contents[GENERATION_NAME] = _json_bytes(generation.to_json())
        for name, source in tokenizer_files.items():
            contents[name] = content_of(source)
        sums |= {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        for name, content in contents.items():
            with create_file(scratch / name, path / name) as file:
                file.write(content)
        # Last, and whole or not at all: to the reader it is the sign that nothing is missing.
        with new_file(scratch / SUMS_NAME, overwrite=False, shown=path / SUMS_NAME) as file:
            file.write(build_sums(sums))
        return sum(entry.stat().st_size for entry in scratch.iterdir())


def _write_tensors(
    file: BinaryIO, specs: Mapping[str, PackedSpec], tensors: Iterable[tuple[str, np.ndarray]]
) -> str:
    """Stream the tensors to a safetensors file; returns its SHA-256."""
    table = {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
    header = build_header(table, {"format": FORMAT}, ALIGNMENT)
    digest = hashlib.sha256(header)
    expected = iter(specs.items())
    file.write(header)
    for name, array in tensors:
        wanted, spec = next(expected, ("no more tensors", None))
        given = (name, array.shape, array.dtype)
        if spec is None or given != (wanted, spec.shape, DTYPES[spec.dtype]):
            raise ModelFileError(f"{TENSORS_NAME}: expected {wanted} {spec}, was given {given}")
        # A packed array is a transposed view: made contiguous some panels at a time, not as a whole.
        step = max(1, _CHUNK_BYTES * len(array) // array.nbytes)
        for start in range(0, len(array), step):
            chunk = np.ascontiguousarray(array[start : start + step]).data
            file.write(chunk)
            digest.update(chunk)
        del array, chunk  # so that the next tensor is made without this one beside it
    for name, _ in expected:
        raise ModelFileError(f"{TENSORS_NAME}: expected {name}, was given no more tensors")
    return digest.hexdigest()


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode("ascii")
