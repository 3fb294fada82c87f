"""The language models of the benchmarks, as GGUF files and as what each engine runs of them.

SmolLM2 135M and Gemma 3 270M come out of packages (tests/fetch_models.py); of the shape of TinyLlama, 1.1 billion
parameters, there is one with random weights, written here in half precision.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import models
import numpy as np
from tqdm import tqdm

from pyengine.modelfile.directory import VERSION
from pyengine.quantize import convert

__all__ = [
    "GEMMA3", "GROUP", "NAMES", "RANDOM", "SMOLLM2", "Shape", "add_options", "ctranslate2_directory", "own_directory",
    "peer_file", "source",
]  # fmt: skip

SMOLLM2, GEMMA3, RANDOM = "smollm2", "gemma3", "llama-1.1b"
NAMES = SMOLLM2, GEMMA3, RANDOM
GROUP = 64
"""Columns of int4 that share a scale: what `pyengine quantize` takes unless it is told; of Q4_0 they are 32."""
ROUNDING = {"int8": ("int8", "absmax"), "int4": (f"int4g{GROUP}", "mse")}
"""Types, and how it rounds without text to calibrate on."""


@dataclass(frozen=True)
class Shape:
    """Of a Llama with random weights."""

    layers: int = 22
    width: int = 2048
    heads: int = 32
    kv_heads: int = 4
    ffn_width: int = 5632
    vocab: int = 32000
    positions: int = 8192

    @property
    def name(self) -> str:
        """Another for every shape."""
        return "-".join(map(str, astuple(self)))


def add_options(parser: argparse.ArgumentParser) -> None:
    models.add_options(parser)
    parser.add_argument(
        "--models", type=Path, metavar="DIR", default=os.environ.get("PYENGINE_TEST_MODELS"),
        help="has smollm2.gguf and gemma3.gguf (default: the folder that PYENGINE_TEST_MODELS names; else they are "
        "fetched)",
    )  # fmt: skip


def source(name: str, options: argparse.Namespace, shape: Shape | None = None) -> Path:
    """The GGUF file, fetched or written if it is not there."""
    if name == RANDOM:
        shape = shape or Shape()
        path = options.work / f"{name}-{shape.name}.gguf"
        if not path.exists():
            write_random(path, shape)
        return path
    folder = options.models or options.work / "models"
    path = Path(folder) / f"{name}.gguf"
    if not path.exists():
        fetch = models.ROOT / "tests" / "fetch_models.py"
        subprocess.run([sys.executable, str(fetch), str(folder)], check=True)
    return path


def write_random(path: Path, shape: Shape) -> None:
    """Weights in half precision; a vocabulary of bytes and made-up words."""
    head_width = shape.width // shape.heads
    writer = gguf.GGUFWriter(path.with_suffix(".part"), "llama", use_temp_file=False)
    writer.add_type("model")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.vocab)
    words = [f"▁w{i}" for i in range(shape.vocab - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words])
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.UNKNOWN, *[kinds.CONTROL] * 2, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    drawn = tensors_of(shape)
    for name, size in drawn.items():
        kind = np.float32 if len(size) == 1 else np.float16
        writer.add_tensor_info(name, size, np.dtype(kind), int(np.prod(size)) * np.dtype(kind).itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(1)
    for size in tqdm(drawn.values(), desc=path.stem, leave=False):
        if len(size) == 1:
            writer.write_tensor_data(rng.uniform(0.5, 1.5, size).astype(np.float32))
        else:
            values = rng.standard_normal(size, np.float32) * np.float32(0.6 / np.sqrt(size[1]))
            writer.write_tensor_data(values.astype(np.float16))
    writer.close()
    path.with_suffix(".part").rename(path)


def tensors_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and sizes, in the file's order."""
    width, keys = shape.width, shape.kv_heads * shape.width // shape.heads
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocab, width)}
    for i in range(shape.layers):
        found |= {
            f"blk.{i}.attn_norm.weight": (width,),
            f"blk.{i}.attn_q.weight": (width, width),
            f"blk.{i}.attn_k.weight": (keys, width),
            f"blk.{i}.attn_v.weight": (keys, width),
            f"blk.{i}.attn_output.weight": (width, width),
            f"blk.{i}.ffn_norm.weight": (width,),
            f"blk.{i}.ffn_gate.weight": (shape.ffn_width, width),
            f"blk.{i}.ffn_up.weight": (shape.ffn_width, width),
            f"blk.{i}.ffn_down.weight": (width, shape.ffn_width),
        }
    return found | {"output_norm.weight": (width,), "output.weight": (shape.vocab, width)}


def own_directory(path: Path, weights: str, work: Path, keep: bool = False) -> Path:
    """The file as a model directory, "int8" or "int4": made anew, or kept from run to run."""
    work.mkdir(parents=True, exist_ok=True)
    kind, method = ROUNDING[weights]
    output = work / f"{path.stem}-{kind}-{method}-{VERSION}"
    if keep and output.exists():
        return output
    with tqdm(desc=output.name, unit="B", unit_scale=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(path, output, weights=kind, method=method, overwrite=True, progress=progress)
    return output


def peer_file(path: Path, kind: str, work: Path, threads: int) -> Path:
    """The file as llama.cpp quantizes it: "Q8_0", "Q4_0", ...; kept from run to run."""
    import llama_cpp

    output = work / f"{path.stem}-{kind}-{llama_cpp.__version__}.gguf"
    if not output.exists():
        part = output.with_suffix(".part")
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        parameters.allow_requantize, parameters.nthread = True, threads
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(quiet, None)
        code = llama_cpp.llama_model_quantize(str(path).encode(), str(part).encode(), parameters)
        if code != 0:
            raise RuntimeError(f"llama_model_quantize gives {code} for {path} in {kind}")
        part.rename(output)
    return output


def ctranslate2_directory(path: Path, work: Path, half: bool = False) -> Path:
    """The file as CTranslate2's converter rounds it to int8, with ids for words; kept from run to run.

    transformers reads the GGUF file, with `half` in half precision, which takes half of the memory. The converter wants
    a checkpoint and its tokenizer: it gets a configuration alone, and the model that was read.
    """
    output = work / f"{path.stem}-ctranslate2-{version('ctranslate2')}"
    if output.exists():
        return output
    import torch
    import transformers
    from ctranslate2.converters import TransformersConverter

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    words = {str(id): id for id in range(config.vocab_size)}

    class Converter(TransformersConverter):
        def load_model(self, model_class: Any, *_: Any, **__: Any) -> Any:
            kind = torch.float16 if half else torch.float32
            model = model_class.from_pretrained(path.parent, gguf_file=path.name, dtype=kind)
            # It says what the file was; the weights are no longer that, and the converter knows other kinds only.
            del model.config.quantization_config
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            begin, end = str(config.bos_token_id), str(config.eos_token_id)
            return SimpleNamespace(get_vocab=lambda: words, bos_token=begin, eos_token=end, unk_token="0")

    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        part = output.with_name(f"{output.name}.part")
        Converter(folder).convert(str(part), quantization="int8", force=True)
    part.rename(output)
    return output
