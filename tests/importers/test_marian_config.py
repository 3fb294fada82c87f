"""config.json of Marian: every key is used, fixed to what the engine does, irrelevant, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import ModelConfig
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.importers import open_checkpoint

from ..checkpoints import handmade


def open_with(directory: Path, **changes: Any) -> ModelConfig:
    """The config of a tiny model whose tensors are those of the unchanged one."""
    tensors = handmade.marian_tensors(handmade.marian_config())
    return open_checkpoint(
        handmade.write_checkpoint(directory, handmade.marian_config(**changes), tensors)
    ).config


def activations(config: ModelConfig) -> set[str]:
    return {layer.feed_forward.activation for _, stack in config.stacks() for layer in stack.layers}


# The keys of a config.json that opus-mt models of 2020 have, with a tiny model's sizes.
OLD = {
    "_name_or_path": "Helsinki-NLP/opus-mt-de-en",
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "attention_dropout": 0.0,
    "bad_words_ids": [[20]],
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "dropout": 0.1,
    "encoder_layerdrop": 0.0,
    "extra_pos_embeddings": 21,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 0,
    "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 512,
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 6,
    "num_hidden_layers": 2,
    "output_past": True,
    "static_position_embeddings": True,
    "torch_dtype": "float16",
    "transformers_version": "4.22.0.dev0",
    "use_cache": True,
}


def test_an_old_config(tmp_path: Path) -> None:
    config = open_with(tmp_path, **OLD)
    assert config == open_with(tmp_path)
    assert (config.family, config.width) == ("marian", 12)
    for _, stack in config.stacks():
        assert (stack.max_positions, stack.norm_epsilon, stack.placement) == (32, 1e-5, "post")


def test_defaults_of_marian_config(tmp_path: Path) -> None:
    """Keys that are absent have MarianConfig's defaults, so the tiny tensors do not fit."""
    with pytest.raises(CheckpointError, match=r"model.shared.weight \(expected \[58101, 12\]"):
        open_with(tmp_path, vocab_size=None)
    with pytest.raises(CheckpointError, match=r"fc1.weight \(expected \[4096, 12\]"):
        open_with(tmp_path, encoder_ffn_dim=None)
    assert open_with(tmp_path, max_position_embeddings=None).decoder.max_positions == 1024
    assert activations(open_with(tmp_path, activation_function=None)) == {"gelu"}
    assert open_with(tmp_path, scale_embedding=None).embedding_scale == 1.0
    assert open_with(tmp_path, architectures=None).family == "marian"


@pytest.mark.parametrize(
    ("name", "activation"),
    (
        ("relu", "relu"),
        ("gelu", "gelu"),
        ("gelu_python", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_accurate", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("gelu_python_tanh", "gelu_tanh"),
        ("quick_gelu", "quick_gelu"),
        ("silu", "silu"),
        ("swish", "silu"),
        ("tanh", "tanh"),
        ("sigmoid", "sigmoid"),
        ("linear", "linear"),
    ),
)
def test_activations(tmp_path: Path, name: str, activation: str) -> None:
    assert activations(open_with(tmp_path, activation_function=name)) == {activation}


@pytest.mark.parametrize("name", ("gelu_10", "relu2", "mish", "leaky_relu", "SWISH", ""))
def test_other_activations(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"activation_function = '{name}'; supported: relu, gelu"):
        open_with(tmp_path, activation_function=name)


@pytest.mark.parametrize(("flag", "scale"), ((True, np.sqrt(12.0)), (False, 1.0)))
def test_scaled_embeddings(tmp_path: Path, flag: bool, scale: float) -> None:
    assert open_with(tmp_path, scale_embedding=flag).embedding_scale == scale


@pytest.mark.parametrize(
    ("key", "value"),
    (
        ("normalize_before", True),
        ("normalize_embedding", True),
        ("add_final_layer_norm", True),
        ("static_position_embeddings", False),
        ("do_blenderbot_90_layernorm", True),
        ("is_encoder_decoder", False),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("tie_encoder_decoder", True),
        ("pruned_heads", {"0": [1]}),
        ("prefix", "translate: "),
        ("normalize_before", 1),
        # Keys that nobody knows here.
        ("layer_norm_eps", 1e-6),
        ("rope_scaling", {"factor": 2}),
        ("quantization_config", {"bits": 4}),
        ("auto_map", {"AutoModel": "x.Y"}),
        ("a_new_key", 0),
    ),
)
def test_what_the_engine_lacks_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"config.json: {key} = "):
        open_with(tmp_path, **{key: value})
    open_with(tmp_path, **{key: None})


