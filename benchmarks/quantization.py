"""Ways to round the example's weights: sizes, BLEU, and how far the distributions move.

    python benchmarks/quantization.py --data DIR [--sentences N] [--lines N]

Types and methods are those of docs/quantization.md. DIR holds train, val and test_2016_flickr of Multi30k (NAME.de and
NAME.en); test_2016_flickr is in `examples/`, too. Calibration runs on the first lines of train, 1,000 unless told,
figures are of test_2016_flickr and, for choices, of val. The KL divergence of a token is that of the next-token
distributions at its place in the reference, float32 against the rounded model; activations and cache are int8 but for
float32. Ranges of inputs are of the same first lines of train, their errors of a sample of rows of val. `base` times
the same methods on a random model of 74 million parameters, calibration included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

import models
import numpy as np
from quality import bleu, find_sets
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

import pyengine
from pyengine.modelfile import packed_specs
from pyengine.quantize import Calibration, convert
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.opening import open_model
from pyengine.quantize.rounding.by_inputs import CALIBRATED
from pyengine.quantize.scaling.smooth import ALPHAS
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.static_ranges import STATIC, input_errors, static_ranges
from pyengine.text import tokenizer_of

BASE_LINES = 500  # for the base-size model: GPTQ needs 2,048 rows
PLAIN = "int4g64, absmax"
BEST = "int4g64, gptq"
AWQ = "int4g64, awq"
# name -> arguments of convert; those with a method of `calibrated`, or smoothed, get the text.
WAYS: dict[str, dict[str, object]] = {
    "float32": {"weights": "float32"},
    "int8": {},
    "int8, smooth": {"smooth": ALPHAS},
    "int8, equalize": {"equalize": True},
    PLAIN: {"weights": "int4g64", "method": "absmax"},
    "int4g64, mse": {"weights": "int4g64", "method": "mse"},
    "int4g64, equalize, mse": {"weights": "int4g64", "method": "mse", "equalize": True},
    "int4g64, weighted": {"weights": "int4g64", "method": "weighted"},
    AWQ: {"weights": "int4g64", "method": "awq"},
    BEST: {"weights": "int4g64", "method": "gptq"},
    "int4g64, smooth, gptq": {"weights": "int4g64", "method": "gptq", "smooth": ALPHAS},
    "int4g32, gptq": {"weights": "int4g32", "method": "gptq"},
    "int4g128, gptq": {"weights": "int4g128", "method": "gptq"},
    "int4g64z, gptq": {"weights": "int4g64z", "method": "gptq"},
    "int4g64, gptq, embeddings too": {
        "weights": "int4g64", "method": "gptq", "tensors": [("decoder.embed", "int4g64")],
    },
}  # fmt: skip
BLEU_BOUNDS = {"int8": 0.3, BEST: 0.6}
KINDS = {
    "attention inputs": ("*.self_attention.qkv", "*.cross_attention.q"), "attention outputs": ("*_attention.output",),
    "ffn inputs": ("*.ffn.up",), "ffn hidden": ("*.ffn.down",), "memory": ("*.cross_attention.kv",),
    "output layer": ("output",),
}  # fmt: skip
KL_SHARE = 2 / 3  # of plain rounding's, at the same size
SECONDS = 300


def with_text(way: dict[str, object], text: list[tuple[str, str]]) -> dict[str, object]:
    method, smooth = str(way.get("method", "absmax")), way.get("smooth", ())
    if method not in CALIBRATED and not smooth:
        return way
    rest = {name: value for name, value in way.items() if name not in ("method", "smooth")}
    return {**rest, "calibration": Calibration(text, method, smooth=smooth)}  # type: ignore[arg-type]


def quality(data: Path, text: list[tuple[str, str]], limit: int | None, threads: int, report: Report) -> Table:
    sets = find_sets(data, limit)
    columns = {"weights": "", "bytes": ",d", "seconds": ".1f"}
    for name in sets:
        columns |= {f"BLEU, {name}": ".2f", f"KL, {name}": ".5f", f"top 1, {name}": ".4f"}
    table = Table("The example, beam 4", columns)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        exact = None
        for number, (label, way) in enumerate(tqdm(WAYS.items(), desc="ways", leave=False)):
            place = Path(scratch) / str(number)
            start = time.perf_counter()
            convert(models.EXAMPLE, place, **with_text(way, text))  # type: ignore[arg-type]
            row: list[object] = [label, models.directory_bytes(place), time.perf_counter() - start]
            engine, reader = pyengine.load(place, threads=threads), Reader.open(place, threads=threads)
            exact = exact or reader
            for name, pairs in sets.items():
                moved = divergence(exact, reader, list(zip(*pairs, strict=True)))
                row += [bleu(engine, pairs, 4, f"{label}, {name}"), moved.kl, moved.top1]
            table.rows.append(row)
            found[label] = row[-3:]
    for label, bound in BLEU_BOUNDS.items():
        change = found[label][0] - found["float32"][0]
        report.verdicts.append(Verdict(f"{label}: BLEU within {bound} of float32", f"{change:+.2f}", change >= -bound))
    share = found[BEST][1] / found[PLAIN][1]
    demand = f"{BEST}: KL divergence at most two thirds of plain rounding's at the same size"
    report.verdicts.append(Verdict(demand, f"{share:.2f}", share <= KL_SHARE))
    return table


def static(data: Path, text: list[tuple[str, str]], limit: int | None) -> Table:
    """What the example's layers lose when their inputs are rounded to int8, by one scale a row and by one for all."""
    model = open_model(models.EXAMPLE)
    config = model.config
    tokenizer = tokenizer_of(model)
    engine = in_memory_engine(config, model.generation, model.tensors)
    unseen = list(zip(*models.read_pairs(data / "val", limit), strict=True))
    chosen, measured = (calibrate(engine, tokenizer, pairs) for pairs in (text, unseen))
    engine.close()
    specs = packed_specs(config, "float32")
    found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    for name in tqdm(chosen, desc="inputs", leave=False):
        packed = "decoder.embed" if name == "output" and config.tie_output else name
        parts = [model.tensors[part].read() for part in specs[f"{packed}.weight"].sources]
        errors = input_errors(np.concatenate(parts), measured[name].rows, static_ranges(chosen[name].rows))
        kind = next(kind for kind, patterns in KINDS.items() if any(fnmatchcase(name, each) for each in patterns))
        found[kind].append([errors.dynamic, *(errors.static[method] for method in STATIC)])
    columns = {"inputs": "", "layers": "d", "a scale a row": ".1f", **{f"static, {method}": ".1f" for method in STATIC}}
    title = "int8 inputs: output error in dB of the example's layers, by kind of layer (means of errors)"
    table = Table(title, columns)
    for kind, rows in found.items():
        table.rows.append([kind, len(rows), *(10 * np.log10(np.mean(column)) for column in zip(*rows, strict=True))])
    return table


