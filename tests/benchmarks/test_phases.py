"""What phases.py sees of the core, to which phase it counts that, and that its session changes no result."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import pyengine
from pyengine import _core
from pyengine.quantize import convert

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize(
    ("functions", "phase"),
    [
        (["pe_gemm_f32_q8r_q8c__avx2", "pe_multiply", "pe_op_linear", "join", "pe_transformer_step"], "products"),
        (["pe_gemm_f32_q8r_q8c__avx2", "pe_multiply", "pe_op_logits", "pe_transformer_step"], "logits"),
        (["attend_plain_q8", "pe_attend_f32_q8__avx2", "pe_op_attend", "pe_team_run"], "attention"),
        (["pe_quantize_q8r_f32__ref", "pe_prepare", "pe_op_attend"], "norms, rounding, storing"),
        (["largest", "pe_beam_advance", "pe_follow_beams"], "rest of the core"),
        (["__pyx_pw_5_core_step"], "Python"),
        ([], "Python"),
    ],
)
def test_the_phase_of_a_sample(functions: list[str], phase: str) -> None:
    from phases import phase_of

    assert phase_of(functions) == phase


def test_every_op_has_a_phase() -> None:
    from phases import phase_of

    ops = re.findall(r"^\w+ (pe_op_\w+)\(", (ROOT / "csrc" / "ops" / "ops.h").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(ops) > 8
    assert not [op for op in ops if phase_of([op, "pe_transformer_step"]) == "rest of the core"]


def test_calls_in_parts_give_the_same_ids(tmp_path: Path) -> None:
    import models
    import speed
    from phases import Calls

    directory = tmp_path / "model"
    convert(models.EXAMPLE, directory)
    sources = speed.example_sources(directory, 6)
    calls = Calls(directory, lambda number: nullcontext())
    decoding, encoder = calls.run([sources[:3], sources[3:]], 5)
    assert encoder.steps == 2 and encoder.rows == sum(map(len, sources)) and decoding.steps == 10
    assert decoding.rows == 30 and decoding.seconds > 0 < encoder.seconds
    with pyengine.load(directory, threads=1) as translator:
        whole = translator.translate(sources, num_beams=1)
    assert [result.ids for result in calls.translator.translate(sources, num_beams=1)] == [each.ids for each in whole]


def test_samples_name_the_functions_of_the_core() -> None:
    from kernels import give, layer
    from sampling import Sampler

    made, y = layer(_core.Kernels("ref"), 512, 512), np.empty((32, 512), np.float32)
    give(made, 32, 512)
    sampler = Sampler()
    with sampler.samples() as samples, sampler.mark(1):
        made.linear(y, _core.Crews(1), 60)
    within = [functions for _, functions in samples if "pe_gemm_f32_q8r_q8c__ref" in functions]
    assert len(within) > len(samples) / 2 > 0
    assert {mark for mark, functions in samples if functions in within} == {1}
