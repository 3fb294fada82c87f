"""Runs after all other kernel tests: was every kernel of every instruction set exercised?"""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import pytest

from pyengine import _core

from .conftest import FAMILIES

# What /proc/cpuinfo calls the features that each instruction set needs (csrc/base/cpu.h).
FEATURES = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512vnni": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "amx": {"avx512_vnni", "amx_tile", "amx_int8"},
}


def isas_of_this_cpu() -> list[str]:
    """What the operating system says, asked without the core."""
    if platform.machine() != "x86_64":
        return ["ref"]
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    flags = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    return ["ref", *(isa for isa, features in FEATURES.items() if features <= flags)]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux what the CPU has")
def test_the_core_offers_what_the_cpu_has() -> None:
    found = isas_of_this_cpu()
    for isa, missing in _core.instruction_sets().items():
        # An assembler may know no better; Linux refuses tiles where a thread's signal stack is too small for them.
        excused = isa == "amx" and isa in found and missing != "the CPU lacks it"
        assert (missing is None) == (isa in found) or excused, (isa, missing)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_kernel_ran(isa: str, kernel_calls: Counter[tuple[str, str]]) -> None:
    missed = [family for family in FAMILIES if kernel_calls[isa, family] == 0]
    assert not missed, f"{isa}: {', '.join(missed)} never ran in this session"
