"""ModelConfig and GenerationDefaults: strict JSON forms that round-trip, and limits."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import (
    CanonicalModel,
    GenerationDefaults,
    LayerConfig,
    LazyTensor,
    ModelConfig,
    StackConfig,
    tensor_specs,
)
from pyengine.canonical.tensors import sinusoidal_positions
from pyengine.errors import CheckpointError, ModelFileError

CONFIG = ModelConfig(
    family="marian",
    width=12,
    encoder=StackConfig.uniform(2, 2, 20, width=12, cross=False),
    decoder=StackConfig.uniform(1, 3, 9, width=12, cross=True),
    source_vocab=21,
    target_vocab=21,
    max_positions=32,
    activation="silu",
    embedding_scale=12**0.5,
    norm_epsilon=1e-5,
    share_embeddings=True,
    tie_output=True,
)
# Heads and neurons of some layers have been removed.
PRUNED = dataclasses.replace(
    CONFIG,
    encoder=StackConfig((LayerConfig(2, 20), LayerConfig(1, 7)), head_width=6),
    decoder=StackConfig((LayerConfig(1, 9, 3), LayerConfig(3, 1, 2)), head_width=4),
)
DEFAULTS = GenerationDefaults(
    decoder_start_token_id=20,
    eos_token_id=(0, 3),
    pad_token_id=None,
    max_length=32,
    num_beams=6,
    num_return_sequences=2,
    early_stopping="never",
    bad_words_ids=((20,), (1, 2)),
    suppress_tokens=(4,),
    begin_suppress_tokens=(0, 5),
    forced_bos_token_id=7,
    forced_eos_token_id=(0,),
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_round_trips() -> None:
    for config in (CONFIG, PRUNED):
        assert ModelConfig.from_json(through_json(config.to_json()), "here") == config
    assert GenerationDefaults.from_json(through_json(DEFAULTS.to_json()), "here", CONFIG) == DEFAULTS
    new = dataclasses.replace(DEFAULTS, max_new_tokens=9, min_new_tokens=0)
    assert GenerationDefaults.from_json(through_json(new.to_json()), "here", CONFIG) == new


def test_the_forms_of_a_stack() -> None:
    """Numbers where all layers are alike, else a list for each number."""
    assert CONFIG.to_json()["encoder"] == {"layers": 2, "heads": 2, "ffn_width": 20, "head_width": 6}
    assert CONFIG.to_json()["decoder"] == {"layers": 1, "heads": 3, "ffn_width": 9, "head_width": 4}
    pruned = PRUNED.to_json()
    assert pruned["encoder"] == {"layers": 2, "heads": [2, 1], "ffn_width": [20, 7], "head_width": 6}
    lists = {"heads": [1, 3], "cross_heads": [3, 2], "ffn_width": [9, 1]}
    assert pruned["decoder"] == {"layers": 2, **lists, "head_width": 4}


@pytest.mark.parametrize(
    "layers",
    (
        (LayerConfig(2, 9, 2),) * 3,
        (LayerConfig(2, 9, 1),) * 3,
        (LayerConfig(2, 9, 2), LayerConfig(2, 8, 2)),
        (LayerConfig(2, 9, 2), LayerConfig(1, 9, 2)),
        (LayerConfig(2, 9, 2), LayerConfig(2, 9, 1)),
        (LayerConfig(1, 1, 1),),
        (LayerConfig(4096, 65536, 4096),) * 256,
    ),
)
def test_stacks_round_trip(layers: tuple[LayerConfig, ...]) -> None:
    config = dataclasses.replace(CONFIG, decoder=StackConfig(layers, head_width=4))
    assert ModelConfig.from_json(through_json(config.to_json()), "here") == config


def test_a_config_from_before_layers_could_differ() -> None:
    """No head_width: the heads share out the width."""
    data = through_json(CONFIG.to_json())
    del data["encoder"]["head_width"], data["decoder"]["head_width"]
    assert ModelConfig.from_json(data, "here") == CONFIG
    data["encoder"]["heads"] = 5
    with pytest.raises(ModelFileError, match="^here: encoder.heads: 5 does not divide width 12$"):
        ModelConfig.from_json(data, "here")
    data.update(width=512, encoder={"layers": 1, "heads": 1, "ffn_width": 1})
    with pytest.raises(ModelFileError, match="^here: encoder.heads: 1 heads in width 512 are 512 wide, at most 256"):
        ModelConfig.from_json(data, "here")


@pytest.mark.parametrize(
    ("stack", "changes", "message"),
    (
        ("encoder", {"heads": []}, r"heads: expected 2 numbers, one a layer, found \[\]"),
        ("encoder", {"heads": [2, 1, 1]}, r"heads: expected 2 numbers, one a layer, found \[2, 1, 1\]"),
        ("encoder", {"heads": [2, 0]}, "heads: expected a list of integers from 1 to 16384"),
        ("encoder", {"heads": [2, True]}, "heads: expected a list of integers"),
        ("encoder", {"heads": [2, 1.0]}, "heads: expected a list of integers"),
        ("encoder", {"heads": [2, None]}, "heads: expected a list of integers"),
        ("encoder", {"heads": [2, [1]]}, "heads: expected a list of integers"),
        ("encoder", {"heads": [2, 1 << 62]}, "heads: expected a list of integers"),
        ("encoder", {"heads": [2, 2731]}, "heads of layer 1: expected an integer from 1 to 2730, found 2731"),
        ("encoder", {"heads": 2}, r"ffn_width: expected an integer from 1 to 65536, found \[20, 7\]"),
        ("encoder", {"ffn_width": 20}, "ffn_width: expected a list of integers from 1 to 65536, found 20"),
        ("encoder", {"ffn_width": [20]}, "ffn_width: expected 2 numbers, one a layer"),
        ("encoder", {"ffn_width": [20, 0]}, "ffn_width: expected a list of integers"),
        ("encoder", {"ffn_width": [20, 65537]}, "ffn_width: expected a list of integers"),
        ("encoder", {"cross_heads": [1, 1]}, "unknown fields: 'cross_heads'"),
        ("encoder", {"layers": [1, 1]}, "layers: expected an integer from 1 to 256"),
        ("encoder", {"layers": 3}, "heads: expected 3 numbers, one a layer"),
        ("encoder", {"head_width": 0}, "head_width: expected an integer from 1 to 256"),
        ("encoder", {"head_width": 257}, "head_width: expected an integer from 1 to 256"),
        ("encoder", {"head_width": None}, "head_width: expected an integer from 1 to 256"),
        ("encoder", {"head_width": [6, 6]}, "head_width: expected an integer from 1 to 256"),
        ("decoder", {"cross_heads": 3}, "cross_heads: expected a list of integers"),
        ("decoder", {"cross_heads": [3]}, "cross_heads: expected 2 numbers, one a layer"),
        ("decoder", {"cross_heads": [3, None]}, "cross_heads: expected a list of integers"),
        ("decoder", {"cross_heads": [3, 4097]}, "cross_heads of layer 1: expected an integer from 1 to 4096"),
        ("decoder", {"heads": 1, "ffn_width": 9}, "unknown fields: 'cross_heads'"),
    ),
    ids=str,
)
def test_a_wrong_stack(stack: str, changes: dict[str, Any], message: str) -> None:
    data = through_json(PRUNED.to_json())
    data[stack].update(changes)
    with pytest.raises(ModelFileError, match=rf"^here: {stack}[:.] ?{message}"):
        ModelConfig.from_json(data, "here")


@pytest.mark.parametrize("name", ("heads", "cross_heads", "ffn_width", "head_width"))
def test_lists_lack_nothing(name: str) -> None:
    data = through_json(PRUNED.to_json())
    del data["decoder"][name]
    with pytest.raises(ModelFileError, match=name):
        ModelConfig.from_json(data, "here")


def test_lengths_without_the_prompt_may_be_absent() -> None:
    """As in every directory that was written before there were any."""
    assert not {"max_new_tokens", "min_new_tokens"} & set(DEFAULTS.to_json())


@pytest.mark.parametrize(
    ("path", "value"),
    (
        ("width", 0),
        ("width", 13),
        ("width", 1 << 20),
        ("width", 12.0),
        ("width", True),
        ("family", 3),
        ("encoder", None),
        ("encoder.layers", 0),
        ("encoder.layers", 257),
        ("encoder.heads", 2731),
        ("decoder.heads", 0),
        ("decoder.ffn_width", -1),
        ("source_vocab", (1 << 21) + 1),
        ("target_vocab", 22),
        ("max_positions", (1 << 20) + 1),
        ("activation", "swish"),
        ("activation", None),
        ("embedding_scale", 0),
        ("embedding_scale", float("nan")),
        ("embedding_scale", float("inf")),
        ("norm_epsilon", 0),
        ("norm_epsilon", 1),
        ("share_embeddings", 1),
        ("tie_output", "yes"),
    ),
)
def test_a_wrong_field_is_named(path: str, value: Any) -> None:
    data = through_json(CONFIG.to_json())
    *parents, name = path.split(".")
    inner = data
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    named = "share_embeddings" if path == "target_vocab" else name  # one table cannot have two sizes
    with pytest.raises(ModelFileError, match=f"^here.*{named}"):
        ModelConfig.from_json(data, "here")
    del inner[name]
    with pytest.raises(ModelFileError, match=f"field '{name}' is missing"):
        ModelConfig.from_json(data, "here")


def test_unknown_fields() -> None:
    data = through_json(CONFIG.to_json())
    data["encoder"]["gated"] = True
    with pytest.raises(ModelFileError, match="here: encoder: unknown fields: 'gated'"):
        ModelConfig.from_json(data, "here")
    with pytest.raises(ModelFileError, match="here: unknown fields: 'rope'"):
        ModelConfig.from_json({**CONFIG.to_json(), "rope": 1}, "here")
    with pytest.raises(ModelFileError, match="here: unknown fields: 'top_k'"):
        GenerationDefaults.from_json({**DEFAULTS.to_json(), "top_k": 1}, "here", CONFIG)


def test_the_constructors_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="even"):
        ModelConfig(**{**vars(CONFIG), "width": 15})
    with pytest.raises(ValueError, match="^heads: 1 heads in width 512 are 512 wide"):
        StackConfig.uniform(1, 1, 1, width=512, cross=False)
    with pytest.raises(ValueError, match="^heads: 0 does not divide width 512"):
        StackConfig.uniform(1, 0, 1, width=512, cross=False)
    with pytest.raises(ValueError, match="^layers: expected an integer from 1 to 256"):
        StackConfig.uniform(1 << 40, 1, 1, width=12, cross=False)
    for layers, head_width, name in (
        ((), 4, "layers"),
        ((LayerConfig(1, 1),), 257, "head_width"),
        ((LayerConfig(1, 1),), 0, "head_width"),
        ((LayerConfig(1, 1), LayerConfig(0, 1)), 4, "heads of layer 1"),
        ((LayerConfig(4097, 1),), 4, "heads of layer 0"),
        ((LayerConfig(1, 0),), 4, "ffn_width of layer 0"),
        ((LayerConfig(1, 1, 0),), 4, "cross_heads of layer 0"),
        ((LayerConfig(1, 1, 4097),), 4, "cross_heads of layer 0"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: expected an integer"):
            StackConfig(layers, head_width)
    with pytest.raises(ValueError, match="encoder.cross_heads: expected none"):
        dataclasses.replace(CONFIG, encoder=CONFIG.decoder)
    with pytest.raises(ValueError, match="decoder.cross_heads: expected a number"):
        dataclasses.replace(CONFIG, decoder=CONFIG.encoder)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("decoder_start_token_id", 21),
        ("decoder_start_token_id", None),
        ("eos_token_id", []),
        ("eos_token_id", 0),
        ("eos_token_id", [21]),
        ("pad_token_id", -1),
        ("max_length", 1),
        ("max_length", None),
        ("min_length", -1),
        ("max_new_tokens", 0),
        ("max_new_tokens", None),
        ("min_new_tokens", -1),
        ("min_new_tokens", True),
        ("num_beams", 0),
        ("num_beams", 1 << 20),
        ("num_return_sequences", 7),
        ("length_penalty", float("inf")),
        ("early_stopping", "always"),
        ("early_stopping", 0),
        ("no_repeat_ngram_size", -1),
        ("repetition_penalty", 0.0),
        ("bad_words_ids", [[]]),
        ("bad_words_ids", [[21]]),
        ("bad_words_ids", [3]),
        ("bad_words_ids", None),
        ("suppress_tokens", [21]),
        ("begin_suppress_tokens", [True]),
        ("forced_bos_token_id", 21),
        ("forced_eos_token_id", 0),
        ("forced_eos_token_id", [-1]),
        ("renormalize_logits", 1),
    ),
)
def test_a_wrong_default_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelFileError, match=f"^here: {name}"):
        GenerationDefaults.from_json({**through_json(DEFAULTS.to_json()), name: value}, "here", CONFIG)


@pytest.mark.parametrize("share", (True, False))
@pytest.mark.parametrize("tie", (True, False))
def test_the_table_of_tensors(share: bool, tie: bool) -> None:
    specs = tensor_specs(ModelConfig(**{**vars(CONFIG), "share_embeddings": share, "tie_output": tie}))
    assert ("encoder.embed.weight" in specs) != share
    assert ("output.weight" in specs) != tie
    assert specs["output.bias"].shape == (21,)
    assert specs["encoder.layers.1.ffn.up.weight"].shape == (20, 12)
    assert specs["decoder.layers.0.ffn.down.weight"].shape == (12, 9)
    assert "encoder.layers.0.cross_attention.q.weight" not in specs
    kinds = {name: spec.kind for name, spec in specs.items()}
    assert kinds["decoder.embed.weight"] == "embedding"
    assert kinds["decoder.layers.0.cross_attention.k.weight"] == "linear"
    assert kinds["decoder.layers.0.cross_attention.norm.weight"] == "vector"
    # q, k, v, output: weight and bias; a norm of two; ffn: up and down with bias, a norm of two.
    assert len(specs) == 2 * (10 + 6) + (20 + 6) + 1 + (not share) + 1 + (not tie)


def test_tensors_of_layers_that_differ() -> None:
    specs = {name: spec.shape for name, spec in tensor_specs(PRUNED).items()}
    assert specs["encoder.layers.1.self_attention.v.weight"] == (6, 12)
    assert specs["encoder.layers.1.self_attention.v.bias"] == (6,)
    assert specs["encoder.layers.1.self_attention.output.weight"] == (12, 6)
    assert specs["encoder.layers.1.self_attention.output.bias"] == (12,)
    assert specs["encoder.layers.1.ffn.up.weight"] == (7, 12)
    assert specs["decoder.layers.0.self_attention.q.weight"] == (4, 12)
    assert specs["decoder.layers.0.cross_attention.k.weight"] == (12, 12)
    assert specs["decoder.layers.1.cross_attention.output.weight"] == (12, 8)
    assert specs["decoder.layers.1.ffn.down.weight"] == (12, 1)


def test_all_differences_in_one_error() -> None:
    tensors = {
        name: LazyTensor(name, spec.shape, "float32", lambda: np.zeros(0))
        for name, spec in tensor_specs(CONFIG).items()
    }
    del tensors["output.bias"], tensors["decoder.embed.weight"]
    tensors["extra"] = LazyTensor("extra", (1,), "float32", lambda: np.zeros(1))
    name = "encoder.layers.0.ffn.up.bias"
    tensors[name] = LazyTensor(name, (3,), "float32", lambda: np.zeros(3))
    with pytest.raises(CheckpointError) as info:
        CanonicalModel(CONFIG, DEFAULTS, tensors).validate()
    for part in (
        "2 missing: decoder.embed.weight, output.bias",
        "1 unexpected: extra",
        f"{name} (expected [20], found [3])",
    ):
        assert part in str(info.value)


def test_a_tensor_that_reads_as_another_shape() -> None:
    with pytest.raises(CheckpointError, match=r"x: expected shape \[2\], read \[3\]"):
        LazyTensor("x", (2,), "float32", lambda: np.zeros(3)).read()


def test_sinusoidal_positions() -> None:
    table = sinusoidal_positions(50, 8)
    assert table.shape == (50, 8) and table.dtype == np.float32
    for position in (0, 1, 49):
        for j in range(4):
            angle = position / 10000 ** (2 * j / 8)
            assert table[position, j] == np.float32(np.sin(angle))
            assert table[position, 4 + j] == np.float32(np.cos(angle))
