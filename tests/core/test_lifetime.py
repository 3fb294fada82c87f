"""Sessions and the memory that they hold: garbage cycles, and two threads that share one by mistake."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from pyengine.errors import EngineError

from .models import SANITIZED, TinyModel, make_plan, new_session, step


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.skipif(SANITIZED, reason="the address sanitizer keeps freed memory for a while")
def test_a_session_in_a_garbage_cycle_gives_its_memory_back() -> None:
    model = TinyModel.random(max_positions=512).core()

    def drop_one() -> None:
        session = new_session(model, max_rows=512)
        for memory in range(64):  # 64 x 512 tokens: several MB of cache
            step(session, sources={memory: [1] * 512})
        cycle: list[object] = [session]
        cycle.append(cycle)

    drop_one()
    gc.collect()
    before = resident()
    for _ in range(8):
        drop_one()
        gc.collect()
    one = new_session(model, max_rows=512)
    for memory in range(64):
        step(one, sources={memory: [1] * 512})
    assert resident() - before < 3 * one.cache_bytes


def test_a_session_refuses_a_second_thread() -> None:
    model = TinyModel.random(max_positions=512, width=64).core()
    session = new_session(model, max_rows=512)
    plan = make_plan(sources={0: [1] * 512})
    refused: list[EngineError] = []

    def work() -> None:
        for _ in range(200):
            try:
                session.step(plan)
                session.clear()
            except EngineError as error:
                refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("two threads" in str(error) or "in use" in str(error) for error in refused)
    session.clear()
    step(session, sources={0: [1, 2]}, rows=[(0, 0, [1])])
