"""An interrupted calibration on disk: the statistics so far, how many lines they are of, and what of.

A safetensors file: "identity", the bytes of a JSON object; "done", the number of lines; and for each layer the arrays
of ``InputStatistics.state()`` as "LAYER/ARRAY".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pyengine.errors import InputError, OptionError
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.regular_files import map_regular
from pyengine.formats.safetensors_header import build_header, parse_header
from pyengine.formats.strict_json import parse_object, shorten
from pyengine.output import new_file
from pyengine.quantize.seeing.statistics import InputStatistics

__all__ = ["load_state", "save_state"]

_HEAD = {"identity": np.uint8, "done": np.int64}
_DTYPES = {"U8": "<u1", "I64": "<i8", "U64": "<u8", "F32": "<f4", "F64": "<f8"}  # by safetensors' names
_NAMES = {np.dtype(kind): name for name, kind in _DTYPES.items()}
_ALIGNMENT = 64


def save_state(
    path: Path, identity: Mapping[str, object], done: int, statistics: Mapping[str, InputStatistics]
) -> None:
    """Replace ``path``, which is always whole.

    Raises OptionError if it is no regular file, OutputError if it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {
        "identity": np.frombuffer(json.dumps(identity).encode("ascii"), np.uint8),
        "done": np.array([done], np.int64),
    }
    for layer, gathered in statistics.items():
        arrays |= {f"{layer}/{name}": array for name, array in gathered.state().items()}
    table = {name: (_NAMES[array.dtype], array.shape) for name, array in arrays.items()}
    with new_file(path, overwrite=True) as file:
        file.write(build_header(table, {}, _ALIGNMENT))
        for array in arrays.values():
            file.write(array.tobytes())


def load_state(path: Path, identity: Mapping[str, object]) -> tuple[int, dict[str, InputStatistics]]:
    """Lines done, and the statistics. Raises InputError if the file is damaged; OptionError if it is of another
    identity, with what differs.
    """
    try:
        arrays = _read(path)
        found = parse_object(arrays.pop("identity").tobytes(), f"{path}: identity", InputError, CONFIG_BYTES)
        _require_same(path, json.loads(json.dumps(identity)), found)  # as it comes back, tuples being lists
        done = int(arrays.pop("done")[0])
        layers: dict[str, dict[str, np.ndarray]] = {}
        for key, array in arrays.items():
            layer, _, name = key.partition("/")
            layers.setdefault(layer, {})[name] = array
        return done, {layer: InputStatistics.from_state(state) for layer, state in layers.items()}
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(
            f"{path}: expected the state of a calibration, found something else: {reason}; remove it to start anew"
        ) from None


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file; "identity" and "done" are there, of their types."""
    data = map_regular(path, InputError)
    found: dict[str, np.ndarray] = {}
    for name, entry in parse_header(data, str(path), InputError).items():
        if entry.dtype not in _DTYPES:
            raise InputError(f"{path}: {shorten(name)}: expected one of {', '.join(_DTYPES)}, found {entry.dtype}")
        found[name] = np.ndarray(entry.shape, _DTYPES[entry.dtype], data, entry.begin)
    for name, kind in _HEAD.items():
        if name not in found or found[name].dtype != kind or found[name].ndim != 1:
            raise InputError(f"{path}: {name}: expected an array of numbers, found none")
    if len(found["done"]) != 1 or found["done"][0] < 0:
        raise InputError(f"{path}: done: expected a number of lines, found {shorten(found['done'].tolist())}")
    return found


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
