"""How many CPUs this process may use: the affinity mask, capped by the cgroup's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cpus"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs in the affinity mask, or fewer where a cgroup (version 1 or 2) allows less time; at least 1.

    A quota of 2.5 CPUs counts as 3: a thread that has to wait for its share costs less than an idle share.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota(cgroups, membership)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cgroup_quota(cgroups: Path, membership: Path) -> float | None:
    """The smallest quota of this process's cgroups and their parents, in CPUs; None without one."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
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
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def _quota_v1(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
