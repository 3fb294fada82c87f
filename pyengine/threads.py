"""Calls side by side, where the system has threads to give."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["side_by_side"]


def side_by_side(*calls: Callable[[], Any]) -> list[Any]:
    """What each of the calls returns, in their order. The last one runs in this thread, each other in one of its own.

    A call for which the system refuses a thread (a limit of memory or of processes, or the interpreter is ending) runs
    in this one. When all are over, the first error among them is raised; Ctrl-C meanwhile ends the wait.
    """
    results: list[Any] = [None] * len(calls)
    errors: dict[int, BaseException] = {}

    def run(i: int, running: threading.Lock) -> None:
        try:
            results[i] = calls[i]()
        except BaseException as error:
            errors[i] = error
        finally:
            running.release()

    # Bare threads and locks: what else there is waits in Python code, where an interrupt can leave a lock taken.
    locks = [threading.Lock() for _ in calls]
    here = []
    for i, running in enumerate(locks):
        running.acquire()
        try:
            if i == len(calls) - 1:
                here.append(i)
            else:
                _thread.start_new_thread(run, (i, running))
        except (RuntimeError, MemoryError):
            here.append(i)
    for i in here:
        run(i, locks[i])
    for running in locks:
        running.acquire()
    if errors:
        raise errors[min(errors)]
    return results
