"""Each kernel test runs once on every instruction set of this machine, and what ran is counted.

``test_coverage.py`` runs last and fails if an instruction set that the CPU has, or one of its kernels, was not
among them: a dispatch that silently falls back to the reference would pass everything else.
"""

from __future__ import annotations

from collections import Counter

import pytest

from pyengine import _core

FAMILIES = (
    "quantize", "channel_sums", "gemm_q8", "gemm_q8s", "gemm_q4", "gemm_f32", "gemm_bf16", "gemm_f16",
    "norm", "rmsnorm", "turn", "hadamard", "gate", "soft_cap", "store", "attend", "exp_sum", "above",
)  # fmt: skip

_calls: Counter[tuple[str, str]] = Counter()


class CountedKernels:
    """The kernels of one instruction set; counts the calls of each."""

    def __init__(self, isa: str) -> None:
        self.isa = isa
        self.flip = _core.Kernels(isa).flip
        self._kernels = _core.Kernels(isa)

    def __getattr__(self, name: str):
        _calls[self.isa, name] += 1
        return getattr(self._kernels, name)


@pytest.fixture(params=_core.available_isas())
def kernels(request: pytest.FixtureRequest) -> CountedKernels:
    """The kernels of each instruction set in turn, the scalar reference among them."""
    return CountedKernels(request.param)


@pytest.fixture(scope="session")
def reference() -> CountedKernels:
    """The scalar reference, which defines every result."""
    return CountedKernels("ref")


@pytest.fixture(scope="session")
def kernel_calls() -> Counter[tuple[str, str]]:
    """How often each (instruction set, kernel) was called so far."""
    return _calls


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "kernels/test_coverage.py" in item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for isa in dict.fromkeys(isa for isa, _ in _calls):
        counts = ", ".join(f"{name} {_calls[isa, name]}" for name in FAMILIES)
        terminalreporter.write_line(f"kernel calls on {isa}: {counts}")
