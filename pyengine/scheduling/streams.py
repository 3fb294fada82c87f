"""Several schedulers side by side, each with a session of its own: more sentences a second, none of them sooner."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing

from pyengine.decoding.search import Found
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request, Scheduler

__all__ = ["run_streams"]


def run_streams(
    schedulers: list[Scheduler], requests: Iterable[Request], window: int | None, deadline: Deadline
) -> Generator[list[Found], None, None]:
    """What `Scheduler.run` yields; of several schedulers, each gets its share of every window of requests.

    A share is every n-th of a window's requests, longest first, so that all end at about the same time.
    """
    if len(schedulers) == 1:
        yield from schedulers[0].run(requests, window)
        return
    source = iter(requests)
    while True:
        chunk: list[Request] = []
        error: Exception | None = None
        try:
            for request in itertools.islice(source, window):
                chunk.append(request)
        except Exception as raised:  # raised again after the requests before it, as Scheduler.run does
            error = raised
        yield from _run_window(schedulers, chunk, deadline)
        if error is not None:
            raise error
        if window is None or len(chunk) < window:
            return


def _run_window(schedulers: list[Scheduler], requests: list[Request], deadline: Deadline) -> list[list[Found]]:
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].source))
    found: list[list[Found]] = [[] for _ in requests]

    def run(stream: int) -> None:
        mine = order[stream :: len(schedulers)]
        with closing(schedulers[stream].run([requests[i] for i in mine])) as results:
            for i, hypotheses in zip(mine, results, strict=True):
                found[i] = hypotheses

    with ThreadPoolExecutor(len(schedulers)) as pool:
        futures = [pool.submit(run, stream) for stream in range(len(schedulers))]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:  # Ctrl-C too: the other streams end after their step
            deadline.cancel()
            raise
    return found
