"""The table of tensors: names, shapes and kinds that follow from a configuration, and what does not match it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine.canonical import CanonicalModel, LazyTensor, ModelConfig, tensor_specs
from pyengine.errors import CheckpointError

from ..oracle.tiny import UNEVEN, generation, model_config
from .configs import HEADS, decoder_only, encoder_only, random_config

CONFIG = model_config()


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in tensor_specs(config).items()}


@pytest.mark.parametrize("share", (True, False))
@pytest.mark.parametrize("tie", (True, False))
def test_an_encoder_and_a_decoder(share: bool, tie: bool) -> None:
    specs = tensor_specs(model_config(share_embeddings=share, tie_output=tie))
    assert ("encoder.embed.weight" in specs) != share
    assert ("output.weight" in specs) != tie
    assert specs["output.bias"].shape == (23,)
    assert specs["encoder.layers.1.ffn.up.weight"].shape == (24, 16)
    assert specs["decoder.layers.0.ffn.down.weight"].shape == (16, 20)
    assert "encoder.layers.0.cross_attention.q.weight" not in specs
    kinds = {name: spec.kind for name, spec in specs.items()}
    assert kinds["decoder.embed.weight"] == "embedding"
    assert kinds["decoder.layers.0.cross_attention.k.weight"] == "linear"
    assert kinds["decoder.layers.0.cross_attention.norm.weight"] == "vector"
    assert kinds["encoder.positions"] == kinds["decoder.positions"] == "table"
    # q, k, v, output: weight and bias; a norm of two; ffn: up and down with bias, a norm of two.
    assert len(specs) == 2 * (10 + 6) + 2 * (20 + 6) + 2 + 1 + (not share) + 1 + (not tie)


def test_layers_that_differ() -> None:
    found = shapes(model_config(**UNEVEN))
    assert found["encoder.layers.1.self_attention.v.weight"] == (4, 20)
    assert found["encoder.layers.1.self_attention.v.bias"] == (4,)
    assert found["encoder.layers.1.self_attention.output.weight"] == (20, 4)
    assert found["encoder.layers.1.self_attention.output.bias"] == (20,)
    assert found["encoder.layers.1.ffn.up.weight"] == (7, 20)
    assert found["decoder.layers.0.self_attention.q.weight"] == (18, 20)
    assert found["decoder.layers.1.cross_attention.k.weight"] == (30, 20)
    assert found["decoder.layers.2.ffn.down.weight"] == (20, 100)


def test_a_decoder_alone() -> None:
    layer = {
        "self_attention.q.weight": (120, 80), "self_attention.k.weight": (40, 80), "self_attention.v.weight": (40, 80),
        "self_attention.output.weight": (80, 120), "self_attention.norm.weight": (80,),
        "self_attention.after.weight": (80,), "ffn.gate.weight": (100, 80), "ffn.up.weight": (100, 80),
        "ffn.down.weight": (80, 100), "ffn.norm.weight": (80,), "ffn.after.weight": (80,),
    }  # fmt: skip
    expected = {"rope.far.frequencies": (3, 10), "rope.near.frequencies": (5,), "decoder.embed.weight": (333, 80)}
    for i in range(2):
        expected |= {f"decoder.layers.{i}.{name}": shape for name, shape in layer.items()}
    normed = {f"decoder.layers.0.self_attention.{part}_norm.weight": (20,) for part in "qk"}
    assert shapes(decoder_only()) == {**expected, **normed, "decoder.norm.weight": (80,)}
    assert tensor_specs(decoder_only())["rope.far.frequencies"].kind == "table"


def test_an_encoder_alone() -> None:
    found = shapes(encoder_only())
    assert {name: shape for name, shape in found.items() if ".layers." not in name} == {
        "encoder.embed.weight": (21, 8),
        "encoder.positions": (32, 8),
        "encoder.types": (2, 8),
        "encoder.embed.norm.weight": (8,),
        "encoder.embed.norm.bias": (8,),
        "encoder.embed.project.weight": (12, 8),
        "encoder.embed.project.bias": (12,),
    }


def test_heads() -> None:
    """Behind the encoder, in their order; the table is 8 wide, the model 12."""
    config = encoder_only(heads=HEADS)
    added = {name: spec for name, spec in tensor_specs(config).items() if name.startswith("head.")}
    assert list(tensor_specs(config)) == [*tensor_specs(encoder_only()), *added]
    assert {name: spec.shape for name, spec in added.items()} == {
        "head.classes.dense.weight": (12, 12), "head.classes.dense.bias": (12,),
        "head.classes.out.weight": (3, 12), "head.classes.out.bias": (3,),
        "head.words.dense.weight": (8, 12), "head.words.dense.bias": (8,),
        "head.words.norm.weight": (8,), "head.words.norm.bias": (8,), "head.words.out.bias": (21,),
    }  # fmt: skip
    assert {spec.kind for spec in added.values()} == {"linear", "vector"}
    rms = encoder_only(heads=HEADS, encoder=replace(config.encoder, norm="rms"))
    assert "head.words.norm.weight" in tensor_specs(rms) and "head.words.norm.bias" not in tensor_specs(rms)


def test_tables_of_the_scores() -> None:
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, relative_reach=5, slopes=True))
    added = {name: spec for name, spec in tensor_specs(config).items() if name not in tensor_specs(CONFIG)}
    assert {name: spec.shape for name, spec in added.items()} == {"encoder.relative": (2, 11), "encoder.slopes": (2,)}
    assert {spec.kind for spec in added.values()} == {"table"}


@pytest.mark.parametrize("seed", range(20))
def test_biases_are_there_where_the_configuration_says_so(seed: int) -> None:
    config = random_config(seed)
    specs = tensor_specs(config)
    for name, stack in config.stacks():
        assert (f"{name}.layers.0.ffn.norm.bias" in specs) == (stack.norm == "layer")
        for i, layer in enumerate(stack.layers):
            for part, attention in layer.attentions():
                assert (f"{name}.layers.{i}.{part}.k.bias" in specs) == attention.qkv_bias
                assert (f"{name}.layers.{i}.{part}.output.bias" in specs) == attention.output_bias
            for part in ("gate", "up", "down") if layer.feed_forward.gated else ("up", "down"):
                assert (f"{name}.layers.{i}.ffn.{part}.bias" in specs) == layer.feed_forward.bias
    assert ("output.bias" in specs) == (config.decoder is not None and config.output_bias)


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
        CanonicalModel(CONFIG, generation(), tensors).validate()
    for part in (
        "2 missing: decoder.embed.weight, output.bias",
        "1 unexpected: extra",
        f"{name} (expected [24], found [3])",
    ):
        assert part in str(info.value)


def test_a_tensor_that_reads_as_another_shape() -> None:
    with pytest.raises(CheckpointError, match=r"x: expected shape \[2\], read \[3\]"):
        LazyTensor("x", (2,), "float32", lambda: np.zeros(3)).read()
