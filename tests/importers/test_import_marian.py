"""The Marian importer: which tensor becomes which, ties, and tensors that do not fit the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.canonical import AttentionConfig, CanonicalModel, FeedForwardConfig, LayerConfig
from pyengine.errors import CheckpointError, UnsupportedError
from pyengine.importers import open_checkpoint, positions
from pyengine.importers.positions import sinusoidal_positions

from ..checkpoints import handmade

SHARED = "model.shared.weight"
ENCODER = "model.encoder.embed_tokens.weight"
DECODER = "model.decoder.embed_tokens.weight"
OUTPUT = "lm_head.weight"
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")

Tensors = dict[str, np.ndarray]


def read(model: CanonicalModel, name: str) -> np.ndarray:
    return model.tensors[name].read()


def open_with(directory: Path, tensors: Tensors, **changes: Any) -> CanonicalModel:
    return open_checkpoint(handmade.write_checkpoint(directory, handmade.marian_config(**changes), tensors))


def tables(**values: float) -> Tensors:
    """A checkpoint whose vocabulary tables are these, each filled with one number."""
    names = {"shared": SHARED, "encoder": ENCODER, "decoder": DECODER, "output": OUTPUT}
    tensors = handmade.marian_tensors(handmade.marian_config())
    del tensors[SHARED]
    return {**tensors, **{names[key]: np.full((21, 12), value, np.float32) for key, value in values.items()}}


def test_every_tensor_of_a_layer(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    model = open_with(tmp_path, tensors)
    names = {
        "decoder.embed.weight": SHARED,
        "encoder.layers.1.self_attention.q.weight": "model.encoder.layers.1.self_attn.q_proj.weight",
        "encoder.layers.1.self_attention.k.bias": "model.encoder.layers.1.self_attn.k_proj.bias",
        "encoder.layers.0.self_attention.output.weight": "model.encoder.layers.0.self_attn.out_proj.weight",
        "encoder.layers.0.self_attention.norm.bias": "model.encoder.layers.0.self_attn_layer_norm.bias",
        "encoder.layers.0.ffn.up.weight": "model.encoder.layers.0.fc1.weight",
        "encoder.layers.0.ffn.down.bias": "model.encoder.layers.0.fc2.bias",
        "encoder.layers.0.ffn.norm.weight": "model.encoder.layers.0.final_layer_norm.weight",
        "decoder.layers.0.self_attention.v.weight": "model.decoder.layers.0.self_attn.v_proj.weight",
        "decoder.layers.0.cross_attention.v.weight": "model.decoder.layers.0.encoder_attn.v_proj.weight",
        "decoder.layers.0.cross_attention.norm.bias": "model.decoder.layers.0.encoder_attn_layer_norm.bias",
        "decoder.layers.0.ffn.norm.weight": "model.decoder.layers.0.final_layer_norm.weight",
    }
    for canonical, raw in names.items():
        np.testing.assert_array_equal(read(model, canonical), tensors[raw])
    np.testing.assert_array_equal(read(model, "output.bias"), tensors["final_logits_bias"][0])
    # Nothing is left out or used twice; positions are made.
    assert len(model.tensors) == len(tensors) + 2
    for stack in ("encoder", "decoder"):
        np.testing.assert_array_equal(read(model, f"{stack}.positions"), sinusoidal_positions(32, 12))


def test_without_a_bias_of_the_logits(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    del tensors["final_logits_bias"]
    np.testing.assert_array_equal(read(open_with(tmp_path, tensors), "output.bias"), np.zeros(21, np.float32))


# tie_word_embeddings, share_encoder_decoder_embeddings, tables in the file, values of source, target, output
TIES: dict[str, tuple[bool, bool, dict[str, float], tuple[float, float, float]]] = {
    "new export, shared": (True, True, {"shared": 1}, (1, 1, 1)),
    "old export, every name": (True, True, {"shared": 1, "encoder": 1, "decoder": 1, "output": 1}, (1, 1, 1)),
    "only the head": (True, True, {"output": 1}, (1, 1, 1)),
    "only the encoder's": (True, True, {"encoder": 1}, (1, 1, 1)),
    "a head of its own in spite of the config": (True, True, {"shared": 1, "output": 2}, (1, 1, 2)),
    "tables of their own in spite of the config": (
        True,
        True,
        {"encoder": 1, "decoder": 2, "output": 2},
        (1, 2, 2),
    ),
    "untied head, new export": (
        False,
        True,
        {"shared": 9, "encoder": 1, "decoder": 1, "output": 2},
        (1, 1, 2),
    ),
    "untied head, old export": (False, True, {"shared": 1, "output": 2}, (1, 1, 2)),
    "untied head of equal values": (False, True, {"shared": 1, "output": 1}, (1, 1, 1)),
    "separate tables": (True, False, {"encoder": 1, "decoder": 2}, (1, 2, 2)),
    "separate tables, old export": (True, False, {"encoder": 1, "decoder": 2, "output": 2}, (1, 2, 2)),
    "separate tables, target under the head's name": (True, False, {"encoder": 1, "output": 2}, (1, 2, 2)),
    "nothing tied": (False, False, {"encoder": 1, "decoder": 2, "output": 3}, (1, 2, 3)),
}


@pytest.mark.parametrize("name", TIES)
def test_tables(tmp_path: Path, name: str) -> None:
    tie, share, given, expected = TIES[name]
    model = open_with(
        tmp_path, tables(**given), tie_word_embeddings=tie, share_encoder_decoder_embeddings=share
    )
    source, target, output = expected
    assert model.config.share_embeddings == (share and source == target)
    assert model.config.tie_output == (tie and target == output)
    assert read(model, "decoder.embed.weight")[0, 0] == target
    if not model.config.share_embeddings:
        assert read(model, "encoder.embed.weight")[0, 0] == source
    if not model.config.tie_output:
        assert read(model, "output.weight")[0, 0] == output


@pytest.mark.parametrize(
    ("tie", "share", "given", "missing"),
    (
        (True, True, {}, SHARED),
        (False, True, {"shared": 1}, OUTPUT),
        (True, False, {"decoder": 1}, ENCODER),
        (True, False, {"encoder": 1}, DECODER),
        (False, False, {"encoder": 1, "decoder": 1}, OUTPUT),
    ),
)
def test_a_missing_table_is_named(
    tmp_path: Path, tie: bool, share: bool, given: dict[str, float], missing: str
) -> None:
    with pytest.raises(
        CheckpointError, match=f"1 missing: {missing}|missing: {missing}, {OUTPUT}|{DECODER}, {missing}"
    ):
        open_with(tmp_path, tables(**given), tie_word_embeddings=tie, share_encoder_decoder_embeddings=share)


def test_separate_vocabularies(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    del tensors[SHARED]
    tensors[ENCODER], tensors[DECODER] = np.ones((21, 12), np.float32), np.ones((17, 12), np.float32)
    tensors["final_logits_bias"] = np.ones((1, 17), np.float32)
    changes = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 17}
    model = open_with(tmp_path, tensors, **changes, decoder_start_token_id=16, pad_token_id=16)
    assert (model.config.source_vocab, model.config.target_vocab) == (21, 17)
    assert not model.config.share_embeddings and model.config.tie_output
    tensors[OUTPUT] = np.full((17, 12), 2, np.float32)
    untied = open_with(
        tmp_path, tensors, **changes, decoder_start_token_id=16, pad_token_id=16, tie_word_embeddings=False
    )
    assert untied.tensors["output.weight"].shape == (17, 12)


def test_a_shared_table_of_two_sizes(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    with pytest.raises(CheckpointError, match="decoder_vocab_size: expected 21, the vocab_size .* found 17"):
        open_with(tmp_path, tensors, decoder_vocab_size=17)


def test_different_stacks(tmp_path: Path) -> None:
    config = handmade.marian_config(
        encoder_layers=1, decoder_layers=3, decoder_ffn_dim=5, encoder_attention_heads=6
    )
    model = open_checkpoint(handmade.write_checkpoint(tmp_path, config))
    narrow, wide = AttentionConfig.plain(6, 2), AttentionConfig.plain(3, 4)
    assert model.config.encoder.layers == (LayerConfig(narrow, FeedForwardConfig(20, "silu")),)
    assert model.config.decoder.layers == (LayerConfig(wide, FeedForwardConfig(5, "silu"), wide),) * 3


def test_all_that_is_wrong_in_one_message(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    del (
        tensors["model.encoder.layers.0.fc1.bias"],
        tensors["model.decoder.layers.0.encoder_attn.q_proj.weight"],
    )
    tensors["model.encoder.layers.2.fc1.bias"] = np.zeros(20, np.float32)
    tensors["lm_head.bias"] = np.zeros(21, np.float32)
    tensors["model.decoder.layers.0.fc1.weight"] = tensors["model.decoder.layers.0.fc1.weight"].T
    tensors["final_logits_bias"] = np.zeros(21, np.float32)
    with pytest.raises(CheckpointError) as info:
        open_with(tmp_path, tensors)
    message = str(info.value)
    for part in (
        "2 missing: model.encoder.layers.0.fc1.bias, model.decoder.layers.0.encoder_attn.q_proj.weight",
        "2 unexpected: model.encoder.layers.2.fc1.bias, lm_head.bias",
        "2 mis-shaped: ",
        "model.decoder.layers.0.fc1.weight (expected [9, 12], found [12, 9])",
        "final_logits_bias (expected [1, 21], found [21])",
    ):
        assert part in message
    assert "\n" not in message


def test_a_type_that_cannot_be_read(tmp_path: Path) -> None:
    directory = handmade.write_checkpoint(tmp_path)
    tensors = handmade.marian_tensors(handmade.marian_config())
    (directory / "model.safetensors").write_bytes(handmade.safetensors_bytes(tensors, "int64"))
    with pytest.raises(
        UnsupportedError, match=r"other than float32, float16, bfloat16, float64: .*model.shared.weight \(I64\)"
    ):
        open_checkpoint(directory)


def test_tensors_of_no_layer_are_passed_over_with_a_note(tmp_path: Path) -> None:
    """As transformers does. Layers that the config does not ask for are another matter: it must be wrong."""
    tensors = handmade.marian_tensors(handmade.marian_config())
    others = {name: np.zeros(2, np.float32) for name in ("optimizer.state.0", "model.encoder.version", "x")}
    model = open_with(tmp_path, {**others, **tensors})
    plain = open_with(tmp_path / "plain", tensors)
    assert list(model.tensors) == list(plain.tensors) and len(plain.notes) == 1
    assert model.notes[0] == (
        f"{tmp_path}: 3 tensors of no layer or table passed over: 'optimizer.state.0', 'model.encoder.version', 'x'"
    )


def test_a_checkpoint_without_tokenizer_says_so(tmp_path: Path) -> None:
    (note,) = open_with(tmp_path, handmade.marian_tensors(handmade.marian_config())).notes
    assert note == (
        f"{tmp_path}: no tokenizer files (expected source.spm, target.spm, vocab.json; or tokenizer.json): "
        "the model takes and gives token ids, no text"
    )


def test_a_bias_of_minus_infinity(tmp_path: Path) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    tensors["final_logits_bias"][0, [3, 20]] = -np.inf
    bias = read(open_with(tmp_path, tensors), "output.bias")
    np.testing.assert_array_equal(bias, tensors["final_logits_bias"][0])
    for wrong, found in ((np.nan, "nan"), (np.inf, "inf")):
        tensors["final_logits_bias"][0, 7] = wrong
        model = open_with(tmp_path, tensors)
        with pytest.raises(CheckpointError, match=rf"final_logits_bias: .*finite numbers, found {found} at \[0, 7"):
            read(model, "output.bias")
    tensors["final_logits_bias"][:] = -np.inf
    model = open_with(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="final_logits_bias: expected a finite number for some id, found none"):
        read(model, "output.bias")


# Positions.


@pytest.mark.parametrize("dtype", ("float32", "float16", "bfloat16"))
def test_stored_sinusoids(tmp_path: Path, dtype: str) -> None:
    config = handmade.marian_config()
    tensors = handmade.marian_tensors(config)
    for name in POSITIONS:
        tensors[name] = handmade.representable(sinusoidal_positions(32, 12), dtype)
    directory = handmade.write_checkpoint(tmp_path, config)
    (directory / "model.safetensors").write_bytes(handmade.safetensors_bytes(tensors, dtype))
    model = open_checkpoint(directory)
    assert len(model.tensors) == len(tensors)
    np.testing.assert_array_equal(read(model, "decoder.positions"), sinusoidal_positions(32, 12))


@pytest.mark.parametrize("name", POSITIONS)
def test_other_positions_are_refused(tmp_path: Path, name: str) -> None:
    tensors = handmade.marian_tensors(handmade.marian_config())
    tensors[name] = sinusoidal_positions(33, 12)[1:]
    with pytest.raises(UnsupportedError, match=f"tensor {name}: expected sinusoidal positions, found"):
        open_with(tmp_path, tensors)
    tensors[name] = sinusoidal_positions(31, 12)
    with pytest.raises(CheckpointError, match=r"mis-shaped: .*embed_positions.weight \(expected \[32, 12\]"):
        open_with(tmp_path, tensors)


def test_positions_that_no_file_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made by a formula: a small checkpoint must not ask for gigabytes."""
    monkeypatch.setattr(positions, "MOST_VALUES", 100)
    with pytest.raises(UnsupportedError, match="max_positions: expected at most 8 for a width of 12, found 32"):
        open_with(tmp_path, handmade.marian_tensors(handmade.marian_config()))


def test_sinusoidal_positions() -> None:
    table = sinusoidal_positions(50, 8)
    assert table.shape == (50, 8) and table.dtype == np.float32
    for position in (0, 1, 49):
        for j in range(4):
            angle = position / 10000 ** (2 * j / 8)
            assert table[position, j] == np.float32(np.sin(angle))
            assert table[position, 4 + j] == np.float32(np.cos(angle))


# What is no checkpoint.


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "missing", "expected a checkpoint directory or a GGUF file, found nothing"),
        (tmp_path, "expected a checkpoint directory or a GGUF file, found an empty directory"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="found a file"):
        open_checkpoint(tmp_path / "file")
    with pytest.raises(CheckpointError, match="found no config.json in it"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text('{"format": "pyengine"}')
    with pytest.raises(CheckpointError, match="a model directory already"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", (b"", b"[]", b"{", b'{"a": NaN', b"\xff\xfe", b"null"))
def test_a_config_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    directory = handmade.write_checkpoint(tmp_path)
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="config.json"):
        open_checkpoint(directory)
