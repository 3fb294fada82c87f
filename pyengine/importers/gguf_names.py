"""GGUF's names and orders of a model's tensors, by architecture, and transformers' of the same.

Sources: the gguf package's ``constants`` (MODEL_TENSORS) and ``tensor_mapping`` for names; for rows and values
llama.cpp's conversion/ (llama.py: ``permute``; gemma.py: ``norm_shift``; gpt2.py and gptneox.py: ``modify_tensors``),
which is undone here, and transformers' modeling_gguf_pytorch_utils.py, which undoes most of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyengine.checkpoints import StoredTensor

__all__ = ["GEMMA2", "GEMMA3", "GPT2", "LLAMA", "NEOX", "PHI3", "QWEN3", "Names", "TakenTensor", "heads_joined",
           "renamed", "rows_in_halves"]  # fmt: skip

Take = Callable[[np.ndarray], np.ndarray]
# Module -> transformers' module, "*" a layer's number.
Names = Mapping[str, str]

_AROUND = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {f"blk.*.attn_{part}": f"model.layers.*.self_attn.{part}_proj" for part in "qkv"}
_GATED = {f"blk.*.ffn_{part}": f"model.layers.*.mlp.{part}_proj" for part in ("gate", "up", "down")}
_HEAD_NORMS = {f"blk.*.attn_{part}_norm": f"model.layers.*.self_attn.{part}_norm" for part in "qk"}
LLAMA: Names = {
    **_AROUND, **_ATTENTION, **_GATED,
    "blk.*.attn_output": "model.layers.*.self_attn.o_proj",
    "blk.*.attn_norm": "model.layers.*.input_layernorm",
    "blk.*.ffn_norm": "model.layers.*.post_attention_layernorm",
}  # fmt: skip
QWEN3: Names = {**LLAMA, **_HEAD_NORMS}
GEMMA2: Names = {
    **LLAMA,
    "blk.*.post_attention_norm": "model.layers.*.post_attention_layernorm",
    "blk.*.ffn_norm": "model.layers.*.pre_feedforward_layernorm",
    "blk.*.post_ffw_norm": "model.layers.*.post_feedforward_layernorm",
}
GEMMA3: Names = {**GEMMA2, **_HEAD_NORMS}
PHI3: Names = {
    **{name: other for name, other in LLAMA.items() if name not in {**_ATTENTION, **_GATED}},
    "blk.*.attn_qkv": "model.layers.*.self_attn.qkv_proj",
    "blk.*.ffn_up": "model.layers.*.mlp.gate_up_proj",
    "blk.*.ffn_down": "model.layers.*.mlp.down_proj",
}
GPT2: Names = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.*.attn_norm": "transformer.h.*.ln_1",
    "blk.*.attn_qkv": "transformer.h.*.attn.c_attn",
    "blk.*.attn_output": "transformer.h.*.attn.c_proj",
    "blk.*.ffn_norm": "transformer.h.*.ln_2",
    "blk.*.ffn_up": "transformer.h.*.mlp.c_fc",
    "blk.*.ffn_down": "transformer.h.*.mlp.c_proj",
}
NEOX: Names = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "lm_head",
    "blk.*.attn_norm": "gpt_neox.layers.*.input_layernorm",
    "blk.*.attn_qkv": "gpt_neox.layers.*.attention.query_key_value",
    "blk.*.attn_output": "gpt_neox.layers.*.attention.dense",
    "blk.*.ffn_norm": "gpt_neox.layers.*.post_attention_layernorm",
    "blk.*.ffn_up": "gpt_neox.layers.*.mlp.dense_h_to_4h",
    "blk.*.ffn_down": "gpt_neox.layers.*.mlp.dense_4h_to_h",
}

_NAME = re.compile(r"(?P<module>(?:blk\.(?P<layer>0|[1-9]\d{0,5})\.)?\w+)\.(?P<part>weight|bias)", re.ASCII)


@dataclass(frozen=True)
class TakenTensor:
    """A ``StoredTensor`` by another name, with what ``take`` makes of its values, of ``shape``."""

    name: str
    shape: tuple[int, ...]
    stored: StoredTensor
    take: Take | None = None

    @property
    def dtype(self) -> str:
        """See ``StoredTensor``."""
        return self.stored.dtype

    @property
    def path(self) -> Path:
        """See ``StoredTensor``."""
        return self.stored.path

    def same_storage(self, other: StoredTensor) -> bool:
        """See ``StoredTensor``."""
        same = isinstance(other, TakenTensor) and (self.shape, self.take) == (other.shape, other.take)
        return same and isinstance(other, TakenTensor) and self.stored.same_storage(other.stored)

    def read(self, *, minus_infinity: bool = False) -> np.ndarray:
        """See ``StoredTensor``."""
        values = self.stored.read(minus_infinity=minus_infinity)
        return values if self.take is None else np.ascontiguousarray(self.take(values))


def renamed(
    tensors: Mapping[str, StoredTensor], names: Names, takes: Mapping[str, Take]
) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors by transformers' names, and the names that ``names`` has not.

    ``takes``: module, or module and part, -> what undoes the conversion. Without a change of shape, or transposed.
    """
    found: dict[str, StoredTensor] = {}
    others = []
    for name, stored in tensors.items():
        match = _NAME.fullmatch(name)
        layer = match["layer"] if match else None
        module = (match["module"] if layer is None else match["module"].replace(layer, "*", 1)) if match else ""
        if match is None or module not in names:
            others.append(name)
            continue
        take = takes.get(f"{module}.{match['part']}", takes.get(module))
        raw = f"{names[module].replace('*', layer or '')}.{match['part']}"
        shape = stored.shape[::-1] if take is np.transpose else stored.shape
        found[raw] = TakenTensor(raw, shape, stored, take)
    return found, others


def rows_in_halves(heads: int) -> Take:
    """Rows of each head from pairs that turn together, as llama.cpp wants them, to halves, as transformers does."""

    def take(values: np.ndarray) -> np.ndarray:
        rest = values.shape[1:]
        return values.reshape(heads, -1, 2, *rest).swapaxes(1, 2).reshape(values.shape)

    return take


def heads_joined(heads: int) -> Take:
    """Rows from [q k v, heads, width] to [heads, q k v, width]."""

    def take(values: np.ndarray) -> np.ndarray:
        return values.reshape(3, heads, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)

    return take
