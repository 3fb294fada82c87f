"""GGUF files give what checkpoints of transformers of the same values give, or an error that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from pyengine.canonical import CanonicalModel, tensor_specs
from pyengine.errors import CheckpointError, PyengineError, UnsupportedError
from pyengine.formats.strict_json import Fields
from pyengine.importers import FAMILIES, open_checkpoint

from ..checkpoints.test_gguf import peak_of
from .gguf_files import ARCHITECTURES, Tensors, as_type, write_gguf

BY_TYPE = {family.model_type: family for family in FAMILIES}
WIDE = 256  # of every input, so that blocks of all types fit
IDS = {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}
LINE = {
    "vocab_size": 23, "hidden_size": WIDE, "intermediate_size": WIDE, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 40, "rms_norm_eps": 1e-5,
    "rope_theta": 12345.0, "tie_word_embeddings": False, **IDS,
}  # fmt: skip
GEMMA = {**LINE, "sliding_window": 5, "query_pre_attn_scalar": 64, "tie_word_embeddings": True, "num_hidden_layers": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**LINE, "attention_bias": True, "mlp_bias": True},
    "smollm3": {**LINE, "num_hidden_layers": 4, "tie_word_embeddings": True},
    "qwen2": LINE,
    "qwen3": {**LINE, "head_dim": 128, "attention_bias": True},
    "gemma2": {
        **{key: value for key, value in GEMMA.items() if key != "rope_theta"},
        "attn_logit_softcapping": 2.5, "final_logit_softcapping": 3.5,
    },
    "gemma3_text": {**GEMMA, "num_hidden_layers": 7},
    "phi3": {
        **LINE, "sliding_window": 7, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 40,
    },
    "gpt2": {
        "vocab_size": 23, "n_embd": WIDE, "n_layer": 2, "n_head": 4, "n_positions": 40, "n_inner": WIDE,
        "layer_norm_epsilon": 1e-3, **IDS,
    },
    "gpt_neox": {
        "vocab_size": 23, "hidden_size": WIDE, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": WIDE, "max_position_embeddings": 40, "layer_norm_eps": 1e-3, "rotary_pct": 0.25,
        "use_parallel_residual": False, **IDS,
    },
}  # fmt: skip


def raw_tensors(model_type: str, config: dict[str, Any]) -> Tensors:
    """A random tensor of each raw name that the family's plan must have."""
    family = BY_TYPE[model_type]
    keys = {key: value for key, value in config.items() if key not in IDS}
    plan = family.plan(Fields({**family.keys, **keys}, "config.json", CheckpointError))
    generator, tensors = np.random.default_rng(3), {}
    for name in tensor_specs(plan.config):
        source = plan.sources[name]
        if source.default is None and source.names[0] not in tensors:
            shape = source.shape or tensor_specs(plan.config)[name].shape
            tensors[source.names[0]] = generator.standard_normal(shape).astype(np.float32)
    return tensors


def open_directory(path: Path, model_type: str, config: dict[str, Any], tensors: Tensors) -> CanonicalModel:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path / "model.safetensors")
    return open_checkpoint(path)


def assert_equal(found: CanonicalModel, expected: CanonicalModel) -> None:
    assert found.config == expected.config
    assert found.generation == expected.generation
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), tensor.read(), err_msg=name)


TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_K", "Q6_K", "IQ4_XS")
CASES = [(model_type, "F32") for model_type in ARCHITECTURES] + [("llama", kind) for kind in TYPES[1:]]
MORE = [(model_type, kind) for model_type in ARCHITECTURES for kind in TYPES if (model_type, kind) not in CASES]


