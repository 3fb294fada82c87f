"""What test_interrupts.py runs in a process of its own:  python interrupts.py MODEL REPLICAS SECOND N

Signals at random moments, one or, after SECOND seconds, another; after each the next call must be right, and in time.
From a timer and not from a thread: a signal that a thread of the same process sends comes at few moments only.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import Any

import pyengine

LINES = ["Ein Mann fährt Fahrrad.", "Zwei Hunde spielen im Schnee."] * 3


class Work:
    """What a task does with texts, whichever it is: with all of them, and one after another."""

    def __init__(self, task: pyengine.Translator | pyengine.Generator, **how: Any) -> None:
        self.task = task
        self._how = how

    def do(self, texts: str | list[str], **how: Any) -> Any:
        call = self.task.translate if isinstance(self.task, pyengine.Translator) else self.task.generate
        return call(texts, **{**self._how, **how})  # type: ignore[operator]

    def pieces(self, texts: list[str], **how: Any) -> Iterator[Any]:
        """Results of translations as they come, or pieces of what goes on with the first of the texts."""
        how = {**self._how, **how}
        if isinstance(self.task, pyengine.Translator):
            return self.task.translate_iter(iter(texts), **how)
        return self.task.stream(texts[0], **how)


def main(model: str, replicas: int, second: float, count: int) -> None:
    rng = random.Random(replicas)
    interrupts = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    with pyengine.load(model, threads=2, replicas=replicas) as task:
        work = Work(task, max_new_tokens=12)
        wanted = work.do(LINES, num_beams=2)

        def calls() -> None:
            """Until one ends by an interrupt, or Python has printed one that came while it ended an iterator."""
            before = interrupts
            while interrupts == before:
                chosen = rng.random()
                if chosen < 0.3:
                    list(work.pieces(LINES, num_beams=rng.choice([1, 2])))
                elif chosen < 0.4:
                    list(islice(work.pieces(LINES), 2))  # and the rest is cancelled
                else:
                    work.do(LINES if replicas > 1 else LINES[0], num_beams=rng.choice([1, 2]))

        for _ in range(count):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 2e-2), second)
                    calls()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert work.do(LINES, num_beams=2, timeout=60) == wanted


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
