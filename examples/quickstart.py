"""From a training checkpoint to translations: quantize, translate, and measure float32 against int8.

    python examples/quickstart.py

Converts the German-English checkpoint that lies beside this file, translates a few sentences, then the 1,000
sentences of Multi30k's test_2016_flickr, and prints BLEU (sacrebleu), speed, sizes and peak memory. Every figure of
the table comes from a fresh process. What it makes lies in ``build/quickstart`` of the checkout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyengine

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / "multi30k-de-en"
SOURCES = CHECKPOINT / "test_2016_flickr.de"
REFERENCES = CHECKPOINT / "test_2016_flickr.en"
QUANTIZE = HERE.parent / "tools" / "quantize.py"
BUILD = HERE.parent / "build" / "quickstart"

WEIGHTS = ("float32", "int8")
BEAM_SIZES = (1, 4)
SENTENCES = (
    "Ein Mann fährt Fahrrad.",
    "Zwei Hunde spielen im Schnee.",
    "Eine Frau mit einem roten Hut liest am Strand ein Buch.",
)


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def convert(weights: str) -> Path:
    """The checkpoint as a model directory; the same command as on the command line, of which the last line is shown."""
    directory = BUILD / f"de-en-{weights}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(QUANTIZE), str(CHECKPOINT), "-o", str(directory), "--weights", weights]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout.splitlines()[-1], flush=True)
    return directory


def show_sentences(directory: Path) -> None:
    with pyengine.load(directory) as translator:
        for sentence, result in zip(SENTENCES, translator.translate(list(SENTENCES), beam_size=4), strict=True):
            print(f"{'':8}  {sentence}\n{result.score:8.3f}  {result.text}")


def peak_memory() -> int:
    """Bytes that this process had resident at its largest (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def measure(directory: Path, beam_size: int) -> dict[str, object]:
    """Translate the test set in this process; its lines, seconds, tokens and this process' peak memory."""
    from tqdm import tqdm

    sources = read_lines(SOURCES)
    with pyengine.load(directory) as translator:
        start = time.perf_counter()
        results = translator.translate_iter(sources, beam_size=beam_size)
        label = f"{directory.name}, beam {beam_size}"
        done = list(tqdm(results, desc=label, total=len(sources), unit=" sentences"))
        seconds = time.perf_counter() - start
    return {
        "lines": [result.text for result in done],
        "seconds": seconds,
        "tokens": sum(len(result.tokens) for result in done),
        "memory": peak_memory(),
    }


def measure_apart(directory: Path, beam_size: int) -> dict[str, object]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", str(directory), "--beam-size", str(beam_size)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def row(directory: Path, weights: str, beam_size: int, references: list[str]) -> str:
    """One line of the table."""
    import sacrebleu

    got = measure_apart(directory, beam_size)
    bleu = sacrebleu.corpus_bleu(got["lines"], [references]).score
    seconds, sentences = got["seconds"], len(got["lines"])
    return (
        f"{weights:8} {beam_size:4} {bleu:7.2f} {sentences / seconds:12.1f} {got['tokens'] / seconds:10.0f} "
        f"{directory_bytes(directory) / 1e6:9.2f} {got['memory'] / 1e6:9.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="DIRECTORY", help="measure this model directory, print JSON")
    parser.add_argument("--beam-size", type=int, default=4, help="beams for --measure (default: 4)")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.beam_size)))
        return
    directories = {weights: convert(weights) for weights in WEIGHTS}
    for weights, directory in directories.items():
        print(f"\n{weights}, beam 4: sentence, score and translation", flush=True)
        show_sentences(directory)
    references = read_lines(REFERENCES)
    print(f"\n{len(references)} sentences of test_2016_flickr", flush=True)
    rows = [row(directories[weights], weights, beam, references) for weights in WEIGHTS for beam in BEAM_SIZES]
    print(f"\n{'weights':8} {'beam':>4} {'BLEU':>7} {'sentences/s':>12} {'tokens/s':>10} {'size MB':>9} {'peak MB':>9}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
