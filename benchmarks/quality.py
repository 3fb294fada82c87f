"""int8 (weights, activations and cache) against float32: BLEU, KL divergence, sizes.

    python benchmarks/quality.py --data DIR

Sets are val and test_2016_flickr of Multi30k (NAME.de and NAME.en); those that DIR does not hold are left out, but
test_2016_flickr is in `examples/`. BLEU is sacrebleu's with its defaults. The KL divergence says how far the
distributions of the next token move: at a place in a reference, given the reference so far (teacher forcing), it is

    KL = sum_v p32(v) (ln p32(v) - ln p8(v))

over the tokens v of the vocabulary, and its mean is over all places, end tokens included. The table adds up what int8
costs: int8 weights alone (turned back into floats at load), with int8 activations, with an int8 cache of keys and
values; the last line is what `pyengine.load` gives by default.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

import pyengine
from pyengine.quantize.measuring.divergence import token_divergence

SETS = ("val", "test_2016_flickr")
BEAMS = (4, 1)
BLEU_BOUND = 0.3
KL_BOUND = 0.003
SIZE_BOUND = 0.3
# From float32 to int8 by steps: what is int8, and how `pyengine.load` gets the int8 directory to run so.
STAGES = {
    "weights": {"compute": "float32", "kv": "float32"},
    "weights, activations": {"compute": "int8", "kv": "float32"},
    "weights, activations, cache": {"compute": "int8", "kv": "int8"},
}

Pairs = tuple[list[str], list[str]]


def find_sets(data: Path | None, limit: int | None) -> dict[str, Pairs]:
    """The sets that are found in `data` or beside the example checkpoint."""
    found = {}
    for name in SETS:
        places = [place for place in (data, models.EXAMPLE) if place and (place / f"{name}.de").exists()]
        if places:
            found[name] = models.read_pairs(places[0] / name, limit)
    return found


def bleu(translator: pyengine.Translator, pairs: Pairs, beams: int, label: str) -> float:
    import sacrebleu

    sources, references = pairs
    results = translator.translate_iter(sources, num_beams=beams)
    lines = [result.text for result in tqdm(results, desc=label, total=len(sources), leave=False)]
    return sacrebleu.corpus_bleu(lines, [references]).score


def divergences(
    exact: pyengine.Translator, rounded: dict[str, pyengine.Translator], pairs: Pairs, label: str
) -> dict[str, np.ndarray]:
    """Of every token of the references, for each of the `rounded` engines."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in rounded}
    streams = zip(*(each.logits_iter(*pairs) for each in (exact, *rounded.values())), strict=True)
    for truth, *others in tqdm(streams, desc=label, total=len(pairs[0]), leave=False):
        for name, logits in zip(rounded, others, strict=True):
            found[name].append(token_divergence(truth, logits))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def bleu_table(sets: dict[str, Pairs], engines: dict[str, pyengine.Translator], report: Report) -> Table:
    table = Table("BLEU", {"set": "", "beams": "d", "float32": ".2f", "int8": ".2f", "difference": "+.2f"})
    for beams in BEAMS:
        for name, pairs in sets.items():
            scores = [
                bleu(engine, pairs, beams, f"{weights}, {name}, beam {beams}")
                for weights, engine in engines.items()
            ]
            table.rows.append([name, beams, *scores, scores[1] - scores[0]])
        mean = float(np.mean([row[-1] for row in table.rows if row[1] == beams]))
        table.rows.append(["mean", beams, None, None, mean])
        if beams > 1:
            demand = f"beam {beams}: BLEU within {BLEU_BOUND} of float32, mean over {' and '.join(sets)}"
            report.verdicts.append(Verdict(demand, f"{mean:+.2f}", abs(mean) <= BLEU_BOUND))
    return table


def kl_table(sets: dict[str, Pairs], directories: dict[str, Path], threads: int, report: Report) -> Table:
    table = Table(
        "KL divergence a token to float32, over the references",
        {"in int8": "", **dict.fromkeys(sets, ".5f"), "all": ".5f", "99th centile": ".5f", "largest": ".4f"},
    )
    exact = pyengine.load(directories["float32"], threads=threads)
    rounded = {
        stage: pyengine.load(directories["int8"], threads=threads, **types) for stage, types in STAGES.items()
    }
    found = {name: divergences(exact, rounded, pairs, f"KL, {name}") for name, pairs in sets.items()}
    for stage in STAGES:
        parts = [found[name][stage] for name in sets]
        tokens = np.concatenate(parts)
        means = [float(part.mean()) for part in parts]
        overall = float(tokens.mean())
        table.rows.append([stage, *means, overall, float(np.percentile(tokens, 99)), float(tokens.max())])
    report.verdicts.append(
        Verdict(f"mean KL divergence a token at most {KL_BOUND}", f"{overall:.5f}", overall <= KL_BOUND)
    )
    return table


def size_table(directories: dict[str, Path], report: Report) -> Table:
    sizes = {weights: models.directory_bytes(path) for weights, path in directories.items()}
    ratio = sizes["int8"] / sizes["float32"]
    demand = f"int8 directory at most {SIZE_BOUND} of the float32 one"
    report.verdicts.append(Verdict(demand, f"{ratio:.3f}", ratio <= SIZE_BOUND))
    table = Table("Bytes of the model directory", {"float32": ",d", "int8": ",d", "ratio": ".3f"})
    table.rows.append([sizes["float32"], sizes["int8"], ratio])
    return table


def options() -> argparse.Namespace:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--data", type=Path, metavar="DIR", help="where val.de, val.en and the like lie")
    made.add_argument("--sentences", type=int, metavar="N", help="the first N of each set only")
    made.add_argument("--threads", type=int, default=2, help="of both engines (default: %(default)s)")
    return made.parse_args()


def main() -> None:
    chosen = options()
    sets = find_sets(chosen.data, chosen.sentences)
    report = Report("quality", {"sentences": {name: len(pairs[0]) for name, pairs in sets.items()}})
    directories = models.directories(models.EXAMPLE_NAME, models.EXAMPLE, chosen.work)
    threads = chosen.threads
    engines = {name: pyengine.load(directories[name], threads=threads) for name in ("float32", "int8")}
    report.tables.append(bleu_table(sets, engines, report))
    report.tables.append(kl_table(sets, directories, threads, report))
    report.tables.append(size_table(directories, report))
    publish(report, chosen)


if __name__ == "__main__":
    main()
