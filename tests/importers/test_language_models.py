"""Tables of language models: what plans take, refuse and make of raw tensors. Results are compared with transformers'
in tests/oracle.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pyengine.canonical import CanonicalModel, ModelConfig, tensor_specs
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.formats.strict_json import Fields
from pyengine.importers import FAMILIES, open_checkpoint
from pyengine.importers.table import Family, Plan

ROOT = Path(__file__).resolve().parents[2]
BY_TYPE = {family.model_type: family for family in FAMILIES}
SIZES = {
    "vocab_size": 23, "hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6, "max_position_embeddings": 40,
}  # fmt: skip
TINY: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "mistral": SIZES,
    "smollm3": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "gemma2": SIZES,
    "gemma3_text": SIZES,
    "gemma3": {"text_config": SIZES},
    "phi3": SIZES,
    "gpt2": {"vocab_size": 23, "n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "gpt_neox": {
        "vocab_size": 23, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
        "max_position_embeddings": 40,
    },
}  # fmt: skip


def plan_of(model_type: str, **changes: Any) -> Plan:
    family = BY_TYPE[model_type]
    return family.plan(Fields({**family.keys, **TINY[model_type], **changes}, "config.json", CheckpointError))


def raw_tensors(plan: Plan) -> dict[str, np.ndarray]:
    """A random tensor of each raw name that the plan must have, all different."""
    rng, tensors = np.random.default_rng(3), {}
    for name, spec in tensor_specs(plan.config).items():
        source = plan.sources[name]
        if source.default is None and source.names[0] not in tensors:
            shape = source.shape or spec.shape
            tensors[source.names[0]] = rng.standard_normal(shape).astype(np.float32)
    return tensors


def write(
    directory: Path, model_type: str, tensors: dict[str, np.ndarray] | None = None, **changes: Any
) -> CanonicalModel:
    """Opens the checkpoint that is written, whose config names the architecture and what ``changes`` say."""
    family, keys = BY_TYPE[model_type], {**TINY[model_type], **changes}
    config = {"architectures": list(family.architectures), "model_type": model_type, **keys}
    (directory / "config.json").write_text(json.dumps(config))
    if tensors is None:
        given = keys.get(family.nested, keys)
        tensors = raw_tensors(family.plan(Fields({**family.keys, **given}, "config.json", CheckpointError)))
    save_file(tensors, directory / "model.safetensors")
    return open_checkpoint(directory)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_a_plan_takes_the_keys_of_its_table(family: Family) -> None:
    fields = Fields(family.keys, "config.json", CheckpointError)
    plan = family.plan(fields)
    assert not fields.remaining()
    assert tensor_specs(plan.config).keys() <= plan.sources.keys()
    assert family.nullable <= family.keys.keys()
    assert not (family.keys.keys() & family.fixed.keys() or family.keys.keys() & family.ignored)


@pytest.mark.parametrize("model_type", TINY)
def test_a_checkpoint_with_a_tiny_config(tmp_path: Path, model_type: str) -> None:
    """Nothing but sizes in it: class defaults for the rest."""
    model = write(tmp_path, model_type)
    model.validate()
    assert model.generation is not None and model.generation.decoder_start_token_id is None
    for name, tensor in model.tensors.items():
        assert np.isfinite(tensor.read()).all(), name


def test_parts_of_whole_matrices(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("phi3"))
    model = write(tmp_path, "phi3", tensors)
    whole = tensors["model.layers.1.self_attn.qkv_proj.weight"]
    parts = [model.tensors[f"decoder.layers.1.self_attention.{part}.weight"].read() for part in "qkv"]
    assert [len(part) for part in parts] == [12, 6, 6]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    both = [model.tensors[f"decoder.layers.0.ffn.{part}.weight"].read() for part in ("gate", "up")]
    np.testing.assert_array_equal(np.concatenate(both), tensors["model.layers.0.mlp.gate_up_proj.weight"])


def test_a_matrix_of_heads_each_with_queries_keys_and_values(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("gpt_neox"))
    model = write(tmp_path, "gpt_neox", tensors)
    whole = tensors["gpt_neox.layers.1.attention.query_key_value.bias"]
    keys = model.tensors["decoder.layers.1.self_attention.k.bias"].read()
    np.testing.assert_array_equal(keys, np.concatenate([whole[8:16], whole[32:40]]))  # of heads of 8


def test_transposed_products(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("gpt2"))
    model = write(tmp_path, "gpt2", tensors)
    whole = tensors["transformer.h.0.attn.c_attn.weight"]
    np.testing.assert_array_equal(model.tensors["decoder.layers.0.self_attention.v.weight"].read(), whole[:, 24:].T)
    assert model.config.decoder is not None
    assert model.config.decoder.layers[0].feed_forward.width == 4 * 12


def test_norms_about_one(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("gemma3_text"))
    model = write(tmp_path, "gemma3_text", tensors)
    for own, raw in (("norm", "model.norm"), ("layers.0.self_attention.k_norm", "model.layers.0.self_attn.k_norm")):
        np.testing.assert_array_equal(
            model.tensors[f"decoder.{own}.weight"].read(), 1 + tensors[f"{raw}.weight"], err_msg=own
        )


def windows(config: ModelConfig) -> list[int | None]:
    assert config.decoder is not None
    found = [layer.self_attention.window for layer in config.decoder.layers]
    return [None if window is None else window[0] + 1 for window in found]


LONG = {"num_hidden_layers": 4, "max_position_embeddings": 9000}


@pytest.mark.parametrize(
    ("model_type", "changes", "expected"),
    (
        ("mistral", {}, [4096] * 4),
        ("mistral", {"sliding_window": None}, [None] * 4),
        ("mistral", {"sliding_window": 9000}, [None] * 4),  # no less than all positions
        ("qwen2", {}, [None] * 4),
        ("qwen2", {"use_sliding_window": True}, [None] * 4),  # from layer 28 on
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}, [None, None, None, 4096]),
        ("qwen3", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}, [None] * 4),
        ("smollm3", {"sliding_window": 8}, [None] * 4),
        ("smollm3", {"sliding_window": 8, "use_sliding_window": True}, [None, None, None, 8]),
        ("gemma2", {}, [4096, None, 4096, None]),
        ("gemma3_text", {}, [4096] * 4),
        ("gemma3_text", {"sliding_window_pattern": 2}, [4096, None, 4096, None]),
        ("gemma2", {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, [None, None, None, 4096]),
    ),
    ids=str,
)
def test_windows(model_type: str, changes: dict[str, Any], expected: list[int | None]) -> None:
    assert windows(plan_of(model_type, **LONG, **changes).config) == expected


def test_layers_that_do_not_turn() -> None:
    config = plan_of("smollm3", **LONG).config
    assert config.decoder is not None
    assert [layer.self_attention.rope for layer in config.decoder.layers] == ["main", "main", "main", None]
    still = plan_of("smollm3", no_rope_layers=[0, 0]).config
    assert not still.ropes


def test_ropes_of_two_kinds_of_layers() -> None:
    """Bases of 10,000 and 1,000,000; the older keys, which scale full attention only."""
    plan = plan_of("gemma3_text", sliding_window_pattern=2, rope_scaling={"rope_type": "linear", "factor": 8.0})
    local, full = (plan.sources[f"rope.{name}.frequencies"].default for name in ("local", "full"))
    assert local is not None and full is not None
    np.testing.assert_allclose(local()[1], 10000 ** (-1 / 3), rtol=1e-6)
    np.testing.assert_allclose(full()[1], 1000000 ** (-1 / 3) / 8, rtol=1e-6)


@pytest.mark.parametrize(
    ("model_type", "changes", "error", "message"),
    (
        ("llama", {"quantization_config": {"bits": 4}}, UnsupportedError, "quantization_config = .*unknown"),
        ("llama", {"layer_types": ["full_attention"] * 2}, UnsupportedError, "layer_types = .*unknown"),
        ("llama", {"hidden_act": "laplace"}, UnsupportedError, "hidden_act = 'laplace'; supported: relu"),
        ("llama", {"num_hidden_layers": 257}, UnsupportedError, "num_hidden_layers: expected an integer from 1 to 256"),
        ("llama", {"num_hidden_layers": "2"}, CheckpointError, "num_hidden_layers: expected an integer"),
        ("llama", {"head_dim": None, "num_attention_heads": 5}, UnsupportedError, "num_attention_heads: 5 heads do"),
        ("llama", {"rope_interleaved": True}, UnsupportedError, "rope_interleaved = True: the engine has only False"),
        ("llama", {"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor = 0.5: the engine has only"),
        ("llama", {"rope_scaling": {"rope_type": "odd"}}, UnsupportedError, "rope_type = 'odd'; supported: default"),
        ("mistral", {"sliding_window": 0}, CheckpointError, "sliding_window: expected an integer from 1"),
        ("mistral", {"attention_bias": True}, UnsupportedError, "attention_bias = True: unknown"),
        ("smollm3", {"no_rope_layers": [1]}, CheckpointError, "no_rope_layers: expected a list of at least 2 numbers"),
        ("smollm3", {"no_rope_layers": [1, 2]}, CheckpointError, "no_rope_layers: expected a list"),
        ("smollm3", {"layer_types": ["sliding_attention"] * 2}, UnsupportedError, "layer_types: sliding_attention"),
        ("qwen2", {"layer_types": ["full_attention"]}, CheckpointError, "layer_types: expected a list of 2 words"),
        ("qwen2", {"layer_types": ["full_attention", "mamba"]}, UnsupportedError, "layer_types: 'mamba'; supported"),
        ("qwen2", {"layer_types": ["full_attention", []]}, UnsupportedError, r"layer_types: \[\]; supported"),
        ("gemma2", {"use_bidirectional_attention": True}, UnsupportedError, "use_bidirectional_attention = True"),
        ("gemma2", {"attn_logit_softcapping": 0}, UnsupportedError, "soft_cap: expected a positive number, found 0"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 3.0}}, UnsupportedError, "rope_parameters: 'rope_theta'"),
        ("gemma3_text", {"rope_parameters": [1]}, CheckpointError, "rope_parameters: expected an object"),
        ("gemma3", {"text_config": None}, CheckpointError, "text_config: expected an object, found None"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, UnsupportedError, "rope_type = 'linear'; supp"),
        ("phi3", {"full_attn_mod": 2}, UnsupportedError, "full_attn_mod = 2: the engine has only 1"),
        ("gpt2", {"add_cross_attention": True}, UnsupportedError, "add_cross_attention = True: the engine has only"),
        ("gpt2", {"hidden_size": 24}, CheckpointError, "n_embd is 12 and its other name hidden_size is 24"),
        ("gpt_neox", {"rope_theta": 500.0}, UnsupportedError, "rope_theta = 500: the class reads rotary_emb_base"),
    ),
    ids=str,
)
def test_what_is_refused(
    tmp_path: Path, model_type: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write(tmp_path, model_type, {"model.norm.weight": np.zeros(12, np.float32)}, **changes)


def test_tensors_that_are_missing_unexpected_or_of_another_shape(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("llama"))
    del tensors["model.layers.0.mlp.up_proj.weight"], tensors["lm_head.weight"]
    tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(12, np.float32)
    tensors["model.layers.1.input_layernorm.weight"] = np.zeros(5, np.float32)
    tensors["optimizer.state"] = np.zeros(5, np.float32)
    with pytest.raises(CheckpointError) as caught:
        write(tmp_path, "llama", tensors)
    for part in (
        "2 missing: model.layers.0.mlp.up_proj.weight, lm_head.weight",
        "1 unexpected: model.layers.1.self_attn.q_proj.bias",
        r"1 mis-shaped: model.layers.1.input_layernorm.weight (expected [12], found [5])",
    ):
        assert part in str(caught.value)


def test_an_output_layer_that_is_tied(tmp_path: Path) -> None:
    """The table alone, the output alone, and both with different values."""
    tensors = raw_tensors(plan_of("llama", tie_word_embeddings=True))
    table = tensors["model.embed_tokens.weight"]
    tensors.pop("lm_head.weight", None)
    other = {name: value for name, value in tensors.items() if name != "model.embed_tokens.weight"}
    for held in (tensors, {**other, "lm_head.weight": table}, {**tensors, "lm_head.weight": table}):
        model = write(tmp_path, "llama", held, tie_word_embeddings=True)
        assert model.config.tie_output
        np.testing.assert_array_equal(model.tensors["decoder.embed.weight"].read(), table)
    model = write(tmp_path, "llama", {**tensors, "lm_head.weight": table + 1}, tie_word_embeddings=True)
    assert not model.config.tie_output
    np.testing.assert_array_equal(model.tensors["output.weight"].read(), table + 1)


def test_two_names_of_one_tensor(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("gpt_neox"))
    tensors["embed_out.weight"] = tensors["lm_head.weight"]
    with pytest.raises(CheckpointError, match="tensors embed_out.weight and lm_head.weight: expected one of them"):
        write(tmp_path, "gpt_neox", tensors)


def test_constants_of_old_files_are_passed_over(tmp_path: Path) -> None:
    tensors = raw_tensors(plan_of("gpt_neox"))
    tensors["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
    tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    assert any("masked_bias" in note for note in write(tmp_path, "gpt_neox", tensors).notes)


def test_the_page_is_what_the_tables_say(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "write_models.py")]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "models: 0 problems\n"), done
    (tmp_path / "docs").mkdir()
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (tmp_path / "docs" / "models.md").write_text(page.replace("rope_theta", "theta"), encoding="utf-8")
    done = subprocess.run([*command, str(tmp_path), "--check"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.endswith("models: 1 problems\n")
    assert subprocess.run([*command, str(tmp_path)]).returncode == 0
    assert (tmp_path / "docs" / "models.md").read_text(encoding="utf-8") == page
