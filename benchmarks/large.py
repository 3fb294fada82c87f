"""A decoder alone of 1.1 billion parameters: converted, loaded and run, within bounds of memory, to the same bytes.

    python benchmarks/large.py

22 layers of width 2,048, 32 heads on 4 key-value heads, gated feed-forward of 5,632, 32,000 ids, 131,072 positions. Its
tensors are random and drawn when they are read, so that nothing of 4.4 GB is ever there at once. The conversion runs in
a process of its own, whose peak of memory is asked. A prompt goes through the core's step in chunks of several sizes,
and token by token; then once more with windows in every other layer, counting pages after each step and during it.
Asked are bounds of memory and the same bytes, not times.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import models
import numpy as np
from language_models import Shape
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

from pyengine import _core
from pyengine.canonical import CanonicalModel, GenerationDefaults, LazyTensor
from pyengine.canonical.config import (
    AttentionConfig, FeedForwardConfig, LayerConfig, ModelConfig, RopeConfig, StackConfig, default_scale,
)  # fmt: skip
from pyengine.canonical.tensors import tensor_specs
from pyengine.cpus import usable_cpus
from pyengine.modelfile import open_directory
from pyengine.plan import Plan
from pyengine.quantize import convert

PAGE = 16
MOST_CONVERTING, MOST_WORKING = 2 << 30, 64 << 20


@dataclass(frozen=True)
class Extent:
    """The model, and the prompt: its tokens, the chunks it comes in, the windows that are tried."""

    shape: Shape = Shape(positions=131072)
    prompt: int = 4096
    chunks: tuple[int, ...] = (256, 100, 1)
    window: int = 500


QUICK = Extent(Shape(layers=2, width=256, heads=4, kv_heads=2, ffn_width=384, vocab=1000), prompt=300, window=40)
ROWS = 256


def config_of(shape: Shape) -> ModelConfig:
    head_width = shape.width // shape.heads
    attention = AttentionConfig(
        heads=shape.heads, kv_heads=shape.kv_heads, head_width=head_width, scale=default_scale(head_width),
        qkv_bias=False, output_bias=False, rope="all",
    )  # fmt: skip
    layer = LayerConfig(attention, FeedForwardConfig(shape.ffn_width, "silu", gated=True, bias=False))
    decoder = StackConfig(
        layers=(layer,) * shape.layers, max_positions=shape.positions, norm="rms", placement="pre", final_norm=True,
        positions="none",
    )  # fmt: skip
    return ModelConfig(
        family="random", width=shape.width, encoder=None, decoder=decoder, source_vocab=None,
        target_vocab=shape.vocab, output_bias=False, ropes={"all": RopeConfig(head_width)},
    )  # fmt: skip


def windowed(config: ModelConfig, window: int) -> ModelConfig:
    """The same weights, every other layer of which sees `window` keys only."""
    assert config.decoder is not None
    layers = tuple(
        replace(layer, self_attention=replace(layer.self_attention, window=(window - 1, 0))) if i % 2 else layer
        for i, layer in enumerate(config.decoder.layers)
    )
    return replace(config, decoder=replace(config.decoder, layers=layers))


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("frequencies"):
        return (10000.0 ** -(np.arange(shape[0]) / shape[0])).astype(np.float32)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.6 / np.sqrt(shape[-1]))


def canonical(config: ModelConfig) -> CanonicalModel:
    tensors = {
        name: LazyTensor(name, spec.shape, "float32", lambda name=name, spec=spec: drawn(name, spec.shape))
        for name, spec in tensor_specs(config).items()
    }
    generation = GenerationDefaults(decoder_start_token_id=1, eos_token_id=(2,), pad_token_id=None, max_length=256)
    return CanonicalModel(config=config, generation=generation, tensors=tensors)


def convert_here(output: Path, shape: Shape) -> None:
    model = canonical(config_of(shape))
    with tqdm(desc="convert", unit="B", unit_scale=True, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        convert(model, output, weights="int8", overwrite=True, progress=progress)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def run_prompt(session: _core.Session, ids: np.ndarray, chunk: int, window: int = 0) -> tuple[str, float, int, int]:
    """A digest of what the rows at the ends of pages answer, the seconds, and the most pages that windowed
    layers held after a step and during one."""
    results, start, after, during = [], time.perf_counter(), 0, 0
    for first in tqdm(range(0, len(ids), chunk), desc=f"chunks of {chunk}", leave=False):
        part = ids[first : first + chunk]
        asked = np.flatnonzero(((first + np.arange(len(part)) + 1) % PAGE == 0)).astype(np.int32)
        rows = len(part)
        results.append(session.step(Plan(
            tokens=part, sequences=np.zeros(rows, np.int32), memories=np.full(rows, -1, np.int32), logit_rows=asked,
            exclude_offsets=np.zeros(len(asked) + 1, np.int32), top_k=5,
        )))  # fmt: skip
        if window:
            after = max(after, session.used_pages[1])
            during = max(during, session.used_pages[1] + -(-rows // PAGE))
    seconds, digest = time.perf_counter() - start, hashlib.sha256()
    for name in ("log_normalizer", "top_ids", "top_logits"):
        digest.update(np.concatenate([getattr(result, name) for result in results]).tobytes())
    return digest.hexdigest(), seconds, after, during


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="a small model and prompt: to see that it runs")
    made.add_argument("--convert", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    if options.convert:
        convert_here(options.convert, extent.shape)
        return
    options.work.mkdir(parents=True, exist_ok=True)
    directory = options.work / "large"
    command = [sys.executable, __file__, "--convert", str(directory), *(["--quick"] if options.quick else [])]
    peak = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    opened = open_directory(directory)
    float32_bytes = sum(4 * int(np.prod(spec.shape)) for spec in tensor_specs(opened.config).values())
    threads = usable_cpus()
    report = Report("large", {**asdict(extent), "threads": threads, "rows": ROWS})
    sizes = Table("Memory, MB", {"what": "", "MB": ",.0f"})
    ids = np.random.default_rng(3).integers(0, extent.shape.vocab, extent.prompt).astype(np.int32)
    times = Table(
        f"A prompt of {extent.prompt:,} tokens, int8, {threads} threads",
        {"layers": "", "rows a step": "d", "seconds": ".1f", "tokens a second": ",.0f", "digest of its logits": ""},
    )
    pages = {}
    for name, config in (("all keys", opened.config), ("windows", windowed(opened.config, extent.window))):
        model = _core.Model(config, opened.tensors, kv="int8")
        digests = set()
        for chunk in extent.chunks:
            session = _core.Session(model, _core.Crews(threads), max_rows=ROWS, max_sequences=4, max_memories=1)
            window = extent.window if name == "windows" else 0
            digest, seconds, after, during = run_prompt(session, ids, chunk, window)
            digests.add(digest)
            times.rows.append([name, chunk, seconds, len(ids) / seconds, digest[:12]])
            if window:
                pages[chunk] = after, during
        working, cache = session.working_bytes, session.cache_bytes
        same = len(digests) == 1
        report.verdicts.append(Verdict(f"{name}: the same bytes in chunks of any size", "yes" if same else "no", same))
    sizes.rows.extend([
        ["float32 tensors", float32_bytes / 1e6],
        ["peak of the conversion", peak / 1e6],
        ["model directory", models.directory_bytes(directory) / 1e6],
        [f"working memory at {ROWS} rows a step", working / 1e6],
        [f"cache of {extent.prompt:,} tokens", cache / 1e6],
    ])  # fmt: skip
    report.tables.extend([sizes, times])
    for demand, found, most in (
        ("peak memory of the conversion under 2 GB", peak, MOST_CONVERTING),
        (f"working memory at {ROWS} rows under 64 MB", working, MOST_WORKING),
    ):
        report.verdicts.append(Verdict(demand, f"{found / 1e6:,.0f} MB", found < most))
    kept = -(-extent.window // PAGE) + 2
    most_after = max(after for after, _ in pages.values())
    demand = f"pages of a window of {extent.window} after a step: at most {kept}"
    report.verdicts.append(Verdict(demand, str(most_after), most_after <= kept))
    held = {chunk: during <= -(-(extent.window + chunk) // PAGE) + 2 for chunk, (_, during) in pages.items()}
    found = ", ".join(f"{during} ({chunk} rows)" for chunk, (_, during) in pages.items())
    report.verdicts.append(
        Verdict("and during a step of r rows: at most ceil((window + r) / 16) + 2", found, all(held.values()))
    )
    publish(report, options)


if __name__ == "__main__":
    main()
