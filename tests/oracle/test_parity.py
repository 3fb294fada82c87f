"""benchmarks/parity.py, run once: it finds that a tiny model does what transformers has it do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # by which transformers reads GGUF files

from ..benchmarks.language_files import write_language_model
from ..benchmarks.test_benchmarks import run
from ..importers.gguf_vocabularies import TEXT


def test_a_tiny_model_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    file, text, saved = tmp_path / "tiny.gguf", tmp_path / "text", tmp_path / "saved.json"
    write_language_model(file)
    text.write_text("\n".join([" ".join(TEXT).replace("\n", " ")] * 20), encoding="utf-8")
    sizes = ["--prompts", "20", "--tokens", "8", "--scored", "200"]
    where = ["--work", str(tmp_path / "work"), "--json", str(saved)]
    printed = run("parity", "--model", str(file), "--text", str(text), *sizes, *where)
    report = json.loads(saved.read_text(encoding="utf-8"))
    assert report["tables"][0]["rows"] == [[20, "4 to 31", 8, 20]]
    [row] = report["tables"][-1]["rows"]
    assert row[0] == 200 and row[1] > 1 and row[1] == pytest.approx(row[2], rel=1e-4)
    assert len(report["verdicts"]) == 3
    assert all(each["met"] and each["demand"] in printed for each in report["verdicts"])
