"""A model that is ready to run: sessions to borrow, closed once, shared by threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np

from pyengine.canonical.config import GenerationDefaults, ModelConfig
from pyengine.canonical.tensors import sinusoidal_positions
from pyengine.cpus import usable_cpus
from pyengine.errors import ClosedError, OptionError
from pyengine.modelfile import ModelDirectory, packed_specs
from pyengine.modelfile.layout import dequantize_packed, matrix_shapes
from pyengine.pages import huge_bytes
from pyengine.plan import Observer, Plan, Session, StepResult
from pyengine.scheduling.deadline import Deadline

__all__ = ["Engine", "make_engine", "open_engine"]

STEP_ROWS = 1024
"""Rows that a session has working memory for; longer plans run in several steps."""

MAX_THREADS = 256
"""Where the system refuses a thread, the OpenMP runtime ends the process: this stops what cannot be meant."""

KINDS = ("int8", "float32")


class Engine:
    """Lends sessions of one model: `open_session` makes one whose steps have so many threads.

    Steps wait for each other so that no more than `cpus` threads run at once. `threads_lost` tells whether steps
    run on one thread, because this process was forked. Each call of a task borrows sessions of its own: calls of
    different threads share the weights only.
    """

    def __init__(
        self,
        config: ModelConfig,
        generation: GenerationDefaults,
        open_session: Callable[[int], Session],
        *,
        threads: int = 1,
        replicas: int = 1,
        cpus: int = 1,
        threads_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        """`threads`: of all streams together; `replicas`: streams that a call of many sentences runs in."""
        self.config = config
        self.generation = generation
        self.threads = threads
        self.replicas = replicas
        self._open_session: Callable[[int], Session] | None = open_session
        self._cpus = cpus
        self.threads_lost = threads_lost
        self.reset()
        _ENGINES.add(self)

    def reset(self) -> None:
        """After a fork, too: threads that the child does not have may have held locks and sessions."""
        self._lock = threading.Lock()
        self._gates: dict[int, threading.BoundedSemaphore] = {}
        self._idle: dict[int, list[Session]] = {}

    def gate(self, threads: int) -> threading.BoundedSemaphore:
        """What a step of so many threads passes."""
        with self._lock:
            if threads not in self._gates:
                self._gates[threads] = threading.BoundedSemaphore(self._steps_at_once(threads))
            return self._gates[threads]

    def _steps_at_once(self, threads: int) -> int:
        return max(1, self._cpus // threads)

    @contextmanager
    def session(
        self, deadline: Deadline, replicas: int | None = None, observer: Observer | None = None
    ) -> Iterator[Session]:
        """A session for the length of a `with` block, which leaves it empty. ClosedError once closed.

        Its steps have the threads of one of `replicas` streams, by default the model's. A step that waits for
        others until `deadline` is over raises DeadlineError. An `observer` sees what they compute meanwhile.
        """
        count = max(1, self.threads // (replicas or self.replicas))
        with self._lock:
            if self._open_session is None:
                raise ClosedError("the model is closed")
            idle = self._idle.setdefault(count, [])
            session = idle.pop() if idle else self._open_session(count)
        session.clear()  # a second Ctrl-C may have come while the last call cleaned up
        try:
            if observer is not None:
                session.observe(observer)
            yield _GatedSession(session, self, count, deadline)
        finally:
            if observer is not None:
                session.observe(None)
            with self._lock:
                if self._open_session is not None and len(idle) < self._steps_at_once(count):
                    idle.append(session)

    def close(self) -> None:
        """Let go of weights and sessions; calls under way in other threads come to their end."""
        with self._lock:
            self._open_session = None
            self._idle.clear()


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _reset_engines() -> None:
    for engine in _ENGINES:
        engine.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_engines)


class _GatedSession:
    """A session whose steps wait until a processor is free for their threads."""

    def __init__(self, session: Session, engine: Engine, threads: int, deadline: Deadline) -> None:
        self.max_rows = session.max_rows
        self.max_sequences = session.max_sequences
        self.max_memories = session.max_memories
        self.clear = session.clear
        self.observe = session.observe
        self._session = session
        self._engine = engine
        self._threads = threads
        self._deadline = deadline

    def step(self, plan: Plan) -> StepResult:
        gate = self._engine.gate(self._threads)  # looked up each time: a fork in the middle of a call brings a new one
        while not gate.acquire(timeout=self._deadline.left):
            self._deadline.check()
        try:
            return self._session.step(plan)
        finally:
            gate.release()


def open_engine(
    directory: ModelDirectory,
    *,
    threads: int | Literal["auto"] = "auto",
    replicas: int = 1,
    compute: str | None = None,
    kv: str | None = None,
) -> tuple[Engine, dict[str, object]]:
    """Bind the weights of an open model directory to the C core: the engine, and the settings it runs with.

    threads  of all streams together; "auto": all CPUs that the process may use
    replicas streams, each with its share of the threads
    compute  "int8": rounded weights as they are stored, and activations in int8; "float32": all in float32;
             None: "int8" if the directory has rounded weights
    kv       "int8" or "float32", the type of cached keys and values; None: what the directory asks for, else as compute
    Raises OptionError.
    """
    for name, value in (("compute", compute), ("kv", kv)):
        if value is not None and value not in KINDS:
            raise OptionError(f'{name} is {value!r}; expected "int8" or "float32"')
    compute = compute or ("int8" if directory.rounded else "float32")
    if compute == "int8" and not directory.rounded:
        raise OptionError(
            f'compute is "int8", but {directory.path} holds {directory.weights} weights; quantize the '
            "checkpoint: python tools/quantize.py CHECKPOINT -o OUT --weights int8"
        )
    tensors = directory.tensors if compute == "int8" or not directory.rounded else _dequantized(directory)
    return make_engine(
        directory.config,
        directory.generation,
        tensors,
        threads=threads,
        replicas=replicas,
        compute=compute,
        kv=kv or directory.kv or compute,
    )


def make_engine(
    config: ModelConfig,
    generation: GenerationDefaults,
    tensors: dict[str, np.ndarray],
    *,
    threads: int | Literal["auto"] = "auto",
    replicas: int = 1,
    compute: str = "float32",
    kv: str = "float32",
) -> tuple[Engine, dict[str, object]]:
    """What `open_engine` returns, of packed tensors in memory, laid out for weights of the type `compute`.

    Raises OptionError for `threads` and `replicas`.
    """
    if threads != "auto" and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise OptionError(f'threads is {threads!r}; expected a whole number, 1..{MAX_THREADS}, or "auto"')
    cpus = usable_cpus()
    if threads == "auto":
        threads = min(cpus, MAX_THREADS)
    if type(replicas) is not int or not 1 <= replicas <= threads:
        raise OptionError(f"replicas is {replicas!r}; expected a whole number, 1..{threads}, the threads")
    open_session, isa, threads_lost = _core_sessions(config, tensors, kv)
    engine = Engine(
        config,
        generation,
        open_session,
        threads=threads,
        replicas=replicas,
        cpus=max(cpus, threads),
        threads_lost=threads_lost,
    )
    about = {"compute": compute, "kv": kv, "threads": threads, "replicas": replicas, "isa": isa}
    first = next(iter(tensors.values()))
    return engine, {**about, "weight_bytes": _bytes(tensors), "huge_page_bytes": huge_bytes(first)}


def _bytes(tensors: dict[str, np.ndarray]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _dequantized(directory: ModelDirectory) -> dict[str, np.ndarray]:
    """The packed tensors of a float32 directory with the values that the int8 ones stand for."""
    shapes = matrix_shapes(directory.config)
    return {
        name: dequantize_packed(directory.tensors, matrix := name.removesuffix(".weight"), *shapes[matrix])
        if spec.kind == "weight"
        else directory.tensors[name]
        for name, spec in packed_specs(directory.config, "float32").items()
    }


def _core_sessions(
    config: ModelConfig, tensors: dict[str, np.ndarray], kv: str
) -> tuple[Callable[[int], Session], str, Callable[[], bool]]:
    """What makes a session of so many threads, the kernels' instruction set, what tells whether a fork lost threads.

    The one place that knows the C core; it is imported here, so that converting needs none.
    """
    from pyengine import _core  # type: ignore[attr-defined]

    positions = sinusoidal_positions(config.max_positions, config.width)
    model = _core.Model(config, tensors, positions, kv=kv)

    def open_session(threads: int) -> Session:
        session: Session = _core.Session(
            model,
            threads=threads,
            max_rows=max(STEP_ROWS, config.max_positions),  # a sentence is encoded in one piece
            max_sequences=2 * STEP_ROWS,  # children of beams live beside their parents for a moment
            max_memories=STEP_ROWS,
        )
        return session

    return open_session, model.isa, _core.threads_lost
