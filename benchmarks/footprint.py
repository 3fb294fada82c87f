"""Loading time and peak memory, each from fresh processes.

    python benchmarks/footprint.py

Loading: `import pyengine`, then `pyengine.load` until it returns, then a first translation; files are in the page
cache. Memory: VmHWM of a process that translates 64 sentences with beam 4 (base-size model: 31 tokens in, 32 out),
against the VmHWM of a process that only imports, plus model.safetensors, plus the attention cache, plus 96 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import models
from report import Report, Table, Verdict, parser, publish
from tqdm import tqdm

LOAD_BOUND = 0.25
MEMORY_ROOM = 96 * 10**6
ROUNDS = 7
SENTENCES, BEAMS = 64, 4

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
cache = sum(session.cache_bytes for session in translator._engine._idle)  # the one session that the call used
print(json.dumps([peak(), cache]))
"""


def fresh(code: str, *arguments: str, given: object = None) -> object:
    """What `code` prints, as JSON, in a new interpreter that gets `given` as JSON on standard input."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def loading(name: str, directories: dict[str, Path], table: Table) -> float:
    """A row for each kind of weights; the median seconds of loading int8."""
    medians = {}
    for weights, path in directories.items():
        runs = [fresh(LOAD, str(path)) for _ in tqdm(range(ROUNDS), desc=f"{name} {weights}: load", leave=False)]
        imports, loads, firsts = zip(*runs, strict=True)
        medians[weights] = median(loads)
        table.rows.append([name, weights, median(imports), median(loads), max(loads), median(firsts)])
    return medians["int8"]


def memory(name: str, directories: dict[str, Path], table: Table, report: Report) -> None:
    imports = fresh(IMPORT)
    options = {"num_beams": BEAMS}
    if name == models.BASE_NAME:
        sources: list[object] = [[2 + (31 * row + place) % 5000 for place in range(30)] + [0] for row in range(SENTENCES)]
        options |= {"min_new_tokens": 32, "max_new_tokens": 32}
    else:
        sources = list(models.read_pairs(models.EXAMPLE / "test_2016_flickr", SENTENCES)[0])
    for weights, path in directories.items():
        peak, cache = fresh(TRANSLATE, str(path), given=[sources, options])
        file = (path / "model.safetensors").stat().st_size
        bound = imports + file + cache + MEMORY_ROOM
        table.rows.append([name, weights, *(bytes / 1e6 for bytes in (peak, imports, file, cache, bound))])
        if weights == "int8":
            demand = f"{name} int8: peak memory under imports + model file + cache + 96 MB"
            report.verdicts.append(Verdict(demand, f"{peak / 1e6:.0f} of {bound / 1e6:.0f} MB", peak <= bound))


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    options = made.parse_args()
    report = Report("footprint", {"rounds": ROUNDS, "sentences": SENTENCES, "beams": BEAMS, "threads": 2})
    loads = Table(
        f"Seconds to load (fresh process; medians of {ROUNDS})",
        {"model": "", "weights": "", "import": ".3f", "load": ".3f", "load, slowest": ".3f", "first call": ".3f"},
    )
    peaks = Table(
        f"Peak memory in MB, {SENTENCES} sentences, beam {BEAMS}",
        {"model": "", "weights": "", "peak": ".1f", "imports": ".1f", "model file": ".1f", "cache": ".1f",
         "bound": ".1f"},
    )  # fmt: skip
    for name in (models.EXAMPLE_NAME, models.BASE_NAME):
        directories = models.directories(name, models.checkpoint(name, options.work), options.work)
        seconds = loading(name, directories, loads)
        demand = f"{name} int8: loads in under {LOAD_BOUND} s, tokenizer included"
        report.verdicts.append(Verdict(demand, f"{seconds:.3f} s", seconds < LOAD_BOUND))
        memory(name, directories, peaks, report)
    report.tables.extend([loads, peaks])
    publish(report, options)


if __name__ == "__main__":
    main()
