"""The models and sentences that the benchmarks run on."""

from __future__ import annotations

import argparse
from pathlib import Path

from base_model import EXAMPLE, write_checkpoint
from tqdm import tqdm

from pyengine.quantize import convert

__all__ = [
    "BASE_NAME", "EXAMPLE", "EXAMPLE_NAME", "add_options", "checkpoint", "directories", "directory_bytes",
    "read_pairs",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE_NAME, BASE_NAME = "example", "base"
WEIGHTS = ("int8", "float32")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--work", type=Path, metavar="DIR", default=ROOT / "build" / "benchmarks",
        help="where the model directories are made (default: build/benchmarks)",
    )  # fmt: skip


def checkpoint(name: str, work: Path) -> Path:
    """The training checkpoint: the example's, or the random one of base size, which is made."""
    if name == EXAMPLE_NAME:
        return EXAMPLE
    path = work / f"{name}-checkpoint"
    write_checkpoint(path)
    return path


def directories(name: str, source: Path, work: Path) -> dict[str, Path]:
    """The checkpoint `source` as a model directory of each kind of weights, made anew."""
    work.mkdir(parents=True, exist_ok=True)
    made = {}
    for weights in tqdm(WEIGHTS, desc=f"{name}: convert", leave=False):
        made[weights] = work / f"{name}-{weights}"
        convert(source, made[weights], weights=weights, overwrite=True)
    return made


def directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def read_pairs(stem: Path, limit: int | None = None) -> tuple[list[str], list[str]]:
    """The lines of `stem`.de and of `stem`.en, the first `limit` of them."""
    german, english = (
        stem.with_name(f"{stem.name}.{language}").read_text(encoding="utf-8").splitlines()[:limit]
        for language in ("de", "en")
    )
    return german, english
