"""Checkpoints made by hand, byte by byte, so that each can be wrong in one place; tiny Marian models."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64"}
TORCH_TYPES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
}


def encode(values: np.ndarray, dtype: str) -> bytes:
    """The little-endian bytes of ``values`` as ``dtype``; bfloat16 is cut, so give it values that fit."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.ascontiguousarray(values).astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def representable(values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` as float32 that ``dtype`` can hold exactly."""
    if dtype == "bfloat16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    return values.astype(dtype).astype(np.float32)


# safetensors


def safetensors_file(header: Any, data: bytes = b"") -> bytes:
    """A file with any header: an object that is turned into JSON, or bytes as they are."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def safetensors_bytes(tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> bytes:
    """A valid file."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = encode(values, dtype)
        header[name] = {
            "dtype": SAFETENSORS_TYPES[dtype],
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return safetensors_file(header, data)


# torch: a pickle written opcode by opcode, as torch.save writes it with protocol 2


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def integers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def storage(key: str, kind: str, count: int, view: bytes = b"") -> bytes:
    """BINPERSID of a storage; the old format has a ``view`` behind it, None."""
    parts = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + integer(count)
    return b"(" + parts + view + b"tQ"


ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def tensor(stored: bytes, offset: int, shape: Sequence[int] | bytes, strides: Sequence[int]) -> bytes:
    """REDUCE of torch._utils._rebuild_tensor_v2; a shape may be given as opcodes."""
    size = shape if isinstance(shape, bytes) else integers(shape)
    arguments = stored + integer(offset) + size + integers(strides) + b"\x89" + ORDERED_DICT
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(items: Mapping[str, bytes]) -> bytes:
    """A whole data.pkl: name -> opcodes of the value; with the ``_metadata`` that torch adds."""
    body = b"".join(text(name) + value for name, value in items.items())
    metadata = b"}" + text("_metadata") + ORDERED_DICT + b"sb"
    return b"\x80\x02" + ORDERED_DICT + b"(" + body + b"u" + metadata + b"."


def contiguous(shape: Sequence[int]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def torch_members(tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> dict[str, bytes]:
    """The members of a valid file, a storage for each tensor."""
    items, storages = {}, {}
    for key, (name, values) in enumerate(tensors.items()):
        stored = storage(str(key), TORCH_TYPES[dtype], values.size)
        items[name] = tensor(stored, 0, values.shape, contiguous(values.shape))
        storages[f"archive/data/{key}"] = encode(values, dtype)
    return {
        "archive/data.pkl": state_dict(items),
        "archive/byteorder": b"little",
        **storages,
        "archive/version": b"3\n",
    }


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
    write_zip(path, torch_members(tensors, dtype))


# torch before 1.6: five pickles and the storages, behind one another

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def legacy_parts(items: Mapping[str, bytes], storages: Mapping[str, bytes], item_bytes: int = 4) -> dict[str, bytes]:
    """The parts of a file in order, for storages of elements of ``item_bytes``; ``items`` as in ``state_dict``."""
    return {
        "magic": LEGACY_MAGIC,
        "version": b"\x80\x02M\xe9\x03.",
        "system": pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, protocol=2),
        "state": state_dict(items),
        "keys": pickle.dumps(list(storages), protocol=2),
        "storages": b"".join(struct.pack("<q", len(raw) // item_bytes) + raw for raw in storages.values()),
    }


def write_legacy(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "float32") -> None:
    """A valid file, a storage for each tensor, in another order than that of the tensors."""
    items, storages = {}, {}
    for key, (name, values) in enumerate(tensors.items()):
        stored = storage(str(key), TORCH_TYPES[dtype], values.size, view=b"N")
        items[name] = tensor(stored, 0, values.shape, contiguous(values.shape))
        storages[str(key)] = encode(values, dtype)
    reverse = dict(reversed(storages.items()))
    item_bytes = {"float32": 4, "float64": 8}.get(dtype, 2)
    path.write_bytes(b"".join(legacy_parts(items, reverse, item_bytes).values()))


class Bomb:
    """Pickles to a call of ``function`` when loaded by Python's own unpickler."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def bomb(protocol: int, function: Any, *arguments: Any) -> bytes:
    return pickle.dumps({"model.shared.weight": Bomb(function, *arguments)}, protocol=protocol)


# Marian


def marian_config(**changes: Any) -> dict[str, Any]:
    """config.json of a tiny model; a change to None removes the key."""
    config: dict[str, Any] = {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "vocab_size": 21,
        "d_model": 12,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 3,
        "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 9,
        "max_position_embeddings": 32,
        "activation_function": "swish",
        "scale_embedding": True,
        "decoder_start_token_id": 20,
        "eos_token_id": 0,
        "pad_token_id": 20,
        "max_length": 30,
    }
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def marian_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors under the names of a tied, shared checkpoint with ``config``."""
    random = np.random.default_rng(seed)
    width = config["d_model"]
    shapes: dict[str, tuple[int, ...]] = {
        "final_logits_bias": (1, config["vocab_size"]),
        "model.shared.weight": (config["vocab_size"], width),
    }
    for stack, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        ffn = config[f"{stack}_ffn_dim"]
        for i in range(config[f"{stack}_layers"]):
            layer = f"model.{stack}.layers.{i}"
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    shapes[f"{layer}.{attention}.{part}.weight"] = (width, width)
                    shapes[f"{layer}.{attention}.{part}.bias"] = (width,)
                shapes[f"{layer}.{attention}_layer_norm.weight"] = (width,)
                shapes[f"{layer}.{attention}_layer_norm.bias"] = (width,)
            shapes[f"{layer}.fc1.weight"], shapes[f"{layer}.fc1.bias"] = (ffn, width), (ffn,)
            shapes[f"{layer}.fc2.weight"], shapes[f"{layer}.fc2.bias"] = (width, ffn), (width,)
            shapes[f"{layer}.final_layer_norm.weight"] = (width,)
            shapes[f"{layer}.final_layer_norm.bias"] = (width,)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_checkpoint(
    directory: Path,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    **files: Any,
) -> Path:
    """A checkpoint directory; ``files`` are JSON objects by name without the ending."""
    config = marian_config() if config is None else config
    tensors = marian_tensors(config) if tensors is None else tensors
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory
