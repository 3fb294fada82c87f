"""An interrupted calibration on disk: the statistics so far, how many lines they are of, and what of.

An uncompressed .npz: "identity", the bytes of a JSON object; "done", the number of lines; and for each layer the
arrays of ``InputStatistics.state()`` as "LAYER/ARRAY".
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyengine.errors import InputError, OptionError
from pyengine.quantize.statistics import InputStatistics

__all__ = ["load_state", "save_state"]

_HEAD = ("identity", "done")


def save_state(
    path: Path, identity: Mapping[str, object], done: int, statistics: Mapping[str, InputStatistics]
) -> None:
    """Replace ``path``, which is always whole. Raises OptionError if it cannot be written."""
    arrays = {
        "identity": np.frombuffer(json.dumps(identity).encode("ascii"), np.uint8),
        "done": np.array(done, np.int64),
    }
    for layer, gathered in statistics.items():
        arrays |= {f"{layer}/{name}": array for name, array in gathered.state().items()}
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OptionError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with open(handle, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        os.unlink(scratch)
        raise OptionError(f"{path}: cannot be written: {error.strerror}") from None
    except BaseException:
        os.unlink(scratch)
        raise


def load_state(path: Path, identity: Mapping[str, object]) -> tuple[int, dict[str, InputStatistics]]:
    """Lines done, and the statistics. Raises InputError if the file is damaged; OptionError if it is of another
    identity, with what differs.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = json.loads(json.dumps(identity))  # as it comes back, tuples being lists
            _require_same(path, wanted, json.loads(file["identity"].tobytes()))
            done = int(file["done"])
            layers: dict[str, dict[str, np.ndarray]] = {}
            for key in file.files:
                if key not in _HEAD:
                    layer, name = key.split("/")
                    layers.setdefault(layer, {})[name] = file[key]
        return done, {layer: InputStatistics.from_state(state) for layer, state in layers.items()}
    except OptionError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: expected the state of a calibration, found something else: {reason}") from None


def _require_same(path: Path, wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    differing = [
        f"{name} (expected {wanted.get(name)}, found {found.get(name)})"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if differing:
        raise OptionError(
            f"{path}: the state of another calibration, it differs in {', '.join(differing)}; remove it to start anew"
        )
