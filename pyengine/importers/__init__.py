"""Importers: from the raw names and the config of a training framework to a CanonicalModel.

One module a family, registered here by the names that ``config.json`` gives under "architectures".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping

from pyengine.canonical import CanonicalModel
from pyengine.checkpoints import StoredTensor, open_weights
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.regular_files import usable_path
from pyengine.formats.strict_json import load_object, shorten
from pyengine.importers.marian import import_marian

__all__ = ["open_checkpoint"]

Importer = Callable[[Path, dict[str, Any], Mapping[str, StoredTensor]], CanonicalModel]

_BY_ARCHITECTURE: dict[str, Importer] = {"MarianMTModel": import_marian}
# For a config without "architectures": what transformers' AutoModelForSeq2SeqLM would choose.
_BY_MODEL_TYPE = {"marian": "MarianMTModel"}


def open_checkpoint(path: str | Path) -> CanonicalModel:
    """Open the checkpoint directory ``path``, as Hugging Face exports it, without reading its tensors.

    Tables that may be tied are compared, so those are read once. Raises CheckpointError (missing or damaged
    files, tensors that do not fit the configuration), UnsupportedError (an architecture, option or format
    that the engine lacks) or TokenizerError (some of the tokenizer's files are missing).
    """
    path = usable_path(path, CheckpointError)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise CheckpointError(f"{path}: expected a checkpoint directory, found {found}")
    if not (path / "config.json").exists():
        found = "no config.json in it" if any(path.iterdir()) else "an empty directory"
        raise CheckpointError(f"{path}: expected a checkpoint directory, found {found}")
    config = load_object(path / "config.json", CheckpointError, CONFIG_BYTES)
    if config.get("format") == "pyengine":
        raise CheckpointError(f"{path}: a model directory already, expected a training checkpoint")
    importer = _BY_ARCHITECTURE[_architecture(config, path / "config.json")]
    model = importer(path, config, open_weights(path))
    model.validate()
    return model


def _architecture(config: dict[str, Any], path: Path) -> str:
    names = config.get("architectures")
    if not names:
        model_type = config.get("model_type")
        names = [_BY_MODEL_TYPE.get(model_type, model_type) if isinstance(model_type, str) else None]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: architectures: expected one name, found {shorten(names)}")
    if names[0] not in _BY_ARCHITECTURE:
        known = ", ".join(_BY_ARCHITECTURE)
        raise UnsupportedError(f"{path}: architecture {shorten(names[0])}; supported: {known}")
    return names[0]
