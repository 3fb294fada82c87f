"""An installed pyengine does its main job without its sources: ``python smoke_test.py CHECKPOINT``.

Converts the example with each of the commands, translates and checks, in a temporary directory. To be started by the
Python of the environment that has the package; what is wrong ends it with a message.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pyengine

SENTENCE, TRANSLATION = "Ein Mann fährt Fahrrad.", "A man riding a bicycle."
COMMANDS = ("quantize", "translate", "info", "bench", "compare", "shortlist")


def run(*command: object, cwd: str) -> str:
    """What a command prints; it has to succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, encoding="utf-8", timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


def expect(what: str, expected: object, found: object) -> None:
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")


def smoke_test(checkpoint: Path, cwd: str) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    command = scripts / "pyengine"
    for name in COMMANDS:
        run(command, name, "--help", cwd=cwd)
    run(command, "quantize", checkpoint, "-o", "int8", cwd=cwd)
    run(scripts / "pyengine-quantize", checkpoint, "-o", "again", cwd=cwd)
    run(sys.executable, "-m", "pyengine.quantize", checkpoint, "-o", "float32", "--weights", "float32", cwd=cwd)
    for model in ("int8", "again", "float32"):
        for threads in (1, 2):
            found = run(command, "translate", "-m", model, "--threads", threads, "--beam-size", 4, SENTENCE, cwd=cwd)
            expect(f"{model} with {threads} threads", TRANSLATION + "\n", found)
    run(sys.executable, "-m", "pyengine", "info", "--verify", "int8", cwd=cwd)
    with pyengine.load(Path(cwd) / "int8") as translator:
        expect("from Python", TRANSLATION, translator.translate(SENTENCE, beam_size=4).text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="examples/multi30k-de-en of the sources")
    checkpoint = parser.parse_args().checkpoint.resolve()
    package = Path(pyengine.__file__).resolve()
    if package.is_relative_to(checkpoint.parents[1] / "pyengine"):
        sys.exit(f"expected an installed package, found that of the sources: {package}")
    with tempfile.TemporaryDirectory() as cwd:
        smoke_test(checkpoint, cwd)
    print(f"pyengine {pyengine.__version__} works: {package.parent}")


if __name__ == "__main__":
    main()
