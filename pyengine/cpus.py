"""How many CPUs this process may use, and which: the affinity mask, capped by the cgroup's quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["affinity_kept", "started_cpus", "this_threads_cpus", "usable_cpus"]

_CGROUPS = Path("/sys/fs/cgroup")

# With one of these set, an OpenMP runtime binds the thread that loads it to a CPU, and its own threads to others.
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def started_cpus() -> tuple[int, ...]:
    """The CPUs that this process was started with, ascending.

    That is the mask of the calling thread, as whoever started the process, or the process itself, has set it. Where an
    environment variable has OpenMP runtimes bind threads, masks say nothing any more: then it is what all threads of
    the process had together when pyengine was imported. A runtime that was loaded before, in a process of a single
    thread, had left but one CPU.
    """
    bound = any(os.environ.get(name, "").lower() not in ("", "false") for name in _BINDING)
    return tuple(sorted(_AT_IMPORT)) if bound and _AT_IMPORT else this_threads_cpus()


def this_threads_cpus() -> tuple[int, ...]:
    """The CPUs that the calling thread may run on now, ascending."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    return tuple(sorted(os.sched_getaffinity(0)))


@contextmanager
def affinity_kept() -> Iterator[None]:
    """Around an import that may load an OpenMP runtime: this thread keeps its mask, and gives it to those it starts."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        yield
    finally:
        if os.sched_getaffinity(0) != before:
            os.sched_setaffinity(0, before)


def usable_cpus(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """The number of `started_cpus`, or fewer where a cgroup (version 1 or 2) allows less time; at least 1.

    A quota of 2.5 CPUs counts as 3: a thread that has to wait for its share costs less than an idle share.
    """
    cpus = len(started_cpus())
    quota = _cgroup_quota(cgroups, membership)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cpus_of_threads() -> set[int]:
    """The masks of all threads of this process together."""
    if not hasattr(os, "sched_getaffinity"):
        return set()
    cpus = set(os.sched_getaffinity(0))
    try:
        for thread in os.listdir("/proc/self/task"):
            cpus |= os.sched_getaffinity(int(thread))
    except OSError:  # no /proc, or a thread that has ended
        pass
    return cpus


_AT_IMPORT = _cpus_of_threads()


def _cgroup_quota(cgroups: Path, membership: Path) -> float | None:
    """The smallest quota of this process's cgroups and their parents, in CPUs; None without one."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, read = cgroups, _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = cgroups / "cpu", _quota_v1
        else:
            continue
        folder = root / path.lstrip("/")
        # Inside a container the path may be the host's, which is not visible: then only the root is.
        for place in [folder, *folder.parents]:
            quotas.append(read(place))
            if place == root:
                break
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    if len(words) != 2 or not all(map(_is_time, words)):  # "max": no quota
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if not quota or not period or not _is_time(quota[0]) or not _is_time(period[0]):  # -1: no quota
        return None
    return int(quota[0]) / int(period[0])


def _is_time(word: str) -> bool:
    """Whether it is a number of microseconds, and more than none."""
    return word.isdecimal() and int(word) > 0


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
