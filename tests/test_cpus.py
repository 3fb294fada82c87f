"""CPUs by affinity mask and cgroup quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyengine.cpus import usable_cpus


def cgroup(root: Path, membership: str, **files: str) -> int:
    (root / "membership").write_text(membership)
    for name, text in files.items():
        path = root / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cpus(root / "cgroup", root / "membership")


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def test_no_quota(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "none") == 8
    assert cgroup(tmp_path, "0::/a\n", a__cpu_dot_max="max 100000\n") == 8


def test_quota_of_version_2_is_rounded_up(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/a/b\n", a__b__cpu_dot_max="250000 100000\n") == 3


def test_a_parent_may_allow_less(tmp_path: Path) -> None:
    assert (
        cgroup(tmp_path, "0::/a/b\n", a__b__cpu_dot_max="max 100000\n", a__cpu_dot_max="50000 100000\n") == 1
    )


def test_in_a_container_only_the_root_is_seen(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/docker/f00\n", cpu_dot_max="200000 100000\n") == 2


def test_quota_of_version_1(tmp_path: Path) -> None:
    membership = "4:memory:/x\n3:cpu,cpuacct:/x\n"
    quota = {"cpu__x__cpu_dot_cfs_quota_us": "400000\n", "cpu__x__cpu_dot_cfs_period_us": "100000\n"}
    assert cgroup(tmp_path, membership, **quota) == 4
    quota["cpu__x__cpu_dot_cfs_quota_us"] = "-1\n"
    assert cgroup(tmp_path, membership, **quota) == 8


def test_more_quota_than_cpus(tmp_path: Path) -> None:
    assert cgroup(tmp_path, "0::/a\n", a__cpu_dot_max="9900000 100000\n") == 8
