"""Loading time and peak memory, each from fresh processes.

    python benchmarks/footprint.py

Loading: `import pyengine`, then `pyengine.load` until it returns, tokenizer included, then a first translation; files
are in the page cache. The base-size model has a vocabulary of 58,101 entries and two SentencePiece models of 32,000
pieces. Memory: VmHWM, the most that a process ever held, of one that translates with beam 4 (base-size model: 64
sentences, 31 tokens in, 32 out; example: the 1,000 of test_2016_flickr). The bound is VmHWM of a process that only
imports, plus model.safetensors, plus the attention cache, plus 96 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import models
import numpy as np
from base_model import BASE
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

LOAD_BOUND = 0.25
MEMORY_ROOM = 96 * 10**6
ROUNDS = 7
BEAMS = 4
SENTENCES = {models.EXAMPLE_NAME: 1000, models.BASE_NAME: 64}  # whose memory is measured
QUICK = {models.EXAMPLE_NAME: 10}

VMHWM = """
import sys
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
"""

IMPORT = VMHWM + """
import pyengine, pyengine._core, sentencepiece, tokenizers
print(peak())
"""

LOAD = """
import json, sys, time
began = time.perf_counter()
import pyengine
imported = time.perf_counter()
translator = pyengine.load(sys.argv[1], threads=2)
ready = time.perf_counter()
translator.translate("Ein Mann.", max_new_tokens=8)
print(json.dumps([imported - began, ready - imported, time.perf_counter() - ready]))
"""

TRANSLATE = VMHWM + """
import json, pyengine
translator = pyengine.load(sys.argv[1], threads=2)
sources, options = json.load(sys.stdin)
translator.translate(sources, **options)
cache = sum(session.cache_bytes for idle in translator._engine._idle.values() for session in idle)  # one
print(json.dumps([peak(), cache]))
"""


def fresh(code: str, *arguments: str, given: object = None) -> Any:
    """What `code` prints, as JSON, in a new interpreter that gets `given` as JSON on standard input."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def loading(name: str, directories: dict[str, Path], rounds: int, table: Table) -> float:
    """A row for each kind of weights; the median seconds of loading int8."""
    medians = {}
    for weights, path in directories.items():
        bar = tqdm(range(rounds), desc=f"{name} {weights}: load", leave=False)
        runs = [fresh(LOAD, str(path)) for _ in bar]
        imports, loads, firsts = zip(*runs, strict=True)
        medians[weights] = median(loads)
        table.rows.append([name, weights, median(imports), median(loads), max(loads), median(firsts)])
    return medians["int8"]


def work_for(name: str, sentences: int) -> tuple[list[object], dict[str, int]]:
    """Sources and options of the call whose memory is measured."""
    if name == models.EXAMPLE_NAME:
        texts, _ = models.read_pairs(models.EXAMPLE / "test_2016_flickr", sentences)
        return list(texts), {"num_beams": BEAMS}
    ids = np.random.default_rng(1).integers(1, BASE.vocab_size - 1, (sentences, 30))
    sources: list[object] = [[*row, 0] for row in ids.tolist()]
    return sources, {"num_beams": BEAMS, "min_new_tokens": 32, "max_new_tokens": 32}


def memory(name: str, directories: dict[str, Path], sentences: int, table: Table, report: Report) -> None:
    imports = fresh(IMPORT)
    for weights, path in tqdm(directories.items(), desc=f"{name}: memory", leave=False):
        peak, cache = fresh(TRANSLATE, str(path), given=work_for(name, sentences))
        file = (path / "model.safetensors").stat().st_size
        bound = imports + file + cache + MEMORY_ROOM
        table.rows.append([name, weights, *(size / 1e6 for size in (peak, imports, file, cache, bound))])
        if weights == "int8":
            demand = f"{name} int8: peak memory under imports + model file + cache + 96 MB"
            found = f"{peak / 1e6:.0f} of {bound / 1e6:.0f} MB"
            report.verdicts.append(Verdict(demand, found, peak <= bound))


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="the example only, once: to see that it runs")
    options = made.parse_args()
    rounds, names = (1, QUICK) if options.quick else (ROUNDS, SENTENCES)
    report = Report("footprint", {"rounds": rounds, "sentences": names, "beams": BEAMS, "threads": 2})
    loads = Table(
        f"Seconds to load, in a fresh process (median of {rounds})",
        {"model": "", "weights": "", "import": ".3f", "load": ".3f", "slowest": ".3f", "first call": ".3f"},
    )
    peaks = Table(
        f"Peak memory in MB, beam {BEAMS}",
        {"model": "", "weights": "", "peak": ".1f", "imports": ".1f", "model file": ".1f", "cache": ".1f",
         "bound": ".1f"},
    )  # fmt: skip
    for name, sentences in names.items():
        directories = models.directories(name, models.checkpoint(name, options.work), options.work)
        seconds = loading(name, directories, rounds, loads)
        demand = f"{name} int8: loads in under {LOAD_BOUND} s, tokenizer included"
        report.verdicts.append(Verdict(demand, f"{seconds:.3f} s", seconds < LOAD_BOUND))
        memory(name, directories, sentences, peaks, report)
    report.tables.extend([loads, peaks])
    publish(report, options)


if __name__ == "__main__":
    main()
