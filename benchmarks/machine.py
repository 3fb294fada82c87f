"""The machine that a figure was measured on, as far as it matters for the figure; no host name, no paths."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sysconfig
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pyengine import _core
from pyengine.cpus import usable_cpus

__all__ = ["cpuinfo", "describe"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "pyengine", "numpy", "sentencepiece", "tokenizers", "safetensors", "sacrebleu", "torch", "transformers",
    "ctranslate2", "gguf", "llama-cpp-python",
)  # fmt: skip
CPU_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm",
)  # fmt: skip


def describe() -> dict[str, object]:
    """Names and numbers, ready for JSON."""
    cpu = cpuinfo()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.machine(),
        "cpu_family_model_stepping": [cpu.get(key) for key in ("cpu family", "model", "stepping")],
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cpus": usable_cpus(),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "compiler": _compiler(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "isa": _core.available_isas()[-1],
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> list[str]:
    """The first processor's caches, such as "L1 Data 48K"."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        parts = ((folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size"))
        level, kind, size = parts
        found.append(f"L{level} {kind} {size}")
    return found


def _compiler() -> str:
    """The first line of `--version` of the compiler that the build takes."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    return _output([*command, "--version"]).split("\n")[0] or "none found"


def _version(package: str) -> str | None:
    if package == "pyengine":  # run from a checkout it has no metadata
        from pyengine import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The short name of HEAD; " + changes" where a file differs from it that can move a figure."""
    name = _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()
    paths = ["csrc", "pyengine", "quantize", "setup.py", "benchmarks/*.py"]
    changes = _output(["git", "-C", str(ROOT), "status", "--porcelain", "--", *paths])
    return name + (" + changes" if changes.strip() else "") if name else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
