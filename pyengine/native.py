"""Calls of C++ and Rust that give the interpreter's lock back, while other threads may end the interpreter.

Before Python 3.14 a daemon thread that asks for the lock again after the end has begun is unwound where it stands, and
C++ (sentencepiece) and Rust (tokenizers) answer that by aborting the process. So the end waits for calls under way and
lets no new ones in. C code needs none of this.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pyengine.errors import EngineError

__all__ = ["native"]

GRACE = 5.0
"""Seconds that the end waits for calls under way, and that later ones wait for the end."""

T = TypeVar("T")

_inside: set[int] = set()  # threads in a call; a set's methods are atomic
_ending = False


def native(call: Callable[..., T], *arguments: object, **keywords: object) -> T:
    """``call(*arguments, **keywords)``. Raises EngineError in a thread that calls while the interpreter ends.

    Nothing is counted in the main thread: it ends the interpreter itself, and an interrupt, which only it gets, could
    leave the count wrong.
    """
    thread = threading.get_ident()
    if thread == threading.main_thread().ident:
        return call(*arguments, **keywords)
    try:
        _inside.add(thread)
        if not _ending:  # asked after the thread is seen to be inside
            return call(*arguments, **keywords)
    finally:
        _inside.discard(thread)
    time.sleep(GRACE)  # as a rule the process is over by then: no word about a thread that nobody waits for
    raise EngineError("the interpreter is ending, and this thread can translate no more; end or join it before")


@atexit.register
def _let_calls_end() -> None:
    global _ending
    _ending = True
    latest = time.monotonic() + GRACE
    while _inside and time.monotonic() < latest:
        time.sleep(0.001)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inside.clear)  # the child has one thread, which is in no call
