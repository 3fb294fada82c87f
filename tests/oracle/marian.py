"""transformers' Marian around canonical tensors: the second oracle, for whole models and whole searches.

The map of names is written down a second time here, by hand, so that an importer's mistake cannot hide in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from pyengine.canonical import GenerationDefaults, ModelConfig
from tests.oracle.tiny import Expected, SearchCase

__all__ = ["generate", "marian_model"]

torch.set_num_threads(1)  # tiny products: more threads only wait for each other

ACTIVATIONS = {"silu": "swish", "gelu_tanh": "gelu_new"}


def marian_model(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> transformers.MarianMTModel:
    """A MarianMTModel in float32 that computes what canonical `tensors` say."""
    (encoder,), (decoder,) = set(config.encoder.layers), set(config.decoder.layers)
    activation = encoder.feed_forward.activation
    scaled = config.embedding_scale != 1.0
    assert not scaled or config.embedding_scale == config.width**0.5
    model = transformers.MarianMTModel(
        transformers.MarianConfig(
            vocab_size=config.source_vocab,
            decoder_vocab_size=config.target_vocab,
            d_model=config.width,
            encoder_layers=len(config.encoder.layers),
            encoder_attention_heads=encoder.self_attention.heads,
            encoder_ffn_dim=encoder.feed_forward.width,
            decoder_layers=len(config.decoder.layers),
            decoder_attention_heads=decoder.self_attention.heads,
            decoder_ffn_dim=decoder.feed_forward.width,
            max_position_embeddings=config.encoder.max_positions,
            activation_function=ACTIVATIONS.get(activation, activation),
            scale_embedding=scaled,
            share_encoder_decoder_embeddings=config.share_embeddings,
            tie_word_embeddings=config.tie_output,
            pad_token_id=config.target_vocab - 1,
            eos_token_id=0,
            forced_eos_token_id=None,
            decoder_start_token_id=config.target_vocab - 1,
            attn_implementation="eager",
        )
    ).eval()
    state = {
        _marian_name(name, config): torch.tensor(tensor)
        for name, tensor in tensors.items()
        if not name.endswith(".positions")  # these are the same sinusoids, which it has
    }
    state["final_logits_bias"] = state["final_logits_bias"][None]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    tied = ("embed_tokens", "lm_head", "embed_positions")
    assert all(any(word in name for word in tied) for name in missing), missing
    return model


def _marian_name(name: str, config: ModelConfig) -> str:
    if name == "decoder.embed.weight":
        return "model.shared.weight" if config.share_embeddings else "model.decoder.embed_tokens.weight"
    fixed = {
        "encoder.embed.weight": "model.encoder.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output.bias": "final_logits_bias",
    }
    if name in fixed:
        return fixed[name]
    name = name.replace("self_attention.norm", "self_attn_layer_norm")
    name = name.replace("cross_attention.norm", "encoder_attn_layer_norm")
    name = name.replace("self_attention", "self_attn").replace("cross_attention", "encoder_attn")
    name = name.replace("ffn.up", "fc1").replace("ffn.down", "fc2").replace("ffn.norm", "final_layer_norm")
    for part in "qkv":
        name = name.replace(f".{part}.", f".{part}_proj.")
    return "model." + name.replace("attn.output", "attn.out_proj")


def generate(
    model: transformers.MarianMTModel, defaults: GenerationDefaults, case: SearchCase
) -> list[list[Expected]]:
    """What `generate` returns for each source of `case` by itself, in pyengine's terms."""
    return [_generate_one(model, defaults, case, source) for source in case.sources]


def _generate_one(
    model: transformers.MarianMTModel, defaults: GenerationDefaults, case: SearchCase, source: list[int]
) -> list[Expected]:
    values: dict[str, Any] = {**defaults.to_json(), **case.options}
    for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"):
        values[name] = _lists(values[name]) or None
    for name in ("eos_token_id", "forced_eos_token_id"):
        values[name] = None if values[name] in (None, ()) else list(values[name])
    beams = values["num_beams"]
    prompt = [defaults.decoder_start_token_id, *case.prefix]
    model.generation_config = transformers.GenerationConfig()
    output = model.generate(
        torch.tensor([source]),
        decoder_input_ids=torch.tensor([prompt]),
        generation_config=transformers.GenerationConfig(**values),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    found = []
    for number, sequence in enumerate(output.sequences.tolist()):
        ids = sequence[1:]
        ends = [i for i, id in enumerate(ids) if id in defaults.eos_token_id and i >= len(case.prefix)]
        ids = ids[: ends[0] + 1] if ends else ids
        if beams > 1:
            score = float(output.sequences_scores[number])
        else:
            new = ids[len(case.prefix) :]
            steps = [torch.log_softmax(logits[0], -1) for logits in output.logits]
            total = sum(float(step[id]) for step, id in zip(steps, new, strict=False))
            score = total / len(new) ** values["length_penalty"]
        found.append(Expected(tuple(ids), score))
    return found


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
