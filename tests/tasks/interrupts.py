"""What test_interrupts.py runs in a process of its own:  python interrupts.py MODEL REPLICAS SECOND N

Signals at random moments, one or, after SECOND seconds, another; after each the next call must be right, and in time.
From a timer and not from a thread: a signal that a thread of the same process sends comes at few moments only.
"""

from __future__ import annotations

import random
import signal
import sys
from types import FrameType

import pyengine

LINES = ["Ein Mann fährt Fahrrad.", "Zwei Hunde spielen im Schnee."] * 3


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(model: str, replicas: int, second: float, count: int) -> None:
    rng = random.Random(replicas)
    signal.signal(signal.SIGALRM, interrupt)
    with pyengine.load(model, threads=2, replicas=replicas) as translator:
        wanted = translator.translate(LINES, num_beams=2)
        for _ in range(count):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-5, 2e-2), second)
                    while True:
                        if rng.random() < 0.3:
                            list(translator.translate_iter(iter(LINES), num_beams=2))
                        else:
                            translator.translate(LINES if replicas > 1 else LINES[0], num_beams=rng.choice([1, 2]))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert translator.translate(LINES, num_beams=2, timeout=60) == wanted


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
