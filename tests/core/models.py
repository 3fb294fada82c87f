"""Tiny random models for the C core, packed as a model directory packs them, and short ways to write plans."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pyengine import _core
from pyengine.canonical import ModelConfig
from pyengine.modelfile import layout
from pyengine.plan import Plan, StepResult
from pyengine.quantize.rounding.rounding import pack_parts, round_parts

from ..oracle.tiny import UNEVEN, model_config, random_tensors

__all__ = ["COMPUTE", "SANITIZED", "UNEVEN", "TinyModel", "make_plan", "model_config", "new_session", "step"]

# Whether the address sanitizer is here: it aborts where malloc fails, and keeps freed memory for a while.
SANITIZED = hasattr(ctypes.CDLL(None), "__asan_init")

# (weights, kv)
COMPUTE = (
    ("float32", "float32"), ("float32", "int8"), ("int8", "float32"), ("int8", "int8"), ("int4g32", "int8"),
    ("int4g64z", "float32"),
)  # fmt: skip


def round_matrices(
    config: ModelConfig, floats: dict[str, np.ndarray], weights: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Packed tensors of a model whose matrices are all of one type, and the canonical ones that they stand for."""
    packed: dict[str, np.ndarray] = {}
    floats = dict(floats)
    for name, spec in layout.packed_specs(config, weights).items():
        parts = [floats[source] for source in spec.sources]
        if spec.kind in ("vector", "table"):
            packed[name] = layout.pack_values(parts, spec.form)
        elif spec.kind == "weight":
            name = name.removesuffix(".weight")
            rounded = round_parts(parts, weights)
            stacked = pack_parts(rounded, form=spec.form)
            packed |= {f"{name}.{part}": np.ascontiguousarray(array) for part, array in stacked.items()}
            for source, part, matrix in zip(spec.sources, parts, rounded, strict=True):
                floats[source] = matrix if isinstance(matrix, np.ndarray) else matrix.dequantize(part.shape[1])
    return packed, floats


@dataclass(frozen=True)
class TinyModel:
    """config, packed tensors for `_core.Model`, and the canonical tensors that these stand for, dequantized."""

    config: ModelConfig
    weights: str
    packed: Mapping[str, np.ndarray]
    floats: Mapping[str, np.ndarray]

    @classmethod
    def random(cls, weights: str = "float32", seed: int = 1, std: float = 0.5, **changes: object) -> TinyModel:
        config = model_config(**changes)
        return cls.of(config, random_tensors(config, seed, std), weights)

    @classmethod
    def of(cls, config: ModelConfig, tensors: Mapping[str, np.ndarray], weights: str) -> TinyModel:
        """Of canonical `tensors`, float32."""
        packed, floats = round_matrices(config, dict(tensors), weights)
        assert {name: array.shape for name, array in packed.items()} == {
            name: spec.shape for name, spec in layout.packed_specs(config, weights).items()
        }
        return cls(config, weights, packed, floats)

    def core(self, kv: str = "float32", isa: str | None = None) -> _core.Model:
        return _core.Model(self.config, self.packed, kv=kv, isa=isa)


def new_session(
    model: _core.Model, *, threads: int = 1, max_rows: int = 256, max_sequences: int = 80, max_memories: int = 70,
    cache_bytes: int = 0,
) -> _core.Session:  # fmt: skip
    return _core.Session(
        model, _core.Crews(threads), max_rows=max_rows, max_sequences=max_sequences, max_memories=max_memories,
        cache_bytes=cache_bytes,
    )  # fmt: skip


def make_plan(
    *,
    sources: Mapping[int, Sequence[int]] | None = None,
    rows: Sequence[tuple[int, int, Sequence[int]]] = (),
    logit_rows: Sequence[int] | None = None,
    exclude: Sequence[Sequence[int]] | None = None,
    lists: Sequence[Sequence[int]] | None = None,
    top_k: int = 1,
    full_logits: bool = False,
    states: bool = False,
    head: str | None = None,
    **arrays: object,
) -> Plan:
    """sources: memory -> its tokens; rows: (sequence, memory, tokens); exclude: ids for each row of logits;
    lists: the ids that each source allows.

    All rows get logits unless `logit_rows` says otherwise; other keywords replace arrays of the plan.
    """
    sources = sources or {}
    tokens = [token for _, _, some in rows for token in some]
    wanted = range(len(tokens)) if logit_rows is None else logit_rows
    exclude = [()] * len(wanted) if exclude is None else exclude
    values: dict[str, object] = {
        "encode_tokens": [token for some in sources.values() for token in some],
        "encode_lengths": [len(some) for some in sources.values()],
        "encode_memories": list(sources),
        "tokens": tokens,
        "sequences": [sequence for sequence, _, some in rows for _ in some],
        "memories": [memory for _, memory, some in rows for _ in some],
        "logit_rows": wanted,
        "exclude_offsets": np.cumsum([0, *map(len, exclude)]),
        "exclude_ids": [i for some in exclude for i in some],
        "list_offsets": [] if lists is None else np.cumsum([0, *map(len, lists)]),
        "list_ids": [i for some in lists or () for i in some],
        **arrays,
    }
    converted = {name: np.array(list(value), np.int32) for name, value in values.items()}  # type: ignore[call-overload]
    if "forks" in converted:
        converted["forks"] = converted["forks"].reshape(-1, 2)
    return Plan(top_k=top_k, full_logits=full_logits, states=states, head=head, **converted)


def step(session: _core.Session, **plan: object) -> StepResult:
    return session.step(make_plan(**plan))  # type: ignore[arg-type]
