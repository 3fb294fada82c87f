"""Every benchmark that needs no torch runs once, as small as it goes; the random checkpoint loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pyengine
from pyengine import _core
from pyengine.quantize import convert

from ..importers.gguf_vocabularies import TEXT
from .language_files import write_language_model

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SMALL = (
    "--d-model=16", "--layers=2", "--attention-heads=2", "--ffn-dim=24", "--vocab-size=6100",
    "--max-position-embeddings=40",
)  # fmt: skip


def exhaustive(*values: object) -> object:
    """Parameters that take long."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


def run(name: str, *arguments: str) -> str:
    """What the benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_two_benchmarks_import_each_other() -> None:
    files = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    uses: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        uses[name] = (plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}) & files.keys()
    list(TopologicalSorter(uses).static_order())  # CycleError


@pytest.mark.parametrize("dtype", ("float16", "float32"))
def test_the_random_checkpoint_converts_and_translates(dtype: str, tmp_path: Path) -> None:
    checkpoint, directory = tmp_path / "checkpoint", tmp_path / "model"
    run("base_model", str(checkpoint), "--dtype", dtype, *SMALL)
    assert {path.name for path in checkpoint.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
        "source.spm", "target.spm", "tokenizer_config.json", "vocab.json",
    }  # fmt: skip
    convert(checkpoint, directory)
    with pyengine.load(directory, threads=1) as translator:
        result = translator.translate("Ein Mann fährt Fahrrad.", min_new_tokens=8, max_new_tokens=8)
        assert len(result.ids) == 7  # the end token was forced after them
        config = translator.info()["model"]
        assert isinstance(config, dict) and config["width"] == 16 and config["target_vocab"] == 6100


def test_the_same_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run("base_model", str(tmp_path / name), "--seed", str(seed), *SMALL)
    files = [tmp_path / name / "model.safetensors" for name in ("one", "again", "other")]
    one, again, other = (file.read_bytes() for file in files)
    assert one == again != other


@pytest.mark.exhaustive
def test_the_machine_is_described_without_host_and_paths(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    run("bounds", "--json", str(saved))
    report = json.loads(saved.read_text(encoding="utf-8"))
    assert report["benchmark"] == "bounds" and all(value > 0 for value in report["settings"]["figures"].values())
    described = report["machine"]
    for key in ("cpu", "cpus", "memory_bytes", "kernel", "compiler", "python", "packages", "commit", "date"):
        assert key in described
    assert described["packages"]["pyengine"] == pyengine.__version__
    assert str(ROOT) not in json.dumps(described)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("speed", ["--quick"]), ("footprint", ["--quick"]), ("quality", ["--sentences", "3"]),
        ("shortlist", ["--quick"]), exhaustive("peers", ["mt", "--quick"]), exhaustive("neighbour", ["--quick"]),
        exhaustive("peers", ["llm", "--quick"]), exhaustive("peers", ["seq2seq", "--quick"]),
        exhaustive("latency", ["--quick"]),
        exhaustive("pruning", ["--quick"]), ("large", ["--quick"]), ("versions", ["--quick"]), ("phases", ["--quick"]),
        ("halves", ["--quick"]),
    ],
)  # fmt: skip
def test_a_benchmark_prints_and_saves_its_figures(name: str, arguments: list[str], tmp_path: Path) -> None:
    if name in ("quality", "peers", "shortlist", "pruning"):
        pytest.importorskip("sacrebleu")
    for package in ("torch", "transformers", "ctranslate2") if "seq2seq" in arguments else ():
        pytest.importorskip(package, reason=f"{package} is not installed: the benchmark compares with it")
    saved = tmp_path / "saved.json"
    printed = run(name, *arguments, "--work", str(tmp_path / "work"), "--json", str(saved), "--markdown")
    report = json.loads(saved.read_text(encoding="utf-8"))
    assert report["benchmark"] == "-".join([name, *arguments[:-1]] if name == "peers" else [name])
    assert report["verdicts"] and all(table["rows"] for table in report["tables"])
    assert str(tmp_path) not in json.dumps(report)
    assert run("report", str(saved)).startswith(printed.rstrip("\n"))


def test_ways_to_round_a_language_model(tmp_path: Path) -> None:
    """In two pieces, of which the second shows both."""
    file, saved, text = tmp_path / "tiny.gguf", tmp_path / "saved.json", tmp_path / "text"
    write_language_model(file)
    text.write_text("\n".join(TEXT * 20), encoding="utf-8")
    more = ["--text", str(text), "--tokens", "200", "--work", str(tmp_path / "work"), "--json", str(saved)]
    for only in ("*[0z]*", "int4g64*"):
        printed = run("rounding", "--model", str(file), *more, "--only", only)
    report = json.loads(saved.read_text(encoding="utf-8"))
    [table] = report["tables"]
    found = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert found.keys() >= {"float32", "Q8_0", "Q4_0", "int4g32z", "int4g64", "int4g64, gptq, as used"}
    assert 0 == found["float32"]["KL"] < found["Q8_0"]["KL"] < found["int4g32z"]["KL"] < found["int4g64"]["KL"]
    bits = [found[label]["without the table"] for label in ("int4g64", "Q4_0", "Q8_0")]
    assert bits == sorted(bits) and 4 < bits[0] and bits[1] < 5 and 8 < bits[2] < 9
    assert report["verdicts"] and all(each["demand"] in printed for each in report["verdicts"])


@pytest.mark.exhaustive
def test_kernels_are_shown_as_shares_of_the_limits(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    run("kernels", "--quick", "--json", str(saved))
    report = json.loads(saved.read_text(encoding="utf-8"))
    assert report["benchmark"] == "kernels" and report["settings"]["limits"]["clock"] > 0
    assert len(report["tables"]) == 12
    for table in report["tables"]:
        assert table["rows"]
        if "isa" in table["columns"]:
            assert {row[0] for row in table["rows"]} == set(_core.available_isas()) - {"ref"}
            assert all(row[4] > 0 for row in table["rows"])


def test_the_pages_are_made_of_the_committed_results(tmp_path: Path) -> None:
    (tmp_path / "performance").mkdir()
    front = (DOCS / "performance.md").read_text(encoding="utf-8")
    before, _, after = front.partition("<!-- begin summary -->\n")
    emptied = before + "<!-- begin summary -->\n<!-- end summary -->\n" + after.partition("<!-- end summary -->\n")[2]
    (tmp_path / "performance.md").write_text(emptied, encoding="utf-8")
    run("report", "--docs", str(tmp_path))
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == front
    made, committed = (
        {path.name: path.read_text(encoding="utf-8") for path in (folder / "performance").glob("*.md")}
        for folder in (tmp_path, DOCS)
    )
    assert made == committed
    assert {f"{path.stem}.md" for path in (ROOT / "benchmarks" / "results").iterdir()} == set(made)


def test_the_pictures_show_the_committed_results(tmp_path: Path) -> None:
    """By what they say of themselves: where letters and lines stand, versions of matplotlib differ."""
    pytest.importorskip("matplotlib")
    (tmp_path / "performance").mkdir()
    run("pictures", "--docs", str(tmp_path))
    made = {path.name: path for path in (tmp_path / "performance").iterdir()}
    committed = {path.name: path for path in (DOCS / "performance").glob("*.svg")}
    assert made.keys() == committed.keys() and len(made) == 3
    for name, path in committed.items():
        described = ET.parse(path).findtext("{*}desc")
        assert described and described == ET.parse(made[name]).findtext("{*}desc")
        assert path.stat().st_size < 60_000
        first = made[name].read_bytes()
        assert b"prefers-color-scheme: dark" in first and b"var(" not in first
    before = {name: path.read_bytes() for name, path in made.items()}
    run("pictures", "--docs", str(tmp_path))
    assert before == {name: path.read_bytes() for name, path in made.items()}
