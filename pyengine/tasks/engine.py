"""A model that is ready to run: sessions to borrow, closed once, shared by threads."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Literal, TypeVar

import numpy as np

from pyengine.arguments import choice, whole
from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.cpus import started_cpus, this_threads_cpus, usable_cpus
from pyengine.errors import ClosedError, EngineError, OptionError, UnsupportedError
from pyengine.modelfile import ModelDirectory, packed_specs
from pyengine.modelfile.layout import FLOATS, dequantize_packed, matrix_shapes
from pyengine.pages import huge_bytes
from pyengine.plan import Observer, Opened, Plan, Session, StepResult
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Scheduler

__all__ = ["Engine", "isa_in_use", "make_engine", "open_engine"]

STEP_ROWS = 1024
"""Rows that a session has working memory for; longer plans run in several steps."""

MAX_THREADS = 256
MAX_CACHE_BYTES = 1 << 50

KINDS = ("int8", "float32")

PATIENCE = 0.1
"""Seconds that a step waits for processors before Python looks at its deadline, and at signals."""


Kind = TypeVar("Kind")


class _Living(Generic[Kind]):
    """What there still is of the things added, which it does not keep.

    No WeakSet: that runs Python when a thing ends, where Python prints an interrupt and forgets it.
    """

    def __init__(self) -> None:
        self._references: list[weakref.ref[Kind]] = []

    def add(self, thing: Kind) -> None:
        for reference in list(self._references):
            if reference() is None:
                with suppress(ValueError):  # another thread was sooner
                    self._references.remove(reference)
        self._references.append(weakref.ref(thing))

    def there(self) -> list[Kind]:
        return [thing for reference in list(self._references) if (thing := reference()) is not None]


class Engine:
    """Lends sessions of one model: `open_session` makes one whose steps have so many threads.

    Each call of a task borrows sessions of its own: calls of different threads share the weights only.

    An interrupt may come between any two lines here, in the main thread, and a fork. So nothing is locked: an idle
    session is taken from a list and put back in single operations, and one that an interrupt keeps from being put
    back is lost, not lent twice.
    """

    def __init__(
        self,
        config: ModelConfig,
        generation: GenerationDefaults | None,
        open_session: Callable[[int], Opened],
        *,
        threads: int = 1,
        replicas: int = 1,
        keep: int = 1,
    ) -> None:
        """`threads`: of all streams together; `replicas`: streams that a call of many sentences runs in; `keep`:
        threads whose sessions stay when they are idle."""
        self.config = config
        self._generation = generation
        self.threads = threads
        self.replicas = replicas
        self._open_session: Callable[[int], Opened] | None = open_session
        self._keep = keep
        self._idle: dict[int, list[Opened]] = {}  # by threads
        self._sessions = _Living[Opened]()
        self.schedulers = _Living[Scheduler]()  # of calls that there are, for memory()

    @property
    def generation(self) -> GenerationDefaults:
        """The defaults of the search. UnsupportedError without a decoder."""
        if self._generation is None:
            raise UnsupportedError("the model has no decoder, so that it can neither write nor judge a target")
        return self._generation

    def opener(self) -> Callable[[int], Opened]:
        """What makes sessions, for a call that began before the model was closed. ClosedError once it is."""
        if self._open_session is None:
            raise ClosedError("the model is closed")
        return self._open_session

    @contextmanager
    def session(
        self,
        deadline: Deadline,
        replicas: int | None = None,
        observer: Observer | None = None,
        opener: Callable[[int], Opened] | None = None,
    ) -> Iterator[Session]:
        """A session for the length of a `with` block, which leaves it empty. ClosedError once closed, unless `opener`
        comes from before.

        Its steps have the threads of one of `replicas` streams, by default the model's. A step that waits for
        others until `deadline` is over raises DeadlineError. An `observer` sees what they compute meanwhile.
        For the thread that enters the block, and for no other.
        """
        count = max(1, self.threads // (replicas or self.replicas))
        opener = opener or self.opener()
        idle = self._idle.setdefault(count, [])
        try:
            session = idle.pop()
        except IndexError:
            session = opener(count)
            self._sessions.add(session)
        session.clear()  # an interrupt may have come while the last call cleaned up
        session.observe(observer)
        lent = _LentSession(session, deadline)
        try:
            yield lent
        finally:
            lent.end()
            session.observe(None)
            if self._open_session is not None and len(idle) < max(1, self._keep // count):
                idle.append(session)

    def memory(self) -> dict[str, int]:
        """How many sessions there are, at work and idle, and bytes of their working memory, caches and histories."""
        sessions = self._sessions.there()
        return {
            "sessions": len(sessions),
            "working_bytes": sum(session.working_bytes for session in sessions),
            "cache_bytes": sum(session.cache_bytes for session in sessions),
            "history_bytes": sum(scheduler.history_bytes for scheduler in self.schedulers.there()),
        }

    def close(self) -> None:
        """Let go of weights and sessions; calls under way in other threads come to their end."""
        self._open_session = None
        self._idle.clear()


class _LentSession:
    """A session while a call has it; whatever still refers to it afterwards, as a generator may, no longer does."""

    def __init__(self, session: Opened, deadline: Deadline) -> None:
        self.max_bytes = session.max_bytes
        self.sequence_bytes = session.sequence_bytes
        self.memory_bytes = session.memory_bytes
        self.max_rows = session.max_rows
        self.max_sequences = session.max_sequences
        self.max_memories = session.max_memories
        self._session: Opened | None = session
        self._deadline = deadline

    def step(self, plan: Plan, patience: float = PATIENCE, since: int = 0) -> StepResult:
        since = since or time.monotonic_ns()
        while self._session is not None:
            left = self._deadline.left
            result = self._session.step(plan, patience if left is None else min(patience, left), since)
            if result is not None:
                return result
            self._deadline.check()
        raise EngineError("a session was used after its call had ended")

    def clear(self) -> None:
        if self._session is not None:
            self._session.clear()

    def observe(self, callback: Observer | None) -> None:
        if self._session is not None:
            self._session.observe(callback)

    def end(self) -> None:
        self._session = None


def open_engine(
    directory: ModelDirectory,
    *,
    threads: int | Literal["auto"] = "auto",
    replicas: int = 1,
    compute: str | None = None,
    kv: str | None = None,
    cache_bytes: int | None = None,
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
        if value is not None:
            choice(name, value, KINDS)
    compute = compute or ("int8" if directory.rounded else "float32")
    if compute == "int8" and not directory.rounded:
        raise OptionError(
            f'compute is "int8", but {directory.path} holds {directory.weights} weights; quantize the '
            "checkpoint: pyengine quantize CHECKPOINT -o OUT --weights int8"
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
        cache_bytes=cache_bytes,
    )


def make_engine(
    config: ModelConfig,
    generation: GenerationDefaults | None,
    tensors: dict[str, np.ndarray],
    *,
    threads: int | Literal["auto"] = "auto",
    replicas: int = 1,
    compute: str = "float32",
    kv: str = "float32",
    cache_bytes: int | None = None,
) -> tuple[Engine, dict[str, object]]:
    """What `open_engine` returns, of packed tensors in memory, laid out for weights of the type `compute`.

    Raises OptionError for `threads`, `replicas` and `cache_bytes`.
    """
    cpus = usable_cpus()
    if isinstance(threads, str) and threads == "auto":
        threads = min(cpus, MAX_THREADS)
    threads = whole("threads", threads, 1, MAX_THREADS, ', or "auto"')
    replicas = whole("replicas", replicas, 1, threads, ", the threads")
    cache_bytes = None if cache_bytes is None else whole("cache_bytes", cache_bytes, 1, MAX_CACHE_BYTES, ", or None")
    most = max(cpus, threads)
    open_session, isa = _core_sessions(config, tensors, kv, most, cache_bytes)
    engine = Engine(config, generation, open_session, threads=threads, replicas=replicas, keep=most)
    about = {"compute": compute, "kv": kv, "threads": threads, "replicas": replicas, **isa_in_use(isa)}
    first = next(iter(tensors.values()))
    return engine, {**about, "weight_bytes": _bytes(tensors), "huge_page_bytes": huge_bytes(first)}


def _bytes(tensors: dict[str, np.ndarray]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _dequantized(directory: ModelDirectory) -> dict[str, np.ndarray]:
    """The packed tensors of a directory without integers: those that there are stand for float32."""
    shapes = matrix_shapes(directory.config)
    tensors = {}
    for name, spec in packed_specs(directory.config, "float32").items():
        matrix = name.removesuffix(".weight")
        kind = directory.other_weights.get(matrix, directory.weights)
        if spec.kind == "weight" and kind not in FLOATS:
            tensors[name] = dequantize_packed(directory.tensors, matrix, *shapes[matrix])
        else:
            tensors[name] = directory.tensors[name]
    return tensors


def isa_in_use(isa: str | None = None) -> dict[str, object]:
    """The instruction set whose kernels run, `isa` or what a model would take now, and why no better one.

    Raises OptionError where PYENGINE_ISA names none of this machine's.
    """
    from pyengine import _core

    isa = isa or _core.default_isa()
    lowered = os.environ.get("PYENGINE_ISA")
    every = _core.instruction_sets(isa if lowered else None)
    better = list(every)[list(every).index(isa) + 1 :]
    why = {name: f"PYENGINE_ISA asks for {isa}" if lowered else every[name] for name in better}
    return {"isa": isa, "better_isas": why}


def _core_sessions(
    config: ModelConfig, tensors: dict[str, np.ndarray], kv: str, most: int, cache_bytes: int | None
) -> tuple[Callable[[int], Opened], str]:
    """What makes a session of so many threads, and the kernels' instruction set. Sessions with the same number of
    threads wait for each other, so that no more than `most` threads of theirs are at work.

    It and `isa_in_use` are the places that know the C core; it is imported there, so that converting needs none.
    """
    from pyengine import _core

    model = _core.Model(config, tensors, kv=kv)
    longest = 0 if config.encoder is None else config.encoder.max_positions
    crews: dict[int, _core.Crews] = {}
    # A runtime of OpenMP may have bound this thread to one CPU; those that it starts are not to share it.
    cpus = () if this_threads_cpus() == started_cpus() else started_cpus()

    def open_session(threads: int) -> Opened:
        return _core.Session(
            model,
            crews.get(threads) or crews.setdefault(threads, _core.Crews(threads, max(1, most // threads), cpus)),
            max_rows=max(STEP_ROWS, longest),  # a sentence is encoded in one piece
            max_sequences=2 * STEP_ROWS,  # children of beams live beside their parents for a moment
            max_memories=STEP_ROWS,
            cache_bytes=cache_bytes or 0,
        )

    return open_session, model.isa
