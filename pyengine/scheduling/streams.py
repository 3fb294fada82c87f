"""Several schedulers side by side, each with a session of its own: more sentences a second, none of them sooner."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing
from functools import partial

from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Outcome, Request, Scheduler
from pyengine.threads import side_by_side

__all__ = ["run_streams"]


def run_streams(
    scheduler: Callable[[], AbstractContextManager[Scheduler]],
    streams: int,
    requests: Iterable[Request],
    window: int | None,
    deadline: Deadline,
) -> Generator[Outcome, None, None]:
    """What `Scheduler.run` yields, of `streams` of them, each of which gets its share of every window of requests.

    A share is every n-th of a window's requests, longest first, so that all end at about the same time. A stream
    opens its scheduler in the thread that runs it, which alone gives it back: an interrupt of the caller's thread
    leaves no session with two.
    """
    if streams == 1:
        with scheduler() as alone, closing(alone.run(requests, window)) as found:
            yield from found
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
        yield from _run_window(scheduler, streams, chunk, deadline)
        if error is not None:
            raise error
        if window is None or len(chunk) < window:
            return


def _run_window(
    scheduler: Callable[[], AbstractContextManager[Scheduler]],
    streams: int,
    requests: list[Request],
    deadline: Deadline,
) -> list[Outcome]:
    order = sorted(range(len(requests)), key=lambda i: -requests[i].length)
    found: list[Outcome] = [[] for _ in requests]
    errors: list[BaseException] = []

    def run(stream: int) -> None:
        mine = order[stream::streams]
        try:
            with scheduler() as own, closing(own.run([requests[i] for i in mine])) as results:
                for i, outcome in zip(mine, results, strict=True):
                    found[i] = outcome
        except BaseException as error:  # for the caller's thread
            errors.append(error)
            deadline.cancel()  # the others end after their step

    try:
        side_by_side(*(partial(run, stream) for stream in range(streams)))
    except BaseException:  # Ctrl-C
        deadline.cancel()
        raise
    if errors:  # Ctrl-C before what another stream met
        raise next((error for error in errors if not isinstance(error, Exception)), errors[0])
    return found
