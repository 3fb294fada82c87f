"""Writes a random Marian checkpoint of base size, as Hugging Face would export one (opus-mt's shape).

    python benchmarks/base_model.py OUT

6+6 layers, width 512, 8 heads, feed-forward 2,048, vocabulary 58,101, 512 positions: 74 million parameters.
The weights are random: the translations mean nothing, speed, size and memory are those of a trained model.
"""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

__all__ = ["BASE", "Shape", "write_checkpoint"]

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "multi30k-de-en"
SPM_PIECES = 32_000
"""Pieces of each SentencePiece model, as in opus-mt."""


@dataclass(frozen=True)
class Shape:
    """MarianConfig's names, where both stacks have the same."""

    d_model: int = 512
    layers: int = 6
    attention_heads: int = 8
    ffn_dim: int = 2048
    vocab_size: int = 58_101
    max_position_embeddings: int = 512


BASE = Shape()


def write_checkpoint(
    path: Path, shape: Shape = BASE, *, dtype: str = "float16", seed: int = 0, tokenizer: bool = True
) -> None:
    """Write the checkpoint directory `path`. `dtype`: "float16" or "float32", the type of the stored weights.

    The tokenizer is the example's, its vocabularies filled up with pieces that no text has.
    """
    path.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(shape, np.random.default_rng(seed))
    stored = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    _write_json(path / "config.json", _config(shape, dtype))
    _write_json(path / "generation_config.json", _generation(shape))
    if tokenizer:
        _write_tokenizer(path, shape.vocab_size)


def _tensors(shape: Shape, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float32, names and shapes as transformers saves MarianMTModel with all tables tied.

    Matrices are normal with a deviation of 1/sqrt(inputs), so that activations keep their size; so is the
    table, which is scaled by sqrt(width) when it is read. Biases are 0, norms 1.
    """
    width = shape.d_model

    def matrix(outputs: int, inputs: int) -> np.ndarray:
        return rng.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)

    tensors = {
        "model.shared.weight": matrix(shape.vocab_size, width),
        "final_logits_bias": np.zeros((1, shape.vocab_size), np.float32),
    }
    attentions = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}
    for stack, names in attentions.items():
        for layer in range(shape.layers):
            prefix = f"model.{stack}.layers.{layer}."
            parts = ("q", "k", "v", "out")
            linears = {f"{name}.{part}_proj": (width, width) for name in names for part in parts}
            linears |= {"fc1": (shape.ffn_dim, width), "fc2": (width, shape.ffn_dim)}
            for name, (outputs, inputs) in linears.items():
                tensors[f"{prefix}{name}.weight"] = matrix(outputs, inputs)
                tensors[f"{prefix}{name}.bias"] = np.zeros(outputs, np.float32)
            for name in (*(f"{name}_layer_norm" for name in names), "final_layer_norm"):
                tensors[f"{prefix}{name}.weight"] = np.ones(width, np.float32)
                tensors[f"{prefix}{name}.bias"] = np.zeros(width, np.float32)
    return tensors


def _config(shape: Shape, dtype: str) -> dict[str, object]:
    stacks = {
        f"{stack}_{name}": getattr(shape, name)
        for stack in ("encoder", "decoder")
        for name in ("layers", "attention_heads", "ffn_dim")
    }
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "activation_function": "swish",
        "d_model": shape.d_model,
        **stacks,
        "vocab_size": shape.vocab_size,
        "decoder_vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "decoder_start_token_id": shape.vocab_size - 1,
        "pad_token_id": shape.vocab_size - 1,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "dtype": dtype,
    }


def _generation(shape: Shape) -> dict[str, object]:
    return {
        "bad_words_ids": [[shape.vocab_size - 1]],
        "decoder_start_token_id": shape.vocab_size - 1,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "max_length": shape.max_position_embeddings,
        "num_beams": 4,
        "pad_token_id": shape.vocab_size - 1,
    }


def _write_tokenizer(path: Path, vocabulary: int) -> None:
    example = json.loads((EXAMPLE / "vocab.json").read_text(encoding="utf-8"))
    pieces = [piece for piece in example if piece != "<pad>"][: vocabulary - 1]
    pieces += [f"\u2581filler{index}" for index in range(len(pieces), vocabulary - 1)]
    _write_json(path / "vocab.json", {piece: index for index, piece in enumerate([*pieces, "<pad>"])})
    for side in ("source", "target"):
        model = (EXAMPLE / f"{side}.spm").read_bytes()
        fillers = range(max(0, min(SPM_PIECES, vocabulary) - len(example)))
        model += b"".join(_spm_piece(f"\u2581{side}filler{index}", -100.0) for index in fillers)
        (path / f"{side}.spm").write_bytes(model)
    settings = json.loads((EXAMPLE / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write_json(path / "tokenizer_config.json", settings)


def _spm_piece(piece: str, score: float) -> bytes:
    """An entry of SentencePiece's ModelProto (field 1: piece, score); protobuf messages concatenate."""
    text = piece.encode("utf-8")
    entry = bytes([0x0A, len(text)]) + text + b"\x15" + struct.pack("<f", score)
    return bytes([0x0A, len(entry)]) + entry


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="directory to write")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="of the weights")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in asdict(BASE).items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=value, help="default: %(default)s")
    options = vars(parser.parse_args())
    shape = Shape(**{name: options[name] for name in asdict(BASE)})
    write_checkpoint(options["output"], shape, dtype=options["dtype"], seed=options["seed"])
    print(f"{options['output']}: {sum(file.stat().st_size for file in options['output'].iterdir()):,} bytes")


if __name__ == "__main__":
    main()
