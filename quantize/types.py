"""Which type every matrix gets: a default, what is usually kept finer, and what the user says tensor by tensor."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Sequence

from pyengine.canonical import ModelConfig
from pyengine.errors import OptionError
from pyengine.modelfile.layout import INT4, SPARSE, WEIGHTS, packed_specs

__all__ = ["TYPES", "resolve_types"]

TYPES = tuple(kind for kind in WEIGHTS if kind != SPARSE)
"""What can be asked for; SPARSE is what pruning makes of int8."""


def resolve_types(config: ModelConfig, weights: str, tensors: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """The types of the matrices that are not of type ``weights``: packed name without ".weight" -> type.

    With int4, embedding tables and the output layer are int8: each of their errors meets every token. ``tensors``
    are (pattern, type), later ones win; a pattern with ``*`` and ``?`` matches packed names
    ("encoder.layers.0.ffn.up"), canonical ones ("encoder.layers.0.self_attention.q") and "lm_head", the matrix that
    gives the logits. An empty ``weights`` leaves only what ``tensors`` names. Raises OptionError for an unknown type,
    and for a pattern that matches nothing.
    """
    for option, kind in (("weights", weights), *(("tensors", kind) for _, kind in tensors)):
        if kind and kind not in TYPES:
            raise OptionError(f"{option}: expected one of {', '.join(TYPES)}, found {kind!r}", keywords=(option,))
    names = _names(config)
    types = dict.fromkeys(names, weights)
    if weights in INT4:
        for name in names:
            if name.endswith("embed") or name == "output":
                types[name] = "int8"
    for pattern, kind in tensors:
        matched = [name for name, known in names.items() if any(fnmatchcase(one, pattern) for one in known)]
        if not matched:
            raise OptionError(
                f"tensors: {pattern!r} matches no matrix; there are {', '.join(list(names)[:3])}, ... and lm_head",
                keywords=("tensors",),
            )
        types.update(dict.fromkeys(matched, kind))
    return {name: kind for name, kind in types.items() if kind != weights}


def _names(config: ModelConfig) -> dict[str, list[str]]:
    """Packed name of each matrix -> all names that a pattern may match."""
    names = {}
    for packed, spec in packed_specs(config, "float32").items():
        if spec.kind == "weight":
            name = packed.removesuffix(".weight")
            names[name] = [name, *(source.removesuffix(".weight") for source in spec.sources)]
    if config.decoder is not None:
        names["output" if "output" in names else "decoder.embed"].append("lm_head")
    return names
