"""The checkers of tools/ find what is planted, and find nothing in a clean tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

CLEAN = {
    "csrc/base/status.h": "int pe_ok(void);\n",
    "csrc/base/hardware.h": "#include <cpuid.h>\n",
    "csrc/base/team.c": "void pe_run(void) {\n}\n",
    "csrc/kernels/kernels.h": '#include "base/status.h"\ntypedef int (*pe_kernel)(int n);\n',
    "csrc/kernels/ref/gemm_ref.c": '#include "kernels/kernels.h"\nvoid pe_gemm_f32_q8r_q8c__ref(int n) {}\n',
    "pyengine/errors.py": "class PyengineError(Exception):\n    pass\n",
    "pyengine/tasks/translator.py": "from pyengine.decoding import beam\nfrom ..errors import PyengineError\n",
    "pyengine/decoding/beam.py": "import numpy\n",
    "pyengine/_core.pyx": 'cdef extern from "base/status.h":\n    int pe_ok()\nfrom pyengine import errors\n',
}


def run(name: str, root: Path, files: dict[str, str]) -> tuple[int, str]:
    """Exit status and output of a checker over a tree made of CLEAN with ``files`` laid over it."""
    for path, text in (CLEAN | files).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    command = [sys.executable, str(TOOLS / f"check_{name}.py"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["layers", "names", "sizes", "text"])
def test_a_clean_tree_passes(name: str, tmp_path: Path) -> None:
    status, output = run(name, tmp_path, {})
    assert (status, output) == (0, f"{name}: 0 problems\n")


@pytest.mark.parametrize(
    ("name", "path", "text", "expected"),
    [
        ("layers", "csrc/base/up.c", '#include "kernels/kernels.h"\n', "up.c:1: csrc/base must not use"),
        ("layers", "csrc/kernels/x86/a.c", '#include "kernels/ref/ref.h"\n', "only csrc/kernels/ref/ includes"),
        ("layers", "csrc/gpu/a.c", "int pe_x;\n", "csrc/gpu is not in the table"),
        ("layers", "pyengine/decoding/up.py", "def f():\n    import pyengine.tasks.translator\n", "up.py:2"),
        ("layers", "pyengine/text/up.py", "from ..tasks import x\n", "text must not use tasks"),
        ("layers", "pyengine/text/up.py", "from pyengine import cli\n", "text must not use cli"),
        ("layers", "pyengine/text/up.py", "from pyengine import load\n", "text must not use pyengine"),
        ("layers", "pyengine/tasks/up.py", "from pyengine.quantize import main\n", "must not use quantize"),
        ("layers", "pyengine/tasks/up.py", "from tests import helpers\n", "tasks must not use tests"),
        ("layers", "pyengine/tasks/up.py", "import torch.nn\n", "tasks must not use torch"),
        ("layers", "quantize/up.py", "from pyengine.cli import main\n", "quantize must not use cli"),
        ("layers", "pyengine/_core.pyx", "from pyengine.tasks cimport x\n", "_core must not use tasks"),
        ("names", "csrc/base/a.c", "int helper(void) { return 0; }\n", "a.c:1: helper is global"),
        ("names", "csrc/base/a.c", "static int f(void);\n\nconst char *name(int x) {}\n", "a.c:3: name is"),
        ("names", "csrc/kernels/ref/a_ref.c", "void pe_gemm_f33_f32__ref(void) {}\n", "does not follow"),
        ("names", "csrc/kernels/ref/a_ref.c", "void pe_gemm_f32_f32__avx2(void) {}\n", "does not belong into"),
        ("names", "csrc/kernels/x86/a_avx512vnni.c", "void pe_gemm_f32__avx2(void) {}\n", "end in _avx2.c"),
        ("names", "csrc/kernels/x86/a_avx2.c", "#pragma omp simd\n", "a_avx2.c:1: OpenMP"),
        ("names", "pyengine/decoding/beam.py", "family = 'Marian'\n", "beam.py:1: Marian: a family is data"),
        ("names", "csrc/ops/a.c", "/* one\n   two */\n#include <cpuid.h>\n", "a.c:3: CPU detection"),
        ("names", "csrc/ops/a.c", "static void f(void) { abort(); }\n", "neither prints nor exits"),
        ("sizes", "pyengine/long.py", "x = 1\n" * 501, "long.py: 501 lines"),
        ("sizes", "docs/huge.bin", "x" * 1_500_001, "huge.bin: 1500001 bytes"),
        ("text", "pyengine/a.py", "x = 1 \n", "a.py:1: trailing space"),
        ("text", "pyengine/a.py", "if x:\n\ty()\n", "a.py:2: tab"),
        ("text", "pyengine/a.py", "x = 1", "does not end in one newline"),
        ("text", "README.md", "Look at /" + "tmp/models.\n", "README.md:1: path of one machine"),
        ("text", "docs/a.md", "`pip " + "install -U pyengine[report]`\n", "a.md:1: tells to install a stranger's"),
        ("text", "docs/a.md", "See [b](b.md#c) and [this](a.md).\n", "docs/a.md: dead link to b.md"),
        ("text", "pyengine/a.py", f"x = '{'y' * 120}'\n", "a.py:1: 126 characters"),
    ],
)
def test_a_planted_problem_is_found(name: str, path: str, text: str, expected: str, tmp_path: Path) -> None:
    status, output = run(name, tmp_path, {path: text})
    assert status == 1
    assert expected in output
    assert output.endswith(f"{name}: 1 problems\n")


def test_a_macro_can_make_functions_static(tmp_path: Path) -> None:
    inline = "#define ALWAYS_INLINE static inline\nALWAYS_INLINE int helper(void) { return 0; }\n"
    assert run("names", tmp_path, {"csrc/ops/a.c": inline})[0] == 0


@pytest.mark.skipif(shutil.which("git") is None, reason="reads commits with git")
@pytest.mark.parametrize(
    ("subject", "problems"),
    [("build: compile it", 0), ("compile it", 1), ("build: compile it.", 1), ("build: " + "x" * 66, 1)],
)
def test_commit_subjects(subject: str, problems: int, tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], check=True)
    assert run("text", tmp_path, {})[1].endswith(f"text: {problems} problems\n")
