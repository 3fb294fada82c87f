"""Every key of a config.json at another value: the imported model computes what transformers makes of
it, or the key is refused by name. Every key that is absent has the default of transformers' class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.importers import FAMILIES, open_checkpoint
from pyengine.importers.generation import GENERATION_KEYS

from .checkpoints import config_of, logits_by, model_of, save, theirs_by
from .families import LANGUAGE_MODELS, SEQ2SEQ

LENGTH = 19
LOWEST = 8  # of ids: padding in a text has its own meaning in some classes
# By architecture: the first of the models that has its config.
BASES = {
    case.model.__class__.__name__: case
    for case in (make() for make in reversed((*LANGUAGE_MODELS, *SEQ2SEQ)))
}  # fmt: skip
TABLES = {family.model_type: family for family in FAMILIES if family.architectures[0] in BASES}

TURNS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 77.0},
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 77.0},
    {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 77.0},
    {"rope_type": "yarn", "factor": 2.0, "rope_theta": 77.0, "original_max_position_embeddings": 20},
    {"rope_type": "llama3", "factor": 2.0, "rope_theta": 77.0, "original_max_position_embeddings": 20,
     "low_freq_factor": 1.0, "high_freq_factor": 4.0},
]  # fmt: skip
OTHERS: dict[str, list[Any]] = {
    "vocab_size": [301],
    "hidden_size": [84, 88],
    "n_embd": [88],
    "num_attention_heads": [4, 2],
    "n_head": [5],
    "num_key_value_heads": [3, None],
    "head_dim": [16],
    "max_position_embeddings": [50],
    "n_positions": [50],
    "n_inner": [None, 60],
    "num_hidden_layers": [1, 3],
    "hidden_act": ["gelu", "relu", "gelu_pytorch_tanh", "tanh", "laplace"],
    "hidden_activation": ["gelu", "silu"],
    "activation_function": ["gelu", "relu", "quick_gelu"],
    "sliding_window": [3, None, 400],
    "layer_types": [["full_attention", "sliding_attention"], ["full_attention"] * 2, ["sliding_attention"] * 2, None],
    "no_rope_layers": [[0, 1], [0, 0], [1, 1, 0], None],
    "no_rope_layer_interval": [1, 3],
    "max_window_layers": [0, 2],
    "rope_parameters": TURNS,
    "rope_scaling": [*TURNS, {"type": "linear", "factor": 2.0}],
    "rope_theta": [50.0, 10000.0],
    "rope_local_base_freq": [70.0],
    "partial_rotary_factor": [0.5, 0.25, 1.0],
    "rotary_pct": [0.5],
    "rotary_emb_base": [50.0],
    "original_max_position_embeddings": [30],
    "rms_norm_eps": [0.1],
    "layer_norm_eps": [0.1],
    "layer_norm_epsilon": [0.1],
    "query_pre_attn_scalar": [9],
    "attn_logit_softcapping": [0.5, None],
    "final_logit_softcapping": [0.7, None],
    "sliding_window_pattern": [2],
    "pad_token_id": [4],
    "bos_token_id": [4],
    "decoder_start_token_id": [4],
    "d_model": [100],
    "init_std": [0.1],
    "initializer_factor": [0.5],
    "id2label": [{"0": "A"}],
    "label2id": [{"A": 0}],
    "encoder_attention_heads": [2, 8],
    "decoder_attention_heads": [2],
    "encoder_layers": [1, 3],
    "decoder_layers": [1, 2],
    "num_heads": [3],
    "num_layers": [1, 4],
    "num_decoder_layers": [1, 3, None],
    "relative_attention_num_buckets": [8, 13],
    "relative_attention_max_distance": [9, 30],
    "feed_forward_proj": ["gated-silu", "gelu", "relu", "gated-gelu", "gated-"],
    "dense_act_fn": ["relu", "silu", "laplace"],
    "dtype": ["bfloat16"],
}  # fmt: skip
# What config.json says of each layer, where other keys say it of all: without it, these have an effect.
BY_LAYER = ("layer_types", "no_rope_layers")
OF_LAYERS = {
    "num_hidden_layers", "use_sliding_window", "sliding_window", "max_window_layers", "no_rope_layer_interval",
    "sliding_window_pattern",
}  # fmt: skip
# These have an effect where "rope_parameters" is absent.
OLDER = {"rope_theta", "rotary_pct", "rotary_emb_base", "rope_local_base_freq", "rope_scaling"}
# The first has an effect where the others are absent.
MORE_EXACT = {
    "feed_forward_proj": ("is_gated_act", "dense_act_fn"),
    "tie_word_embeddings": ("scale_decoder_outputs",),
}


def others(key: str, value: Any) -> list[Any]:
    """Legal values besides ``value``."""
    if key in OTHERS:
        return [other for other in OTHERS[key] if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + (1 if isinstance(value, int) else 0.5)]
    if isinstance(value, (list, dict)):
        return [[0]]
    return ["other"]


def changed(base: dict[str, Any], key: str, other: Any) -> Iterator[dict[str, Any]]:
    """Configs with ``other`` as the value of ``key``."""
    turns = base.get("rope_parameters") or {}
    part = {"partial_rotary_factor": turns["partial_rotary_factor"]} if "partial_rotary_factor" in turns else {}
    if key in ("rope_parameters", "rope_scaling"):
        other = {**part, **other}
    if key == "rope_parameters" and "full_attention" in turns:
        yield {**base, key: {**turns, "full_attention": other}}
        yield {**base, key: {**turns, "sliding_attention": other}}
    yield {**base, key: other}
    if key in MORE_EXACT:
        yield {**{name: value for name, value in base.items() if name not in MORE_EXACT[key]}, key: other}
    if key in OF_LAYERS:
        yield {**{name: value for name, value in base.items() if name not in BY_LAYER}, key: other}
    if key in OLDER:
        old = {"rotary_pct": part["partial_rotary_factor"]} if base["model_type"] == "gpt_neox" else {}
        yield {**old, **{name: value for name, value in base.items() if name != "rope_parameters"}, key: other}


def becomes(directory: Path, kind: type, config: dict[str, Any], key: str) -> str:
    """What became of ``config``: "illegal" for transformers, "refused" or "followed"."""
    try:
        model = model_of(kind, config).float()
        ids = np.random.RandomState(1).randint(LOWEST, model.config.vocab_size, LENGTH)
        expected = theirs_by(model, ids)
    except Exception:
        return "illegal"
    save(directory, model, config)
    try:
        found = open_checkpoint(directory)
    except (CheckpointError, UnsupportedError) as exc:
        assert key in str(exc), (key, config[key])
        return "refused"
    bound = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits_by(found, ids), expected, rtol=0, atol=bound, err_msg=f"{key} = {config[key]}")
    return "followed"


@pytest.mark.parametrize("name", TABLES)
def test_every_key_at_another_value(tmp_path: Path, name: str) -> None:
    family, model = TABLES[name], BASES[TABLES[name].architectures[0]].model
    save(tmp_path, model)
    base = config_of(tmp_path)
    known = {**dict.fromkeys(family.ignored), **family.fixed, **family.keys, **base}
    for key in known.keys() - {"architectures", "model_type", "transformers_version"}:  # they choose the class
        became = {
            becomes(tmp_path, type(model), config, key)
            for other in others(key, known[key])
            for config in changed(base, key, other)
        }
        if key in family.fixed:
            assert "followed" not in became, key
        else:
            assert "followed" in became, (key, became)
            assert key in family.keys or "refused" not in became, key


# What transformers takes out of the rest of the keys, by class.
BEHIND: dict[str, dict[str, Any]] = {
    "": {"head_dim": None, "rope_scaling": None, "rope_theta": 10000.0, "partial_rotary_factor": None,
         "original_max_position_embeddings": None},
    "smollm3": {"rope_theta": 2000000.0},
    "gemma3_text": {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6},
    "gpt_neox": {"rope_theta": None, "rotary_emb_base": 10000.0, "rotary_pct": 0.25},
    "t5": {"tie_word_embeddings": True, "scale_decoder_outputs": None, "is_gated_act": None, "dense_act_fn": None},
    "mt5": {"is_gated_act": None, "dense_act_fn": None},
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_defaults_are_those_of_the_class(name: str) -> None:
    family, kind = TABLES[name], transformers.CONFIG_MAPPING[name]
    fields = {each.name: each.default for each in dataclasses.fields(kind)}
    behind = {**BEHIND[""], **BEHIND.get(name, {})}
    for key, default in family.keys.items():
        assert default == (fields[key] if key in fields else behind[key]), key
    for key, only in family.fixed.items():
        assert fields.get(key) in (None, only), key
    common = {each.name for each in dataclasses.fields(transformers.PreTrainedConfig)} | GENERATION_KEYS
    assert fields.keys() - common <= family.keys.keys() | family.fixed.keys() | family.ignored
    optional = {key for key, value in kind.__annotations__.items() if "None" in str(value)} & family.keys.keys()
    if name not in ("bart", "m2m_100"):  # whose classes say so of what they cannot be made without
        assert optional <= family.nullable | {key for key in optional if family.keys[key] is None}
    if family.tokens:
        said = {key: value for key, value in fields.items() if key.endswith("_token_id") and isinstance(value, int)}
        assert family.tokens == said
