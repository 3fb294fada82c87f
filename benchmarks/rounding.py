"""Ways to round a language model: how far its distributions move, perplexity, bits a weight, beside Q8_0 and Q4_0.

    python benchmarks/rounding.py --model smollm2.gguf --text valid.txt [--tokens N] [--work DIR] [--only PATTERN]

Calibration reads the first third of the text, its first 64 windows of 1,024 tokens; figures are of the first N tokens
of the rest, in windows of 1,024 that do not overlap, each behind a start token. The KL divergence of a token is that
of the next-token distributions at its place, float32 against the rounded model. All rows compute in float32 with a
float32 cache, so that they show what weights alone lose, but for those that say `as used`: these have int8 activations
and an int8 cache. Q8_0 and Q4_0 are llama.cpp's types, by the `gguf` package, of the same weights, run here in
float32; the embedding table of Q4_0 is Q8_0, which is what llama.cpp takes for it where rows are no multiple of 256.
`plain` is without the Hadamard matrix that a conversion else chooses for int8 and for GPTQ; `int8 cache alone` has it,
and float32 weights. Bits a weight count all that is stored, vectors and scales too, by the weights of all matrices. The
weights of SmolLM2's GGUF file are themselves Q4_1 (the table Q8_0): float32 is what these dequantize to. What was made
and measured is kept in DIR and not done again, so that it may be done in pieces, `--only` some ways at a time; the last
run shows them all.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish

from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.modelfile import open_directory
from pyengine.modelfile.layout import matrix_names, matrix_shapes, packed_specs
from pyengine.quantize import Calibration, convert
from pyengine.quantize import measure as measured
from pyengine.quantize.measuring.divergence import token_divergence
from pyengine.quantize.opening import open_model
from pyengine.quantize.seeing.calibration import in_memory_engine
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.engine import Engine, open_engine
from pyengine.tasks.forcing import target_logits
from pyengine.tasks.inputs import Sample
from pyengine.text import tokenizer_of

WINDOW = 1024
CALIBRATED_TOKENS = 64 * WINDOW
FLOAT = {"compute": "float32", "kv": "float32"}
USED: dict[str, str] = {}
TABLES = ("decoder.embed", "output")
Q8_0, Q4_0, G32, G64, MIXED = "Q8_0", "Q4_0", "int4g32", "int4g64, gptq", "mixed, 5 bits"
INT8, CACHE = "int8, as used", "int8 cache alone"
UNIFORM, SAME, ZEROS = "int4g32, gptq", "mixed, as int4g32", "int4g64z, gptq"
# name -> arguments of convert, those of Calibration if there is one, and how it is loaded; "bits" is a budget outside
# the tables, 0 that of int4g32.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "int8": ({}, {}, FLOAT),
    INT8: ({}, {}, USED),
    "int8, plain, as used": ({"hadamard": False}, {}, USED),
    CACHE: ({"weights": "float32", "hadamard": True}, {}, {"compute": "float32", "kv": "int8"}),
    G32: ({"weights": "int4g32", "method": "mse"}, {}, FLOAT),
    "int4g32z": ({"weights": "int4g32z", "method": "mse"}, {}, FLOAT),
    UNIFORM: ({"weights": "int4g32"}, {"method": "gptq"}, FLOAT),
    "int4g64": ({"weights": "int4g64", "method": "mse"}, {}, FLOAT),
    "int4g64, awq": ({"weights": "int4g64"}, {"method": "awq"}, FLOAT),
    G64: ({"weights": "int4g64"}, {"method": "gptq"}, FLOAT),
    "int4g64, gptq, as used": ({"weights": "int4g64"}, {"method": "gptq"}, USED),
    "int4g64, plain, gptq, as used": ({"weights": "int4g64", "hadamard": False}, {"method": "gptq"}, USED),
    ZEROS: ({"weights": "int4g64z"}, {"method": "gptq"}, FLOAT),
    SAME: ({"weights": "int4g64"}, {"method": "gptq", "bits": 0.0}, FLOAT),
    MIXED: ({"weights": "int4g64"}, {"method": "gptq", "bits": 5.0}, FLOAT),
}
SECONDS = 600
OF_Q4_0, OF_FLOAT32, OF_FLOAT32_MIXED, OF_FLOAT32_CACHE = 1.15, 0.06, 0.04, 0.0015


@dataclass(frozen=True)
class Text:
    """Windows as token ids, each behind a start token: to calibrate on, and to measure on."""

    seen: list[np.ndarray]
    unseen: list[np.ndarray]


@dataclass
class Found:
    """Bits a weight with the embedding table and without; seconds of the conversion; means over the tokens, in nats."""

    bits: float
    bits_without: float
    seconds: float | None = None
    divergence: float = 0.0
    surprise: float = 0.0


class Work:
    """What lies in a folder: models, and what was found of each way with so many tokens."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self._folder = folder / "rounding"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"{tokens}.json"
        held = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        self.found = {label: Found(**each) for label, each in held.items()}

    def state(self, how: Mapping[str, Any], calibrated: Mapping[str, Any]) -> Path:
        """Of the calibration of this model, with a Hadamard matrix or plain, that conversions go on from."""
        plain = how.get("hadamard") is False or calibrated["method"] == "awq"
        return self._folder / ("calibration, plain" if plain else "calibration")

    def place(self, label: str) -> Path:
        """Of the model of a way."""
        return self._folder / label.removesuffix(", as used").replace(", ", "-").replace(" ", "-")

    def keep(self) -> None:
        held = {label: asdict(each) for label, each in self.found.items()}
        self._file.write_text(json.dumps(held, indent=1), encoding="utf-8")