@pytest.mark.parametrize(
    ("key", "value"),
    (
        ("vocab_size", 0),
        ("vocab_size", 21.0),
        ("d_model", "12"),
        ("encoder_layers", -1),
        ("encoder_layers", True),
        ("decoder_ffn_dim", []),
        ("scale_embedding", 1),
        ("tie_word_embeddings", "yes"),
        ("activation_function", 3),
        ("max_position_embeddings", 10**30),
    ),
)
def test_values_of_the_wrong_type(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {key}: expected"):
        open_with(tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"encoder_layers": 300}, "encoder_layers: expected an integer from 1 to 256, found 300"),
        ({"decoder_layers": 1 << 31}, "decoder_layers: expected an integer from 1 to 256, found 2147483648"),
        ({"encoder_attention_heads": 5}, "encoder_attention_heads: 5 heads do not divide a width of 12"),
        ({"d_model": 514}, "encoder_attention_heads: expected heads of a width of at most"),
        ({"max_position_embeddings": 1 << 21}, "encoder.max_positions: expected an integer from 1 to 1048576"),
        (
            {"encoder_ffn_dim": 1 << 17, "decoder_ffn_dim": 1 << 17},
            r"encoder.layers.0.feed_forward.width: expected .*, found 131072 \(and in 1 more layers\); "
            "decoder.layers.0.feed_forward.width: expected",
        ),
        ({"d_model": 15, "encoder_attention_heads": 3}, "expected an even width for sinusoidal positions .*, found 15"),
    ),
)
def test_values_beyond_the_engine(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        open_with(tmp_path, **changes)


def test_all_keys_that_are_refused_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as info:
        open_with(tmp_path, normalize_before=True, prefix="x", rope_scaling={"factor": 2}, encoder_layers=300)
    for part in ("normalize_before = True: the engine has only False; prefix = 'x'", "encoder_layers: expected"):
        assert part in str(info.value)
    with pytest.raises(UnsupportedError) as info:
        open_with(tmp_path, normalize_before=True, rope_scaling={"factor": 2}, a_new_key=0)
    unknown = "rope_scaling = {'factor': 2}, a_new_key = 0: unknown to the importer; keys that change no result"
    for part in ("normalize_before = True: the engine has only False; ", f"; {unknown}"):
        assert part in str(info.value)
    assert str(info.value).endswith("allow_unknown_keys rope_scaling,a_new_key")
    # Those that may be passed over hide nothing of the rest.
    with pytest.raises(UnsupportedError, match=r"config.json: normalize_before = True: the engine has only False$"):
        directory = handmade.write_checkpoint(tmp_path, handmade.marian_config(normalize_before=True, a_new_key=0))
        open_checkpoint(directory, allow_unknown_keys=("a_new_key",))


def test_other_names_of_keys(tmp_path: Path) -> None:
    names = {"encoder_layers": None, "num_hidden_layers": 2, "d_model": None, "hidden_size": 12}
    assert open_with(tmp_path, **names, encoder_attention_heads=None, num_attention_heads=2) == open_with(
        tmp_path
    )
    with pytest.raises(
        CheckpointError, match="encoder_layers is 2 and its other name num_hidden_layers is 6"
    ):
        open_with(tmp_path, num_hidden_layers=6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    (
        (
            {"architectures": ["LlamaModel"]},
            UnsupportedError,
            "'LlamaModel'; supported: MarianMTModel, LlamaForCausalLM",
        ),
        ({"architectures": ["MarianModel"]}, UnsupportedError, "'MarianModel'"),
        ({"architectures": ["MarianForCausalLM"]}, UnsupportedError, "'MarianForCausalLM'"),
        ({"architectures": None, "model_type": "longt5"}, UnsupportedError, "'longt5'"),
        ({"architectures": ["UMT5ForConditionalGeneration"]}, UnsupportedError, "'UMT5ForConditionalGeneration'"),
        ({"architectures": ["BlenderbotForConditionalGeneration"]}, UnsupportedError, "'BlenderbotForConditional"),
        ({"architectures": ["SwitchTransformersForConditionalGeneration"]}, UnsupportedError, "'SwitchTransformers"),
        ({"architectures": ["NllbMoeForConditionalGeneration"]}, UnsupportedError, "'NllbMoeForConditionalGeneration'"),
        ({"architectures": None, "model_type": None}, CheckpointError, "architectures: expected one name"),
        ({"architectures": "MarianMTModel"}, CheckpointError, "architectures: expected one name"),
        ({"architectures": ["MarianMTModel", "X"]}, CheckpointError, "architectures: expected one name"),
        ({"architectures": [{}]}, CheckpointError, "architectures: expected one name"),
        (
            {"architectures": None, "model_type": ["marian"]},
            CheckpointError,
            "architectures: expected one name",
        ),
    ),
)
def test_architectures(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_with(tmp_path, **changes)