def base(lines: int, report: Report, work: Path) -> Table:
    """The base-size model on random ids: the time does not depend on what they say."""
    checkpoint = models.checkpoint(models.BASE_NAME, work)
    rng = np.random.default_rng(0)
    text = [(rng.integers(3, 58_000, 31), rng.integers(3, 58_000, 32)) for _ in range(lines)]
    table = Table("Seconds for a random model of base size", {"weights": "", "seconds": ".1f"})
    with tempfile.TemporaryDirectory() as scratch:
        for label in ("int8", PLAIN, "int4g64, mse", "int4g64, weighted", AWQ, BEST):
            start = time.perf_counter()
            place = Path(scratch) / label.replace(", ", "-")
            convert(checkpoint, place, **with_text(WAYS[label], text))  # type: ignore[arg-type]
            table.rows.append([label, time.perf_counter() - start])
    slowest = max(row[1] for row in table.rows)
    demand = f"a base-size model in under {SECONDS} seconds, calibration on {lines} pairs included"
    report.verdicts.append(Verdict(demand, f"{slowest:.0f} s", slowest < SECONDS))
    return table


def options() -> argparse.Namespace:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--data", type=Path, required=True, metavar="DIR", help="where train.de, train.en and so on lie")
    made.add_argument("--sentences", type=int, metavar="N", help="the first N of each set only, and no base-size model")
    made.add_argument("--lines", type=int, default=1_000, metavar="N", help="to calibrate on (default: %(default)s)")
    made.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    return made.parse_args()


def main() -> None:
    chosen = options()
    sources, targets = models.read_pairs(chosen.data / "train", chosen.lines)
    text = list(zip(sources, targets, strict=True))
    report = Report("quantization", {"calibration": len(text), "sentences": chosen.sentences or "all"})
    report.tables.append(quality(chosen.data, text, chosen.sentences, chosen.threads, report))
    report.tables.append(static(chosen.data, text, chosen.sentences))
    if chosen.sentences is None:
        report.tables.append(base(BASE_LINES, report, chosen.work))
    publish(report, chosen)


if __name__ == "__main__":
    main()