@pytest.mark.parametrize(
    ("model_type", "kind"), CASES + [pytest.param(*case, marks=pytest.mark.exhaustive) for case in MORE]
)
def test_it_is_what_the_checkpoint_is(tmp_path: Path, model_type: str, kind: str) -> None:
    config = CONFIGS[model_type]
    encode = as_type(gguf.GGMLQuantizationType[kind])
    same = write_gguf(tmp_path / "x.gguf", model_type, config, raw_tensors(model_type, config), encode)
    found = open_checkpoint(tmp_path / "x.gguf")
    assert_equal(found, open_directory(tmp_path / "x", model_type, config, same))
    stored = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(kind, kind)
    assert found.tensors["decoder.layers.0.ffn.up.weight"].dtype == stored


def changed(
    path: Path, model_type: str, change: Callable[[gguf.GGUFWriter], object] = lambda writer: None, **keys: Any
) -> CanonicalModel:
    """A tiny file with more in it."""
    config = {**CONFIGS[model_type], **keys}
    write_gguf(path / "y.gguf", model_type, config, raw_tensors(model_type, config), change=change)
    return open_checkpoint(path / "y.gguf")


def test_a_tied_output_layer_is_one_that_is_absent(tmp_path: Path) -> None:
    assert changed(tmp_path, "qwen2", tie_word_embeddings=True).config.tie_output
    assert not changed(tmp_path, "qwen2").config.tie_output


def test_an_output_layer_that_is_there_twice(tmp_path: Path) -> None:
    """As older files of GPT-2 have it, of which the checkpoint ties them; and another one stays apart."""
    table = raw_tensors("gpt2", CONFIGS["gpt2"])["transformer.wte.weight"]
    model = changed(tmp_path, "gpt2", lambda writer: writer.add_tensor("output.weight", table))
    assert model.config.tie_output
    model = changed(tmp_path, "gpt2", lambda writer: writer.add_tensor("output.weight", table + 1))
    assert not model.config.tie_output
    np.testing.assert_array_equal(model.tensors["output.weight"].read(), table + 1)


@pytest.mark.parametrize(
    ("pattern", "expected"), ((None, "wwwwwfw"), (3, "wwfwwfw"), (0, "wwwwwww"), ([0, 1, 0, 0, 1, 1, 0], "fwffwwf"))
)
def test_patterns_of_windows(tmp_path: Path, pattern: Any, expected: str) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        if isinstance(pattern, list):
            writer.add_sliding_window_pattern([bool(each) for each in pattern])
        elif pattern is not None:
            writer.add_sliding_window_pattern(pattern)

    stack = changed(tmp_path, "gemma3_text", change).config.decoder
    assert stack is not None
    windows = [layer.self_attention.window for layer in stack.layers]
    assert windows == [{"w": (4, 0), "f": None}[kind] for kind in expected]


@pytest.mark.parametrize(("model_type", "layers"), (("gemma2", 46), ("gemma3_text", 62)))
def test_what_scores_of_the_widest_gemma_are_divided_by(tmp_path: Path, model_type: str, layers: int) -> None:
    config = {
        **CONFIGS[model_type], "hidden_size": 12, "intermediate_size": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": layers, "query_pre_attn_scalar": 6,
    }  # fmt: skip
    write_gguf(tmp_path / "x.gguf", model_type, config, raw_tensors(model_type, config))
    stack = open_checkpoint(tmp_path / "x.gguf").config.decoder
    assert stack is not None and stack.layers[0].self_attention.scale == 6**-0.5


