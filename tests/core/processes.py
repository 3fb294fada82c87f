"""What test_processes.py runs in processes of their own:  python processes.py SCENARIO

Each prints what it found as one line of JSON.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed pyengine goes first

from pyengine import _core  # noqa: E402
from pyengine.errors import EngineError  # noqa: E402
from tests.core.models import TinyModel, new_session, step  # noqa: E402


def fingerprint(model: _core.Model | None = None, threads: int = 2) -> str:
    """A digest of the logits of a fixed step on a new session."""
    session = new_session(model or tiny(), threads=threads)
    rng = np.random.default_rng(0)
    sources = {i: rng.integers(0, 23, 5 + i) for i in range(8)}
    rows = [(i, i, rng.integers(0, 23, 12 - i)) for i in range(8)]
    result = step(session, sources=sources, rows=rows, full_logits=True)
    return hashlib.sha256(result.logits.tobytes() + result.log_normalizer.tobytes()).hexdigest()


def tiny() -> _core.Model:
    return TinyModel.random("int8", seed=41).core("int8")


def teams_started() -> bool:
    """Whether a step starts threads here."""
    before = len(os.listdir("/proc/self/task"))
    session = new_session(tiny(), threads=3)
    step(session, sources={0: [1, 2, 3]}, rows=[(0, 0, [4, 5])])
    return len(os.listdir("/proc/self/task")) == before + 2


def in_fork(report: Callable[[], object]) -> object:
    """What `report` returns in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(report()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(data) if status == 0 else f"the child ended with {status}"


def report_of_child(model: _core.Model | None = None) -> list[object]:
    return [fingerprint(model, 4), teams_started()]


def fork_after_threads() -> dict[str, object]:
    model = tiny()
    return {
        "expected": [fingerprint(model), teams_started()],
        "loaded before": in_fork(lambda: report_of_child(model)),
        "loaded in the child": in_fork(report_of_child),
        "grandchild": in_fork(lambda: in_fork(lambda: report_of_child(model))),
        "parent": [fingerprint(model), teams_started()],
    }


def fork_with_a_session() -> dict[str, object]:
    """The parent's session goes on in the child: its cache came along."""
    session = new_session(tiny(), threads=3)
    step(session, sources={0: [1, 2, 3]}, rows=[(0, 0, [4, 5])])

    def goes_on() -> str:
        return step(session, rows=[(0, 0, [6])], full_logits=True).logits.tobytes().hex()

    return {"child": in_fork(goes_on), "parent": goes_on()}


def fork_after_openmp() -> dict[str, object]:
    """Another library's parallel region, in the thread that forks: whoever shares its runtime hangs in the child."""
    try:
        runtime = ctypes.CDLL("libgomp.so.1")
    except OSError:
        return {"child": None, "parent": None}  # nothing here that could be shared
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda context: None)
    runtime.GOMP_parallel(region, None, 2, 0)
    return {"child": in_fork(fingerprint), "parent": fingerprint()}


def pools() -> dict[str, object]:
    """multiprocessing, with workers that are forked from this process after it has used threads, and spawned."""
    expected = fingerprint()
    found: dict[str, object] = {"expected": expected}
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            found[method] = pool.map(fingerprint, [None] * 4)
    return found


def limit_memory(extra: int | None) -> None:
    """Address space: what is in use now and `extra` bytes; None lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = hard if extra is None else pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def errors_of(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except EngineError as error:
        return str(error)
    return "no error"


def out_of_memory() -> dict[str, object]:
    """A session that is too large, and a cache that grows until there is no more; then a sequence goes on."""
    model = TinyModel.random(seed=42, width=128, max_positions=1024).core()
    start = dict(sources={0: [1, 2, 3]}, rows=[(0, 0, [4, 5])], full_logits=True)
    session = new_session(model, max_rows=1024, max_memories=200)
    expected = [step(session, **start).logits, step(session, rows=[(0, 0, [6])], full_logits=True).logits]
    session.clear()
    step(session, **start)
    limit_memory(64 << 20)
    created = errors_of(lambda: new_session(model, max_rows=1 << 20))

    def fill() -> None:
        for memory in range(1, 200):
            step(session, sources={memory: [1] * 1024})

    filled = errors_of(fill)
    again = np.array_equal(step(session, rows=[(0, 0, [6])], full_logits=True).logits, expected[1])
    limit_memory(None)
    return {"created": created, "filled": filled, "works again": again}


def no_threads() -> dict[str, object]:
    """A system that refuses threads: the step runs on those that there are."""
    expected = fingerprint(threads=1)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    if os.geteuid() == 0:  # the limit is not root's
        os.setuid(65534)
    found = fingerprint(threads=8)
    return {"expected": expected, "found": found, "threads": len(os.listdir("/proc/self/task"))}


SCENARIOS = (fork_after_threads, fork_with_a_session, fork_after_openmp, pools, out_of_memory, no_threads)

if __name__ == "__main__":
    print(json.dumps({scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]]()))
