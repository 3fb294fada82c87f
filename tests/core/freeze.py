"""The bytes that results have today:  python tests/core/freeze.py     writes them to frozen.json

A commit that moves them does so on purpose, and says why and by how much. tests/core/test_freeze.py compares.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed pyengine goes first

import pyengine  # noqa: E402
from pyengine.quantize import convert  # noqa: E402
from tests.core.models import COMPUTE, UNEVEN, TinyModel, new_session, step  # noqa: E402

FROZEN = Path(__file__).with_name("frozen.json")
CHECKPOINT = Path(__file__).parents[2] / "examples" / "multi30k-de-en"
SHAPES = {
    "width 20": dict(width=20, encoder=(1, 5, 33), decoder=(3, 1, 20), source_vocab=30, target_vocab=3000,
                     share_embeddings=False),
    "layers that differ": dict(UNEVEN, source_vocab=90, target_vocab=1100, share_embeddings=False, tie_output=False),
}  # fmt: skip
WEIGHTS = ("float32", "int8", "int4g64")
SENTENCES = (
    "Ein Mann fährt Fahrrad.", "Zwei Hunde spielen im Schnee.", "", "Ja.",
    "Eine Frau in einem roten Kleid steht auf der Straße und wartet auf den Bus.",
    "Drei Kinder laufen am Strand entlang, während ihre Eltern unter einem Sonnenschirm sitzen und lesen.",
)  # fmt: skip


def digest(*arrays: np.ndarray | None) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        assert array is not None
        hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]


def logits(shape: str, weights: str, kv: str, isa: str | None = None) -> str:
    """Of ragged sources and targets: all in one step, and the last tokens again one by one."""
    tiny = TinyModel.random(weights, seed=21, activation="gelu", **SHAPES[shape])
    rng = np.random.default_rng(21)
    sources = {i: rng.integers(0, tiny.config.source_vocab, n) for i, n in enumerate((1, 5, 17, 33))}
    rows = [(i, i, rng.integers(0, tiny.config.target_vocab, n)) for i, n in enumerate((20, 1, 35, 18))]
    session = new_session(tiny.core(kv, isa=isa))
    results = [step(session, sources=sources, rows=rows, full_logits=True, top_k=3)]
    for token in (1, 2):
        results.append(step(session, rows=[(i, i, [token]) for i in range(4)], full_logits=True, top_k=3))
    return digest(*(array for r in results for array in (r.logits, r.log_normalizer, r.top_ids, r.top_logits)))


def translations(directory: Path, beams: int) -> str:
    """Ids and scores of a few sentences of the example."""
    with pyengine.load(directory, threads=2) as translator:
        results = translator.translate(list(SENTENCES), num_beams=beams, num_return_sequences=beams)
    found = [(each.ids, each.score) for result in results for each in result.hypotheses]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def each_logits() -> Iterator[tuple[str, str, str]]:
    for shape in SHAPES:
        for weights, kv in COMPUTE:
            yield shape, weights, kv


def main() -> None:
    frozen = {"logits": {", ".join(names): logits(*names) for names in each_logits()}, "translations": {}}
    with tempfile.TemporaryDirectory() as folder:
        for weights in WEIGHTS:
            convert(CHECKPOINT, Path(folder) / weights, weights=weights)
            for beams in (1, 4):
                name = f"{weights}, beams {beams}"
                frozen["translations"][name] = translations(Path(folder) / weights, beams)
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