def test_ends_are_those_of_turns_as_well(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        tokens = [f"t{i}" for i in range(23)]
        tokens[7], tokens[8], tokens[9] = "<|eot_id|>", "<|end|>", "<end_of_turn>"
        writer.add_token_list(tokens)
        writer.add_token_types([1] * 7 + [3, 1, 4] + [1] * 13)  # the second is plain text
        writer.add_eot_token_id(12)

    generation = changed(tmp_path, "llama", change).generation
    assert generation is not None
    assert (generation.eos_token_id, generation.bos_token_id, generation.pad_token_id) == ((4, 12, 7, 9), 3, 5)


def test_a_linear_rope(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    plain, slow = changed(tmp_path, "qwen3"), changed(tmp_path, "qwen3", change)
    name = "rope.main.frequencies"
    np.testing.assert_array_equal(slow.tensors[name].read(), plain.tensors[name].read() / 4)
    local, full = (changed(tmp_path, "gemma3_text", each) for each in (lambda writer: None, change))
    for name, factor in (("local", 1), ("full", 4)):
        found, plain = (model.tensors[f"rope.{name}.frequencies"].read() for model in (full, local))
        np.testing.assert_array_equal(found * factor, plain)


def factors_of(rule: dict[str, float]) -> np.ndarray:
    """llama.py, ``generate_extra_tensors``, of heads of 64 with a base of 12,345."""
    lengths = 2 * np.pi * 12345.0 ** (np.arange(0, 64, 2, dtype=np.float32) / 64)
    low, high, original = (rule[key] for key in list(rule)[1:])
    factors = []
    for length in lengths:
        if length < original / high:
            factors.append(1.0)
        elif length > original / low:
            factors.append(rule["factor"])
        else:
            smooth = (original / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rule["factor"] + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("odd", (False, True))
def test_factors_of_angles_in_a_tensor(tmp_path: Path, odd: bool) -> None:
    """Of Llama 3's rule to the last bit, and of another to a rounding."""
    rule = {
        "factor": 8.0, "low_freq_factor": 1.0 + odd, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 100 if odd else 8192,
    }  # fmt: skip
    found = changed(
        tmp_path, "llama", lambda writer: writer.add_tensor("rope_freqs.weight", factors_of(rule)),
        max_position_embeddings=16384,
    )  # fmt: skip
    config = {**CONFIGS["llama"], "max_position_embeddings": 16384, "rope_scaling": {"rope_type": "llama3", **rule}}
    expected = open_directory(tmp_path / "x", "llama", config, raw_tensors("llama", config))
    assert found.config.ropes == expected.config.ropes
    ours, theirs = (model.tensors["rope.main.frequencies"].read() for model in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6 if odd else 0)


def test_factors_by_length(tmp_path: Path) -> None:
    short, long = np.linspace(1, 2, 24, dtype=np.float32), np.linspace(1, 5, 24, dtype=np.float32)

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("rope_factors_long.weight", long)
        writer.add_tensor("rope_factors_short.weight", short)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(4) / np.log(10))))

    found = changed(tmp_path, "phi3", change, original_max_position_embeddings=10)
    scaling = {"rope_type": "longrope", "short_factor": short.tolist(), "long_factor": long.tolist()}
    config = {**CONFIGS["phi3"], "original_max_position_embeddings": 10, "rope_scaling": scaling}
    assert_equal(found, open_directory(tmp_path / "x", "phi3", config, raw_tensors("phi3", config)))


