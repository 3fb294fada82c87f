"""setup.py: what a build compiles again, what it never uses again, and what it says where it cannot build.

Each test builds a tiny core with the project's own setup.py, in a tree of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREE = {
    "csrc/base/answer.h": "#define ANSWER 42\nint pe_answer(void);\nint pe_threads(void);\n",
    "csrc/base/answer.c": '#include "base/answer.h"\nint pe_answer(void) { return ANSWER; }\n',
    "csrc/base/team.c": (
        '#include "base/answer.h"\n#include <pthread.h>\n'
        "static void *two(void *n) {\n    *(int *)n = 2;\n    return 0;\n}\n"
        "int pe_threads(void) {\n    pthread_t other;\n    int n = 1;\n"
        "    if (pthread_create(&other, 0, two, &n) == 0) pthread_join(other, 0);\n    return n;\n}\n"
    ),
    "pyengine/__init__.py": "",
    "pyengine/version.py": '__version__ = "1.2.3"\n',
    "pyengine/_core.pyx": (
        'cdef extern from "base/answer.h":\n    int pe_answer()\n    int pe_threads()\n'
        "def answer():\n    return pe_answer(), pe_threads()\n"
    ),
    "quantize/__init__.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in TREE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def build(
    tree: Path, command: tuple[str, ...] = ("build_ext", "--inplace"), **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command of ``setup.py`` with nothing of this process' own build settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYENGINE_", "CFLAGS"))}
    return subprocess.run(
        [sys.executable, "setup.py", *command],
        cwd=tree,
        env=ours | variables,
        capture_output=True,
        text=True,
    )


def compiled(tree: Path, **variables: str) -> list[str]:
    """The files that a build compiled, in order of name."""
    done = build(tree, **variables)
    assert done.returncode == 0, done.stderr
    return sorted(line.split()[1] for line in done.stdout.splitlines() if line.startswith("compiling "))


def answer(tree: Path) -> str:
    program = "import pyengine._core as core; print(*core.answer())"
    return subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True).stdout.strip()


ALL = ["csrc/base/answer.c", "csrc/base/team.c", "pyengine/_core.pyx"]


def test_a_build_compiles_what_changed_and_nothing_else(tree: Path) -> None:
    assert compiled(tree) == ALL
    assert compiled(tree) == []
    source = tree / "csrc/base/team.c"
    source.write_text(source.read_text(encoding="utf-8") + "static const int unused;\n", encoding="utf-8")
    assert compiled(tree) == ["csrc/base/team.c"]
    before = (tree / "csrc/base/answer.h").stat()
    (tree / "csrc/base/answer.h").write_text(TREE["csrc/base/answer.h"].replace("42", "43"), encoding="utf-8")
    os.utime(tree / "csrc/base/answer.h", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert compiled(tree) == ALL
    assert answer(tree).split()[0] == "43"


def test_other_flags_never_get_old_objects(tree: Path) -> None:
    compiled(tree)
    assert compiled(tree, CFLAGS="-DANYTHING") == ALL
    assert compiled(tree, PYENGINE_WERROR="1") == ALL[:2]
    table = (tree / "setup.py").read_text(encoding="utf-8")
    changed = table.replace('("csrc/*.c", None, "")', '("csrc/*.c", None, "-mtune=generic")')
    (tree / "setup.py").write_text(changed, encoding="utf-8")
    assert compiled(tree) == ALL[:2]


def test_a_build_forgets_modules_that_are_gone(tree: Path) -> None:
    (tree / "pyengine" / "old.py").write_text("", encoding="utf-8")
    assert build(tree, ("build",)).returncode == 0
    assert [path.name for path in tree.glob("build/lib*/pyengine/*.py")].count("old.py") == 1
    (tree / "pyengine" / "old.py").unlink()
    assert build(tree, ("build",)).returncode == 0
    assert not list(tree.glob("build/lib*/pyengine/old.py"))
    assert list(tree.glob("build/lib*/pyengine/quantize/__init__.py"))


def test_an_sdist_runs_where_it_is_unpacked(tree: Path) -> None:
    assert build(tree, ("sdist",)).returncode == 0
    with tarfile.open(next(tree.glob("dist/*.tar.gz"))) as packed:
        links = {member.name.partition("/")[2]: member.linkname for member in packed if member.issym()}
    assert links == {"pyengine/quantize": "../quantize"}


def test_a_build_serves_the_source_tree_too(tree: Path) -> None:
    assert build(tree, ("build",)).returncode == 0
    assert answer(tree) == "42 2"  # Python in the root of a checkout finds ./pyengine first
    for path in tree.glob("pyengine/_core.*.so"):
        path.unlink()
    assert build(tree, ("build",), PYENGINE_SANITIZE="undefined").returncode == 0
    assert not list(tree.glob("pyengine/_core.*.so"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's")
def test_an_assembler_that_knows_no_tiles_leaves_them_out(tree: Path) -> None:
    kernel = tree / "csrc/kernels/x86/one_amx.c"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("#ifndef PE_AMX\n#error it would not be called\n#endif\nint pe_tiles;\n", encoding="utf-8")
    wrapper = tree / "cc"
    refuse = 'for f; do case "$f" in *.c) grep -q tdpbusd "$f" && exit 1;; esac; done'
    wrapper.write_text(f'#!/bin/sh\n{refuse}\nexec cc "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    assert compiled(tree, CC=str(wrapper)) == ALL
    assert "csrc/kernels/x86/one_amx.c" in compiled(tree)  # the compilers of this test know them


SENSITIVE = """
#include <math.h>
double sum(const double *x, int n) { double s = 0; for (int i = 0; i < n; i++) s += x[i]; return s; }
double scaled(double x, double y) { return x / y + x / 3.0 + (0.0 - x); }
int is_number(double x) { return x == x && !isinf(x); }
float root(float x) { return 1.0f / sqrtf(x) + x * 0.1f + x; }
"""
READS_SUBNORMAL = "import pyengine._core, sys; print(sys.float_info.min * float('0.5') > 0)"


def test_flags_that_ask_for_inexact_arithmetic_change_nothing(tree: Path) -> None:
    (tree / "csrc/base/sensitive.c").write_text(SENSITIVE, encoding="utf-8")
    compiled(tree)
    [plain] = tree.glob("build/cache/sensitive-*.o")
    before = plain.read_bytes()
    plain.unlink()
    x87 = " -mfpmath=387" if platform.machine() == "x86_64" else ""
    compiled(tree, CFLAGS="-ffast-math -frounding-math -ffp-contract=fast" + x87, LDFLAGS="-ffast-math -Ofast")
    [flagged] = tree.glob("build/cache/sensitive-*.o")
    assert flagged != plain
    assert flagged.read_bytes() == before
    command = [sys.executable, "-c", READS_SUBNORMAL]
    assert subprocess.run(command, cwd=tree, capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("compiler", "complaint"),
    [("/bin/false", "cannot compile a C11 program"), ("no-such-cc", "'no-such-cc' (from CC) was not found")],
)
def test_without_a_compiler_the_message_says_what_to_install(tree: Path, compiler: str, complaint: str) -> None:
    done = build(tree, CC=compiler)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "apt-get install gcc python3-dev" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_headers_of_python_the_message_names_them(tree: Path) -> None:
    wrapper = tree / "cc"
    refuse = 'case "$*" in *-I*) echo "Python.h: No such file" >&2; exit 1;; esac'
    wrapper.write_text(f'#!/bin/sh\n{refuse}\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    done = build(tree, CC=str(wrapper))
    assert done.returncode != 0
    assert "does not find this Python's header, Python.h" in done.stderr
    assert "python3-dev" in done.stderr
