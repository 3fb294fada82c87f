"""CPUs by affinity mask and cgroup quota, and what OpenMP runtimes do to the mask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyengine.cpus import usable_cpus


BINDING = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_CPU_AFFINITY": "0-1", "KMP_AFFINITY": "compact"}

several_cpus = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"
)


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
    for name in BINDING:
        monkeypatch.delenv(name, raising=False)


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


@pytest.mark.parametrize("text", ["", "max", "0 100000", "100000 0", "-1 100000", "1e5 100000", "many few", "1 2 3"])
def test_a_quota_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    assert cgroup(tmp_path, "no cgroup\n0::/a\n", a__cpu_dot_max=text) == 8
    quota = {"cpu__x__cpu_dot_cfs_quota_us": text, "cpu__x__cpu_dot_cfs_period_us": "period"}
    assert cgroup(tmp_path, "3:cpu:/x\n", **quota) == 8


def found_by(program: str, **variables: str) -> object:
    """What a program of its own process prints, with these variables and no others that bind threads."""
    others = {name: value for name, value in os.environ.items() if name not in BINDING}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=others | variables, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


TOKENIZER = """
import json, os, sys, threading
started = os.sched_getaffinity(0)
from pyengine.cpus import started_cpus
from pyengine.text import open_tokenizer
open_tokenizer({path!r}, "sentencepiece")
masks = []
thread = threading.Thread(target=lambda: masks.append(os.sched_getaffinity(0)))
thread.start()
thread.join()
print(json.dumps([os.sched_getaffinity(0) == started, masks == [started], started_cpus() == tuple(sorted(started))]))
"""


@several_cpus
@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "GOMP_CPU_AFFINITY"])
def test_the_mask_outlives_the_runtime_of_the_tokenizer(name: str, int8_directory: Path) -> None:
    found = found_by(TOKENIZER.format(path=str(int8_directory)), **{name: BINDING[name]})
    assert found == [True, True, True]


@several_cpus
def test_the_settings_name_the_cpus_of_the_start(int8_directory: Path) -> None:
    program = f"""if True:
        import json, os
        started = sorted(os.sched_getaffinity(0))
        import pyengine
        info = pyengine.load({str(int8_directory)!r}).info()
        print(json.dumps([info["cpus"] == started, info["threads"] == pyengine.cpus.usable_cpus()]))
    """
    assert found_by(program, OMP_PROC_BIND="true") == [True, True]


BOUND = """
import json, os, threading
cpus = sorted(os.sched_getaffinity(0))
if {others}:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
os.sched_setaffinity(0, cpus[:1])
from pyengine.cpus import started_cpus
print(json.dumps([len(cpus), len(started_cpus())]))
"""


@several_cpus
def test_a_mask_that_the_process_gave_itself_counts() -> None:
    every, found = found_by(BOUND.format(others=True))
    assert found == 1 < every


@several_cpus
def test_a_runtime_that_came_first_is_seen_through_by_the_masks_of_other_threads() -> None:
    every, found = found_by(BOUND.format(others=True), OMP_PROC_BIND="close")
    assert found == every
    every, found = found_by(BOUND.format(others=False), OMP_PROC_BIND="false")
    assert found == 1


TEAM = """
import json, os, threading
cpus = sorted(os.sched_getaffinity(0))
threading.Thread(target=threading.Event().wait, daemon=True).start()
os.sched_setaffinity(0, cpus[:1])
import pyengine
known = set(os.listdir("/proc/self/task"))
with pyengine.load({path!r}, threads=2) as translator:
    translator.translate("Ein Mann.")
    team = [sorted(os.sched_getaffinity(int(task))) for task in set(os.listdir("/proc/self/task")) - known]
print(json.dumps([cpus, team]))
"""


@several_cpus
def test_the_threads_of_a_step_are_not_bound_with_the_one_that_calls(int8_directory: Path) -> None:
    every, team = found_by(TEAM.format(path=str(int8_directory)), OMP_PROC_BIND="close")
    assert team == [every]
    every, team = found_by(TEAM.format(path=str(int8_directory)))  # without a reason to doubt it, the mask counts
    assert team == [every[:1]]