def test_yarn(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(10)
        writer.add_rope_scaling_yarn_beta_fast(16.0)

    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10, "beta_fast": 16.0}
    config = {**CONFIGS["qwen2"], "rope_scaling": scaling}
    expected = open_directory(tmp_path / "x", "qwen2", config, raw_tensors("qwen2", config))
    assert_equal(changed(tmp_path, "qwen2", change), expected)


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    """What is in it is for the tests of gguf_tokenizer."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*(chr(97 + i) for i in range(22)), "ab"])
        writer.add_token_types([1] * 23)
        writer.add_token_merges(["a b"])
        writer.add_chat_template("{{ messages }}")

    model = changed(tmp_path, "llama", change)
    assert model.tokenizer_kind == "tokenizers" and not model.notes
    assert model.tokenizer_files["chat_template.jinja"] == b"{{ messages }}"
    assert b'"vocab"' in bytes(model.tokenizer_files["tokenizer.json"])
    assert "no tokenizer in the metadata" in changed(tmp_path, "llama").notes[0]


# Wrong files

Change = Callable[[gguf.GGUFWriter], object]
REFUSED: dict[str, tuple[str, Change, dict[str, Any], type[PyengineError], str]] = {
    "experts": ("llama", lambda w: w.add_expert_count(8), {}, UnsupportedError, "llama.expert_count = 8"),
    "an unknown key": ("qwen2", lambda w: w.add_uint32("qwen2.wings", 2), {}, UnsupportedError, "qwen2.wings = 2: unk"),
    "an unknown tensor": (
        "llama", lambda w: w.add_tensor("blk.0.ffn_gate_exps.weight", np.ones(3, np.float32)), {}, UnsupportedError,
        "1 tensors unknown to the importer of llama: 'blk.0.ffn_gate_exps.weight'",
    ),
    "a layer too many": (
        "llama", lambda w: w.add_tensor("blk.2.attn_norm.weight", np.ones(WIDE, np.float32)), {}, CheckpointError,
        "unexpected: model.layers.2.input_layernorm.weight",
    ),
    "a layer of a name": (
        "llama", lambda w: w.add_tensor("blk.00.attn_norm.weight", np.ones(3, np.float32)), {}, UnsupportedError,
        "'blk.00.attn_norm.weight'",
    ),
    "values of another width": ("qwen3", lambda w: w.add_value_length(32), {}, CheckpointError, "expected 128"),
    "a part of a head": (
        "llama", lambda w: w.add_rope_dimension_count(32), {}, UnsupportedError, "partial_rotary_factor = 0.5"
    ),
    "a rope": ("llama", lambda w: w.add_string("llama.rope.scaling.type", "spiral"), {}, UnsupportedError, "'spiral'"),
    "a factor of text": (
        "llama", lambda w: w.add_string("llama.rope.scaling.factor", "4"), {}, UnsupportedError, "factor: expected a"
    ),
    "a linear rope where the class has none": (
        "phi3", lambda w: w.add_rope_scaling_factor(4.0), {}, UnsupportedError, "linear"
    ),
    "too few factors of angles": (
        "llama", lambda w: w.add_tensor("rope_freqs.weight", np.ones(31, np.float32)), {}, CheckpointError,
        r"tensor rope_freqs.weight: expected 32 positive numbers, found \[31\]",
    ),
    "factors of nothing": (
        "llama", lambda w: w.add_tensor("rope_freqs.weight", np.zeros(32, np.float32)), {}, CheckpointError,
        "tensor rope_freqs.weight: expected 32 positive numbers, found 0.0",
    ),
    "an original context of 1": (
        "phi3", lambda w: [w.add_tensor(f"rope_factors_{name}.weight", np.ones(24, np.float32))
                           for name in ("long", "short")],
        {"original_max_position_embeddings": 1}, UnsupportedError, "original_max_position_embeddings: expected an int",
    ),
    "a pattern": (
        "gemma2", lambda w: w.add_string("gemma2.attention.sliding_window_pattern", "x"), {}, CheckpointError,
        "gemma2.attention.sliding_window_pattern: expected a number, or 3 flags",
    ),
    "no causal attention": ("llama", lambda w: w.add_causal_attention(False), {}, UnsupportedError, "causal = False"),
    "an end of text": (
        "llama", lambda w: w.add_string("tokenizer.ggml.eot_token_id", "x"), {}, CheckpointError, "eot_token_id: exp"
    ),
    "an end beyond": ("llama", lambda w: w.add_eot_token_id(23), {}, CheckpointError, "eos_token_id: expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    model_type, change, keys, error, message = REFUSED[name]
    with pytest.raises(error, match=f"y.gguf: .*{message}"):
        changed(tmp_path, model_type, change, **keys)


def test_an_unknown_key_that_the_caller_knows(tmp_path: Path) -> None:
    changed_keys = {"allow_unknown_keys": ["llama.wings"]}
    with pytest.raises(UnsupportedError, match="allow_unknown_keys"):
        changed(tmp_path, "llama", lambda writer: writer.add_uint32("llama.wings", 2))
    model = open_checkpoint(tmp_path / "y.gguf", **changed_keys)
    assert any("llama.wings = 2: unknown, and passed over" in note for note in model.notes)


def write_keys(path: Path, **keys: Any) -> Path:
    """A file of one tensor, with these keys of text or numbers."""
    writer = gguf.GGUFWriter(path / "z.gguf", keys.pop("architecture", "llama"))
    for key, value in keys.items():
        key = key.replace("__", ".")
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path / "z.gguf"


SIZES = {
    "llama__context_length": 8, "llama__embedding_length": 8, "llama__block_count": 1, "llama__feed_forward_length": 8,
    "llama__attention__head_count": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    (
        ({"architecture": "mamba"}, UnsupportedError, "general.architecture = 'mamba'; supported: llama, smollm3"),
        ({"general__type": "adapter"}, UnsupportedError, "general.type = 'adapter'; expected a model"),
        ({}, CheckpointError, "no llama.context_length in the metadata"),
        (SIZES, CheckpointError, "no llama.attention.layer_norm_rms_epsilon in the metadata"),
        ({**SIZES, "llama__embedding_length": 0}, CheckpointError, "llama.embedding_length: expected a size of at"),
        ({**SIZES, "llama__block_count": "2"}, CheckpointError, "llama.block_count: expected a size of at least 1"),
    ),
)  # fmt: skip
def test_keys_that_are_missing_or_wrong(tmp_path: Path, keys: Any, error: type[PyengineError], message: str) -> None:
    with pytest.raises(error, match=f"z.gguf: .*{message}"):
        open_checkpoint(write_keys(tmp_path, **keys))


def test_a_lie_about_layers(tmp_path: Path) -> None:
    """Nothing is made of the number."""
    tiny = {**CONFIGS["gemma3_text"], "hidden_size": 12, "intermediate_size": 4, "head_dim": 8}
    write_gguf(tmp_path / "x.gguf", "gemma3_text", tiny, raw_tensors("gemma3_text", tiny))
    content, key = (tmp_path / "x.gguf").read_bytes(), b"gemma3.block_count" + bytes([4, 0, 0, 0])
    assert key + bytes([7, 0, 0, 0]) in content
    (tmp_path / "x.gguf").write_bytes(content.replace(key + bytes([7, 0, 0, 0]), key + b"\xff\xff\xff\x7f"))
    with pytest.raises(CheckpointError, match="gemma3.block_count: expected fewer layers than the 93 tensors"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_changed_bytes(tmp_path: Path, model_type: str) -> None:
    """A typed error, or tensors that can be read, and no memory for a lie."""
    config = dict(CONFIGS[model_type])
    config.update({key: 32 for key in ("hidden_size", "n_embd", "intermediate_size", "n_inner") if key in config})
    config.update({key: 1 for key in ("num_hidden_layers", "n_layer") if key in config})
    config.update({"head_dim": 8} if "head_dim" in config else {})
    path = tmp_path / "x.gguf"
    write_gguf(path, model_type, config, raw_tensors(model_type, config), as_type(gguf.GGMLQuantizationType.F16))
    content = path.read_bytes()
    header = len(content) - sum(tensor.nbytes // 2 for tensor in raw_tensors(model_type, config).values())
    generator = np.random.default_rng(11)
    open_all(path)
    for _ in range(150):
        broken = bytearray(content)
        for at in generator.integers(0, header, generator.integers(1, 4)):
            broken[at] = generator.choice([0, 1, 2, 127, 128, 255])
        path.write_bytes(broken)
        assert peak_of(lambda: open_all(path)) < 4 << 20


def open_all(path: Path) -> None:
    for tensor in open_checkpoint(path).tensors.values():
        tensor.read()