def read_text(model: CanonicalModel, path: Path, tokens: int) -> Text:
    with model.laid_out() as laid:
        tokenizer = tokenizer_of(laid)
    content = path.read_text(encoding="utf-8")
    unseen = unseen_part(content)
    assert tokenizer is not None and model.generation is not None and model.generation.bos_token_id is not None
    start, windows = np.int32(model.generation.bos_token_id), []
    size = min(WINDOW, model.config.target_side()[0].max_positions - 2)
    for part, most in ((content.removesuffix(unseen), CALIBRATED_TOKENS), (unseen, tokens)):
        ids = np.array(tokenizer.encode(part, special=False, split_special=True)[:most], np.int32)
        windows.append([np.append(start, ids[begin : begin + size]) for begin in range(0, len(ids), size)])
    return Text(*windows)


def unseen_part(content: str) -> str:
    """The lines behind its first third, which is for calibration."""
    return content[content.rindex("\n", 0, len(content) // 3) + 1 :]


def as_gguf(model: CanonicalModel, kind: str, threads: int) -> tuple[Engine, Found]:
    """The model as llama.cpp's type ``kind`` has it."""
    import gguf

    tensors, bits, specs = dict(model.tensors), {}, packed_specs(model.config, "float32")
    for name in matrix_names(model.config):
        own = gguf.GGMLQuantizationType[Q8_0 if name in TABLES else kind]
        elements, size = gguf.GGML_QUANT_SIZES[own]
        for source in specs[f"{name}.weight"].sources:
            stored = gguf.quantize(model.tensors[source].read(), own)
            tensors[source] = LazyTensor.of(source, gguf.dequantize(stored, own).astype(np.float32))
            bits[source] = math.prod(model.tensors[source].shape) * 8 * size / elements
    found = []
    for tables in (True, False):
        names = [name for name in tensors if tables or name.removesuffix(".weight") not in TABLES]
        total = sum(bits.get(name, 32 * math.prod(tensors[name].shape)) for name in names)
        found.append(total / sum(math.prod(tensors[name].shape) for name in names if name in bits))
    return in_memory_engine(model.config, model.generation, tensors, threads=threads), Found(*found)


def converted(checkpoint: Path, work: Work, label: str, text: Text, threads: int) -> tuple[Engine, Found]:
    how, calibrated, load = WAYS[label]
    place, start, how, found = work.place(label), time.perf_counter(), dict(how), Found(0, 0)
    if calibrated:
        given = {name: value for name, value in calibrated.items() if name != "bits"}
        if "bits" in calibrated:
            given["target_bytes"] = target_bytes(checkpoint, calibrated["bits"])
            how["tensors"] = [("decoder.embed", "int8")]
        given["state"] = work.state(how, given)
        how["calibration"] = Calibration([(None, window) for window in text.seen], **given)
    if not place.exists():
        convert(checkpoint, place, **how)
        found.seconds = time.perf_counter() - start
    directory = open_directory(place, copy=True)
    shapes = matrix_shapes(directory.config)
    bits = []
    for tables in (True, False):
        stored = [tensor.nbytes for name, tensor in directory.tensors.items() if tables or not name.startswith(TABLES)]
        weights = [math.prod(shape) for name, shape in shapes.items() if tables or name not in TABLES]
        bits.append(8 * sum(stored) / sum(weights))
    found.bits, found.bits_without = bits
    return open_engine(directory, threads=threads, **load)[0], found


def target_bytes(checkpoint: Path, bits: float) -> int:
    """Bytes of all tensors with so many bits a weight outside an int8 table; 0: those of int4g32 with biases."""
    rows = measured(checkpoint, weights="int4g32").tensors
    size = sum(row.stored_bytes for row in rows)
    others = [row for row in rows if row.name.removesuffix(".weight") not in TABLES]
    matrices = [row for row in others if row.kind == "matrix"]
    if not bits:
        return size + sum(4 * row.shape[0] for row in matrices)
    weights = sum(math.prod(row.shape) for row in matrices)
    return size - sum(row.stored_bytes for row in others) + int(bits * weights / 8)


def logits(engine: Engine, windows: list[np.ndarray]) -> Iterator[np.ndarray]:
    samples, deadline = [Sample(None, window) for window in windows], Deadline()
    with engine.session(deadline, 1) as session:
        rows = min(WINDOW, session.max_rows)
        yield from target_logits(session, engine.config, samples, None, budget=rows, deadline=deadline)


def measure(exact: Engine, engines: dict[str, Engine], found: dict[str, Found], windows: list[np.ndarray]) -> None:
    """Means over all tokens into ``found``, of float32, too."""
    tokens = sum(len(window) - 1 for window in windows)
    runs = {label: logits(engine, windows) for label, engine in engines.items()}
    found["float32"] = Found(32, 32)
    for window, truth in zip(windows, logits(exact, windows), strict=True):
        found["float32"].surprise += surprise(truth, window) / tokens
        for label, run in runs.items():
            other = next(run)
            found[label].divergence += float(token_divergence(truth, other).sum()) / tokens
            found[label].surprise += surprise(other, window) / tokens


def surprise(found: np.ndarray, window: np.ndarray) -> float:
    """-ln of the probabilities of a window's tokens, summed."""
    highest = found.max(axis=1, keepdims=True)
    sums = np.log(np.exp(found - highest).sum(axis=1, dtype=np.float64))
    return float((highest[:, 0] + sums - found[np.arange(len(found)), window[1:]]).sum())


def options() -> argparse.Namespace:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--model", type=Path, required=True, metavar="FILE", help="a GGUF file of a language model")
    made.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text")
    made.add_argument("--tokens", type=int, default=32768, metavar="N", help="to measure on (default: %(default)s)")
    made.add_argument("--only", default="*", metavar="PATTERN", help="make and measure the ways whose names match")
    made.add_argument("--within", type=float, default=0.005, help="what int8 may lose of perplexity (default: 0.005)")
    made.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    return made.parse_args()


def main() -> None:
    chosen = options()
    model, work = open_model(chosen.model), Work(chosen.work, chosen.tokens)
    text = read_text(model, chosen.text, chosen.tokens)
    engines: dict[str, Engine] = {}
    for label in (Q8_0, Q4_0, *WAYS):
        if fnmatchcase(label, chosen.only) and label not in work.found:
            made = converted(chosen.model, work, label, text, chosen.threads) if label in WAYS else None
            engines[label], work.found[label] = made or as_gguf(model, label, chosen.threads)
    if engines:
        exact = in_memory_engine(model.config, model.generation, model.tensors, threads=chosen.threads)
        measure(exact, engines, work.found, text.unseen)
        work.keep()
    tokens = sum(len(window) - 1 for window in text.unseen)
    settings = {"tokens": tokens, "calibration": sum(map(len, text.seen)), "threads": chosen.threads}
    columns = {"weights": "", "bits a weight": ".2f", "without the table": ".2f", "seconds": ".0f"}
    columns |= {"KL": ".5f", "KL by Q4_0's": ".2f", "perplexity": ".3f", "by float32's": ".4f"}
    report = Report(f"rounding-{chosen.model.stem}", settings)
    table = Table(f"{chosen.model.stem}, {tokens:,} tokens", columns)
    float32, q4_0 = work.found["float32"], work.found.get(Q4_0)
    for label in ("float32", Q8_0, Q4_0, *WAYS):
        if each := work.found.get(label):
            share = each.divergence / q4_0.divergence if q4_0 else None
            figures = [each.divergence, share, math.exp(each.surprise), math.exp(each.surprise - float32.surprise)]
            table.rows.append([label, each.bits, each.bits_without, each.seconds, *figures])
    report.tables.append(table)
    rows = {row[0]: dict(zip(columns, row, strict=True)) for row in table.rows}
    report.verdicts.extend(verdicts(rows, chosen.within))
    publish(report, chosen)


def verdicts(found: dict[str, dict[str, Any]], int8: float) -> Iterator[Verdict]:
    """Of what was measured; `int8`: what that may lose of perplexity."""
    for label, bound in ((G32, 1.0), (G64, OF_Q4_0)):
        if label in found and Q4_0 in found:
            share = found[label]["KL by Q4_0's"]
            yield Verdict(f"{label}: KL divergence at most {bound} of Q4_0's", f"{share:.2f}", share <= bound)
    least = ((INT8, int8), (CACHE, OF_FLOAT32_CACHE))
    for label, bound in (*least, (G64, OF_FLOAT32), (ZEROS, OF_FLOAT32), (MIXED, OF_FLOAT32_MIXED)):
        if label in found:
            rise = found[label]["by float32's"] - 1
            demand = f"{label}: perplexity within {100 * bound:g} % of float32's"
            yield Verdict(demand, f"{rise:+.2%}", rise <= bound)
    if MIXED in found:
        bits = found[MIXED]["without the table"]
        yield Verdict(f"{MIXED}: at most 5 bits a weight outside the table", f"{bits:.2f}", bits <= 5)
    if {UNIFORM, SAME} <= found.keys():
        share = found[SAME]["KL"] / found[UNIFORM]["KL"]
        yield Verdict(f"{SAME}: KL divergence below that of {UNIFORM}, in its bytes", f"{share:.2f}", share < 1)
    if G64 in found and found[G64]["seconds"] is not None:
        seconds = found[G64]["seconds"]
        yield Verdict(f"{G64}: in under {SECONDS} seconds", f"{seconds:.0f}", seconds < SECONDS)


if __name__ == "__main__":
    main()
