"""Checkpoints that transformers and torch write and read: the importer's model computes what theirs does.

Names, ties and activations are compared through the logits: canonical tensors in the float64 reference on one
side, transformers on the other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyengine.canonical import CanonicalModel
from pyengine.importers import open_checkpoint

from ..checkpoints import handmade
from .reference import ReferenceModel

SOURCE, TARGET = [3, 7, 1, 14, 0], [15, 2, 9, 4]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "separate tables": {"share_encoder_decoder_embeddings": False},
    "separate vocabularies": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 23},
    "nothing tied": {
        "share_encoder_decoder_embeddings": False,
        "tie_word_embeddings": False,
        "decoder_vocab_size": 23,
    },
    "scaled": {"scale_embedding": True},
    "other sizes": {
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_ffn_dim": 8,
        "decoder_attention_heads": 8,
    },
    **{
        name: {"activation_function": name}
        for name in (
            "relu",
            "gelu_new",
            "gelu_fast",
            "gelu_accurate",
            "gelu_pytorch_tanh",
            "gelu_python_tanh",
        )
    },
    **{
        name: {"activation_function": name}
        for name in ("gelu_python", "quick_gelu", "silu", "swish", "tanh", "sigmoid", "linear")
    },
}


def random_model(**changes: Any) -> Any:
    """A tiny MarianMTModel, every parameter random."""
    config = transformers.MarianConfig(
        **{
            "vocab_size": 17, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 20, "max_position_embeddings": 40, "pad_token_id": 16, "eos_token_id": 0,
            "decoder_start_token_id": 16, "forced_eos_token_id": 0, "activation_function": "gelu",
            **changes,
        }
    )  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape, generator=generator))
    return model


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        output = model(input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET]))
    return output.logits[0].float().numpy()


def check(model: CanonicalModel, expected: np.ndarray, **tolerance: float) -> None:
    tensors = {name: tensor.read() for name, tensor in model.tensors.items()}
    reference = ReferenceModel(model.config, tensors)
    found = reference.decode(np.array(TARGET), reference.encode(np.array(SOURCE)))
    np.testing.assert_allclose(found, expected, **(tolerance or {"atol": 2e-5, "rtol": 1e-5}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_save_pretrained_writes(tmp_path: Path, variant: str) -> None:
    model = random_model(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    found = open_checkpoint(tmp_path)
    changes = VARIANTS[variant]
    assert found.config.tie_output == changes.get("tie_word_embeddings", True)
    check(found, logits_of(model))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ("tied", "nothing tied"))
@pytest.mark.parametrize("container", ("safetensors", "bin"))
def test_every_type_and_container(tmp_path: Path, dtype: str, variant: str, container: str) -> None:
    model = random_model(**VARIANTS[variant]).to(DTYPES[dtype])
    model.save_pretrained(tmp_path)
    if container == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = open_checkpoint(tmp_path)
    state = model.float().state_dict()
    assert {tensor.dtype for name, tensor in found.tensors.items() if not name.endswith(".positions")} == {dtype}
    np.testing.assert_array_equal(
        found.tensors["decoder.embed.weight"].read(), state["model.decoder.embed_tokens.weight"].numpy()
    )
    check(found, logits_of(model), atol=0.05 if dtype == "bfloat16" else 5e-3)


@pytest.mark.parametrize("container", ("safetensors", "bin"))
def test_shards(tmp_path: Path, container: str) -> None:
    model = random_model()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() and len(list(tmp_path.glob("model-*.safetensors"))) > 2
    if container == "bin":
        places = json.loads(index.read_text())["weight_map"]
        state = model.state_dict()
        places = {name: file.replace("safetensors", "bin") for name, file in places.items()}
        for file in set(places.values()):
            torch.save({name: state[name] for name in places if places[name] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
        index.unlink()
    check(open_checkpoint(tmp_path), logits_of(model))


def save_bin(directory: Path, model: Any, state: dict[str, Any], **options: Any) -> None:
    model.save_pretrained(directory)
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin", **options)


def test_an_old_export(tmp_path: Path) -> None:
    """Every name is there, tables share a storage, positions are stored, tensors are parameters and views."""
    model = random_model()
    state = {name: torch.nn.Parameter(values) for name, values in model.state_dict().items()}
    assert "model.encoder.embed_positions.weight" in state and "lm_head.weight" in state
    whole = torch.randn(3, 24, 16)
    name = "model.encoder.layers.0.fc2.weight"
    state[name] = whole[1].t()  # strides and an offset into a larger storage
    save_bin(tmp_path, model, state)
    found = open_checkpoint(tmp_path)
    assert found.config.share_embeddings and found.config.tie_output
    model.load_state_dict({**model.state_dict(), name: whole[1].t()})
    check(found, logits_of(model))


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_every_pickle_protocol_of_torch(tmp_path: Path, protocol: int) -> None:
    model = random_model()
    save_bin(tmp_path, model, model.state_dict(), pickle_protocol=protocol)
    check(open_checkpoint(tmp_path), logits_of(model))


TABLES = {
    "shared": "model.shared.weight",
    "encoder": "model.encoder.embed_tokens.weight",
    "decoder": "model.decoder.embed_tokens.weight",
    "output": "lm_head.weight",
}
# tie_word_embeddings, share_encoder_decoder_embeddings, the tables in the file (equal numbers: equal values)
TIES: tuple[tuple[bool, bool, dict[str, int]], ...] = (
    (True, True, {"shared": 1}),
    (True, True, {"output": 1}),
    (True, True, {"decoder": 1}),
    (True, True, {"encoder": 1}),
    (True, True, {"shared": 1, "encoder": 1, "decoder": 1, "output": 1}),
    (True, True, {"shared": 1, "output": 2}),
    (True, True, {"shared": 1, "encoder": 2}),
    (True, True, {"encoder": 1, "decoder": 2, "output": 3}),
    (True, True, {"decoder": 1, "output": 2}),
    (True, False, {"encoder": 1, "decoder": 2}),
    (True, False, {"encoder": 1, "output": 2}),
    (True, False, {"encoder": 1, "decoder": 2, "output": 3}),
    (False, True, {"shared": 4, "encoder": 1, "decoder": 2, "output": 3}),
    (False, True, {"shared": 1, "encoder": 1, "decoder": 1, "output": 3}),
    (False, False, {"encoder": 1, "decoder": 2, "output": 3}),
)


@pytest.mark.parametrize(("tie", "share", "tables"), TIES)
def test_ties_are_those_of_transformers(
    tmp_path: Path, tie: bool, share: bool, tables: dict[str, int]
) -> None:
    config = handmade.marian_config(tie_word_embeddings=tie, share_encoder_decoder_embeddings=share)
    tensors = handmade.marian_tensors(config)
    base = tensors.pop("model.shared.weight")
    tensors.update((TABLES[name], np.roll(base, number, axis=0)) for name, number in tables.items())
    handmade.write_checkpoint(tmp_path, config, tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    check(open_checkpoint(tmp_path), logits_of(transformers.MarianMTModel.from_pretrained(tmp_path).eval()))


# Defaults of the search.


@pytest.mark.parametrize(
    "changes",
    (
        {},
        {"num_beams": 4, "max_length": 31, "bad_words_ids": [[16]], "forced_eos_token_id": 0},
        {
            "num_beams": 3,
            "length_penalty": 0.6,
            "early_stopping": True,
            "no_repeat_ngram_size": 3,
            "min_length": 2,
        },
        {
            "repetition_penalty": 1.2,
            "forced_bos_token_id": 5,
            "suppress_tokens": [4],
            "begin_suppress_tokens": [0],
        },
    ),
)
@pytest.mark.parametrize("place", ("generation_config.json", "config.json"))
def test_generation_defaults(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    model = random_model()
    model.save_pretrained(tmp_path)
    keys = {"decoder_start_token_id": 16, "eos_token_id": 0, "pad_token_id": 16, **changes}
    (tmp_path / "generation_config.json").unlink()
    if place == "config.json":
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **keys}))
    else:
        (tmp_path / place).write_text(json.dumps(keys))
    wanted = transformers.MarianMTModel.from_pretrained(tmp_path).generation_config
    found = open_checkpoint(tmp_path).generation
    defaults = wanted._get_default_generation_params()
    for name in ("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size", "min_length"):
        value = getattr(wanted, name)
        assert getattr(found, name) == (defaults[name] if value is None else value), name
    assert found.repetition_penalty == (wanted.repetition_penalty or 1.0)
    assert found.decoder_start_token_id == wanted.decoder_start_token_id
    assert list(found.eos_token_id) == [wanted.eos_token_id]
    assert found.forced_bos_token_id == wanted.forced_bos_token_id
    forced = wanted.forced_eos_token_id
    assert found.forced_eos_token_id == (() if forced is None else (forced,))
    for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"):
        values = getattr(wanted, name) or []
        assert [list(v) if isinstance(v, tuple) else v for v in getattr(found, name)] == values, name
    assert found.max_length == (wanted.max_length or 40)


def test_the_default_generation_config_of_save_pretrained(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path)
    assert (tmp_path / "generation_config.json").exists()
    found = open_checkpoint(tmp_path).generation
    assert (found.decoder_start_token_id, found.eos_token_id, found.pad_token_id) == (16, (0,), 16)
