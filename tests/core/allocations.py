"""What test_allocations.py runs with failing_malloc.c before the C library:  python allocations.py SHIM

Of a step that forks, frees, encodes, runs a head, decodes and answers lists, each allocation of the core fails once, in
a session of its own. Prints how many there were.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))  # last: an installed pyengine goes first

from pyengine import _core  # noqa: E402
from pyengine.canonical import HeadConfig  # noqa: E402
from pyengine.errors import EngineError  # noqa: E402
from tests.core.models import TinyModel, make_plan, new_session  # noqa: E402

RNG = np.random.default_rng(5)
START = make_plan(
    sources={0: [4, 5, 6], 1: [7] * 20},
    lists=[range(0, 23, 2), range(0, 23, 3)],
    rows=[(0, 0, [1, 2, 3]), (1, 1, [4] * 16), (2, 0, [5] * 17)],
    logit_rows=[2],
)
# Grows everything that a session grows: pages, lists of pages, lists of ids, the encoder's pages, candidates.
MIXED = make_plan(
    forks=[(1, 3), (2, 4)],
    free_sequences=[2],
    free_memories=[1],
    sources={2: [8] * 33, 1: [9] * 40},
    lists=[range(1, 23), range(0, 20)],
    rows=[(1, 2, RNG.integers(0, 23, 30)), (3, 1, [3]), (4, 0, [2] * 20), (5, 0, [6] * 40)],
    top_k=7,
    head="words",
)
AFTER = make_plan(rows=[(0, 0, [7, 8])])


def session(model: _core.Model) -> _core.Session:
    made = new_session(model, threads=2)
    made.step(START)
    return made


def bytes_of(result: object) -> bytes:
    arrays = [getattr(result, name) for name in ("log_normalizer", "top_ids", "top_logits", "answers")]
    return b"".join(array.tobytes() for array in arrays if array is not None)


def main(shim: str) -> None:
    hooks = ctypes.CDLL(shim)
    seen = ctypes.c_long.in_dll(hooks, "seen")
    fail_at = ctypes.c_long.in_dll(hooks, "fail_at")
    heads = {"words": HeadConfig("none", True, "gelu", norm=True, out="vocabulary")}
    model = TinyModel.random("int8", seed=3, width=32, max_positions=120, heads=heads).core("int8")
    undisturbed = session(model)
    expected_after = bytes_of(undisturbed.step(AFTER))
    expected = bytes_of(session(model).step(MIXED))
    count = 0
    while True:
        tried = session(model)
        seen.value, fail_at.value = 0, count + 1
        try:
            result = tried.step(MIXED)
        except EngineError as error:
            assert str(error) == "out of memory", error
        else:
            fail_at.value = 0
            assert bytes_of(result) == expected
            break
        fail_at.value = 0
        count += 1
        assert bytes_of(tried.step(AFTER)) == expected_after, f"allocation {count} failed, and sequence 0 is another"
        assert bytes_of(tried.step(MIXED)) == expected, f"allocation {count} failed, and the plan does not run later"
    print(count)


if __name__ == "__main__":
    main(sys.argv[1])
