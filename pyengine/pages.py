"""Memory in huge pages: fewer address translations while weights stream through, which counts on virtual machines.

Source: Linux, Documentation/admin-guide/mm/transhuge.rst.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np

__all__ = ["HUGE_PAGE", "huge_bytes", "huge_room"]

HUGE_PAGE = 2 << 20

_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def huge_room(size: int) -> memoryview:
    """`size` writable bytes of zeros, `size` > 0, that start at a huge page, and lie in such where the system can."""
    room = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared ones stay small
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            room.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    start = -np.frombuffer(room, np.uint8).ctypes.data % HUGE_PAGE
    return memoryview(room)[start : start + size]


def huge_bytes(array: np.ndarray, smaps: Path = _SMAPS) -> int | None:
    """Bytes in huge pages of the mapping that `array` begins in; None where the system does not tell."""
    address = array.ctypes.data
    inside = False
    try:
        lines = smaps.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        found = _MAPPING.match(line)
        if found:
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) * 1024
    return None
