"""Memory in huge pages, and what the system says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyengine.pages import HUGE_PAGE, huge_bytes, huge_room


@pytest.mark.parametrize("size", [1, HUGE_PAGE, HUGE_PAGE + 1])
def test_room_begins_at_a_huge_page(size: int) -> None:
    room = huge_room(size)
    room[:] = bytes(size)
    array = np.frombuffer(room, np.uint8)
    assert len(array) == size and array.ctypes.data % HUGE_PAGE == 0
    counted = huge_bytes(array)
    assert counted is None or counted % HUGE_PAGE == 0


def test_huge_pages_of_the_mapping_that_holds_an_array(tmp_path: Path) -> None:
    array = np.zeros(10, np.uint8)
    address = array.ctypes.data
    smaps = tmp_path / "smaps"
    smaps.write_text(
        f"{address - 4096:x}-{address:x} rw-p 00000000 00:00 0\nAnonHugePages:     2048 kB\n"
        f"{address:x}-{address + 4096:x} rw-p 00000000 00:00 0 \nRss: 4 kB\nAnonHugePages:     4096 kB\n"
    )
    assert huge_bytes(array, smaps) == 4 << 20
    smaps.write_text(f"{address - 4096:x}-{address:x} rw-p 00000000 00:00 0\nAnonHugePages:     2048 kB\n")
    assert huge_bytes(array, smaps) is None
    assert huge_bytes(array, tmp_path / "missing") is None
