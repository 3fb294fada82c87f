"""Open a model directory: everything is checked before anybody sees a pointer into the mapped file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from pyengine.canonical import GenerationDefaults, ModelConfig, Removal
from pyengine.canonical.tensors import mismatches
from pyengine.errors import ModelFileError
from pyengine.formats.foreign import what_else
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.regular_files import copy_regular, map_regular, usable_path
from pyengine.formats.safetensors_header import parse_header
from pyengine.formats.strict_json import Fields, load_object, shorten
from pyengine.modelfile.checksums import SUMS_NAME, verify_sums
from pyengine.modelfile.directory import (
    CONFIG_NAME,
    FORMAT,
    GENERATION_NAME,
    KV,
    TENSORS_NAME,
    TOKENIZER_FILES,
    VERSION,
)
from pyengine.modelfile.layout import (
    DTYPES,
    FLOATS,
    SPARSE,
    WEIGHTS,
    check_lines,
    matrix_names,
    matrix_shapes,
    packed_specs,
    padded_shape,
)

__all__ = ["ModelDirectory", "ModelHead", "open_directory", "open_head", "open_weights"]


@dataclass(frozen=True)
class ModelHead:
    """What a model directory says of itself.

    ``weights`` is the type of all matrices (``layout.WEIGHTS``) but for those in ``other_weights``, by packed name;
    ``lines`` is how many each block-sparse one has;
    ``tokenizer_kind`` None, "sentencepiece" or "tokenizers"; ``kv`` the type of cached keys and values that it asks
    for, one of KV, or None; ``removed`` what pruning took; ``bytes`` the size of all files; ``generation`` None without
    a decoder.
    """

    path: Path
    config: ModelConfig
    weights: str
    other_weights: Mapping[str, str]
    lines: Mapping[str, int]
    generation: GenerationDefaults | None
    tokenizer_kind: str | None
    created_by: str
    kv: str | None
    removed: tuple[Removal, ...]
    bytes: int

    @property
    def rounded(self) -> bool:
        """Whether any matrix is stored in integers, which products read with rows in int8."""
        return not {self.weights, *self.other_weights.values()}.issubset(FLOATS)


@dataclass(frozen=True)
class ModelDirectory(ModelHead):
    """An open model directory. ``tensors`` are read-only views of one piece of memory, by packed name (``layout``).

    The memory lives as long as any array that came from it.
    """

    tensors: dict[str, np.ndarray] = field(repr=False)


def open_directory(path: str | Path, verify: bool = False, copy: bool = False) -> ModelDirectory:
    """Open the model directory ``path``: ``open_head``, then ``open_weights``, with their arguments and errors."""
    return open_weights(open_head(path, verify), copy)


def open_head(path: str | Path, verify: bool = False) -> ModelHead:
    """Read all but the weights of the model directory ``path``; with ``verify`` compare every byte with its checksum.

    Raises ModelFileError naming the file or field and what was expected: for a damaged or incomplete
    directory, one of another version, and for a training checkpoint (with the command that converts it).
    """
    path = usable_path(path, ModelFileError)
    if (found := what_else(path)) is not None:
        raise ModelFileError(f"{path}: expected a model directory, found {found}")
    config_path = path / CONFIG_NAME
    head = load_object(config_path, ModelFileError, CONFIG_BYTES)
    _refuse_foreign(path, head)
    if not (path / SUMS_NAME).is_file():
        raise ModelFileError(
            f"{path}: expected a whole model directory, found no {SUMS_NAME}, which is written last: what made it or "
            "copied it was ended before; make it or copy it again"
        )
    if verify:
        verify_sums(path)

    fields = Fields(head, str(config_path), ModelFileError)
    fields.take("format")
    fields.take("version")
    weights = fields.choice("weights", WEIGHTS)
    config = ModelConfig.from_json(fields.take("model"), f"{config_path}: model")
    others = Fields(fields.take("other_weights", {}), f"{config_path}: other_weights", ModelFileError)
    other_weights = {
        name: others.choice(name, WEIGHTS) for name in matrix_names(config) if name in others.remaining()
    }
    others.finish()
    lines = _lines(fields.take("lines", {}), f"{config_path}: lines", config, weights, other_weights)
    kv = fields.choice("kv", (None, *KV), None)
    removed = _removed(fields.take("removed", []), f"{config_path}: removed")
    tokenizer = fields.choice("tokenizer", tuple(TOKENIZER_FILES))
    created_by = fields.text("created_by")
    fields.finish()
    missing = [name for name in TOKENIZER_FILES[tokenizer] if not (path / name).is_file()]
    if missing:
        raise ModelFileError(f"{path}: a {tokenizer} tokenizer without {', '.join(missing)}")
    return ModelHead(
        path=path,
        config=config,
        weights=weights,
        other_weights=other_weights,
        lines=lines,
        generation=_generation(path / GENERATION_NAME, config),
        tokenizer_kind=tokenizer,
        created_by=created_by,
        kv=kv,
        removed=removed,
        bytes=sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file()),
    )


def _generation(path: Path, config: ModelConfig) -> GenerationDefaults | None:
    if config.decoder is None and not path.exists():
        return None
    return GenerationDefaults.from_json(load_object(path, ModelFileError, CONFIG_BYTES), str(path), config)


def _lines(
    data: object, where: str, config: ModelConfig, weights: str, other_weights: Mapping[str, str]
) -> dict[str, int]:
    """Those of each sparse matrix. Tables and the output layer, which are read by rows, cannot be sparse."""
    fields, found = Fields(data, where, ModelFileError), {}
    for name, shape in matrix_shapes(config).items():
        if other_weights.get(name, weights) == SPARSE:
            if ".layers." not in name:
                raise ModelFileError(f"{where}: {name} cannot be {SPARSE}")
            rows, columns = padded_shape(*shape)
            found[name] = fields.integer(name, 1, rows * columns // 64)
    fields.finish()
    return found


def _removed(data: object, where: str) -> tuple[Removal, ...]:
    if not isinstance(data, list):
        raise ModelFileError(f"{where}: expected a list, found {shorten(data)}")
    return tuple(Removal.from_json(each, f"{where}[{i}]") for i, each in enumerate(data))


def open_weights(head: ModelHead, copy: bool = False) -> ModelDirectory:
    """The directory with its tensors, in a mapping of the file, or with ``copy`` in memory of their own (``pages``).

    Raises ModelFileError naming the file or tensor and what was expected.
    """
    tensors = _open_tensors(head, copy)
    return ModelDirectory(**{each.name: getattr(head, each.name) for each in fields(head)}, tensors=tensors)


def _refuse_foreign(path: Path, head: dict[str, Any]) -> None:
    if head.get("format") != FORMAT:
        if "model_type" in head or "architectures" in head:
            raise ModelFileError(
                f"{path}: a training checkpoint, expected a model directory; convert it first: "
                f"pyengine quantize {path} -o OUT"
            )
        found = shorten(head.get("format"))
        raise ModelFileError(f"{path / CONFIG_NAME}: format: expected {FORMAT!r}, found {found}")
    version = head.get("version")
    if type(version) is not int or version < 1:
        found = shorten(version)
        raise ModelFileError(f"{path / CONFIG_NAME}: version: expected a positive integer, found {found}")
    if version > VERSION:
        raise ModelFileError(
            f"{path}: model directory of version {version} (created by {shorten(head.get('created_by'))}), "
            f"this pyengine reads version {VERSION}; update pyengine"
        )
    if version < VERSION:
        raise ModelFileError(
            f"{path}: model directory of version {version} (created by {shorten(head.get('created_by'))}), "
            f"this pyengine reads version {VERSION}; convert the checkpoint that it came from again: "
            f"pyengine quantize CHECKPOINT -o {path} --overwrite"
        )


def _open_tensors(head: ModelHead, copy: bool) -> dict[str, np.ndarray]:
    path = head.path / TENSORS_NAME
    data = (copy_regular if copy else map_regular)(path, ModelFileError)
    entries = parse_header(data, str(path), ModelFileError)
    specs = packed_specs(head.config, head.weights, head.other_weights, head.lines)
    problems = [mismatches({n: s.shape for n, s in specs.items()}, {n: e.shape for n, e in entries.items()})]
    for name in specs.keys() & entries.keys():
        entry, spec = entries[name], specs[name]
        if entry.dtype != spec.dtype:
            problems.append(f"{name} is {entry.dtype}, expected {spec.dtype}")
        if entry.begin % 64:
            problems.append(f"{name} begins at byte {entry.begin}, expected a multiple of 64")
    if any(problems):
        found = "; ".join(problem for problem in problems if problem)
        raise ModelFileError(f"{path}: the tensors do not match {CONFIG_NAME} ({head.weights}): {found}")
    tensors = {
        name: np.frombuffer(
            data, DTYPES[spec.dtype], count=int(np.prod(spec.shape)), offset=entries[name].begin
        ).reshape(spec.shape)
        for name, spec in specs.items()
    }
    shapes = matrix_shapes(head.config)
    for name in head.lines:
        try:
            check_lines(tensors, name, *shapes[name])
        except ValueError as error:
            raise ModelFileError(f"{path}: tensor {error}") from None
    for name, spec in specs.items():
        # Matrices are left to `verify`: to look at every weight would take longer than to load the model.
        if spec.kind != "weight":
            fine = np.isfinite(tensors[name])
            if name == "output.bias" and head.config.logit_soft_cap is None:  # minus infinity: an id never written
                fine |= np.isneginf(tensors[name])
            if not fine.all():
                raise ModelFileError(f"{path}: tensor {name}: expected finite values, found NaN or infinity")
        if name.endswith(".group_zero") and tensors[name].max() > 15:
            raise ModelFileError(f"{path}: tensor {name}: expected zero points up to 15, found {tensors[name].max()}")
    return tensors
