"""How much memory this process needed; imports nothing that would count."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory() -> int:
    """Bytes that this process had resident at its largest (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
