"""The build of ``pyengine._core``: one extension from ``pyengine/_core.pyx`` and every C file of ``csrc/``.

Each object is kept in ``build/cache`` under the hash of all that made it (its source, every header, the
flags, the compiler): a rebuild compiles what changed, and an object made otherwise is never used again.

Environment: ``CC``, ``CFLAGS``, ``LDFLAGS`` as usual (the project's own flags come after them, so that ``-ffast-math``
and its like change no result; ``-march`` changes none either, but the build may need that machine), and

    PYENGINE_WERROR=1                      warnings are errors
    PYENGINE_SANITIZE=address,undefined    an instrumented build, with assertions, -O1 -g
    PYENGINE_DEBUG_CYTHON=1                bounds checks in the Cython layer
"""

from __future__ import annotations

import atexit
import fnmatch
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, LinkError

ROOT = Path(__file__).resolve().parent
PYX = "pyengine/_core.pyx"
WRITABLE = os.access(ROOT, os.W_OK)
BUILD = ROOT / "build" if WRITABLE else Path(tempfile.mkdtemp(prefix="pyengine-build-"))
CACHE = BUILD / "cache"
CACHE_DAYS = 14  # an object that no build asked for in so many days is deleted

X86, ARM = "x86_64", "aarch64"

AVX512VNNI = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma"
# The one table of ISA flags. The first pattern that matches decides; a file of another machine is left out.
ISA_FLAGS: tuple[tuple[str, str | None, str], ...] = (
    ("csrc/kernels/x86/*_avx2.c", X86, "-mavx2 -mfma -mf16c"),
    ("csrc/kernels/x86/*_avx512vnni.c", X86, AVX512VNNI),
    ("csrc/kernels/x86/*_amx.c", X86, AVX512VNNI),  # its instructions need an assembler, and no compiler
    ("csrc/kernels/x86/*.c", X86, ""),
    ("csrc/kernels/arm/*.c", ARM, ""),
    ("csrc/*.c", None, ""),  # fnmatch's * crosses directories
)

LANGUAGE_FLAGS = "-std=c11 -pthread -fPIC -fvisibility=hidden"
# The bytes of results depend on exact arithmetic: what CC or CFLAGS say about it is undone.
NUMERIC_FLAGS = "-fno-fast-math -fno-rounding-math -ffp-contract=off -fno-math-errno"
NUMERIC_FLAGS_OF_SOME = ("-fno-single-precision-constant", "-mfpmath=sse")  # gcc; x86
# With -ffast-math or -Ofast a linker adds code that flushes subnormal numbers to zero in the whole process.
NUMERIC_LINK_FLAGS = "-fno-fast-math -fno-unsafe-math-optimizations -O2"
# Functions begin on a cache line: else what the linker puts before a kernel says how its loops lie, 4 % of a product.
FAST_FLAGS = "-O3 -DNDEBUG -falign-functions=64"
WARNING_FLAGS = "-Wall -Wextra"
HARDENED_LINK = ("-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now")

CYTHON_DIRECTIVES = {"language_level": 3, "embedsignature": True}
CYTHON_CHECKS = ("boundscheck", "wraparound", "initializedcheck")

C11_PROBE = """
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
_Static_assert(sizeof(int32_t) == 4, "C11");
int probe(void) { return _Generic(1.0f, float: 0, default: 1) + (int)strlen("") + abs((int)sqrt(0.0)); }
"""
AMX_PROBE = """
void probe(const void *from) {
    __asm__ volatile("ldtilecfg (%0); tileloaddt1 (%0,%0,1), %%tmm1; tdpbusd %%tmm2, %%tmm1, %%tmm0" ::"r"(from));
}
"""
PYTHON_PROBE = "#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n"

HOW_TO_INSTALL = """
  Debian, Ubuntu:  apt-get install gcc python3-dev
  Fedora, RHEL:    dnf install gcc python3-devel
  Alpine:          apk add gcc musl-dev python3-dev
  Arch:            pacman -S gcc python
The environment variable CC names another compiler (gcc or clang)."""


def isa_flags(path: str, machine: str) -> list[str] | None:
    """The ISA flags of a C file on ``machine``; None where the file is not compiled at all."""
    for pattern, only, flags in ISA_FLAGS:
        if fnmatch.fnmatchcase(path, pattern):
            return None if only not in (None, machine) else flags.split()
    return None


def switched(name: str, default: str) -> bool:
    """Whether an environment switch is on; 0, false, no, off and empty are off."""
    return os.environ.get(name, default).strip().lower() not in ("", "0", "false", "no", "off")


def digest(*parts: object) -> str:
    """A hash of the parts in order; each is written with its length, so that no two lists collide."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        sha.update(b"%d:" % len(data) + data)
    return sha.hexdigest()[:32]


def compiler_command() -> list[str]:
    """CC if set, else the compiler that built this Python, else the first usual name on the path."""
    asked = shlex.split(os.environ.get("CC", ""))
    usual = [shlex.split(sysconfig.get_config_var("CC") or ""), ["cc"], ["gcc"], ["clang"]]
    for command in [asked] if asked else usual:
        if command and shutil.which(command[0]):
            return command
    wanted = f"the C compiler {asked[0]!r} (from CC) was not found" if asked else "no C compiler was found"
    raise CompileError(f"pyengine needs a C11 compiler, and {wanted}. Install one:{HOW_TO_INSTALL}")


class Toolchain:
    """One compiler with the flags that this build uses; everything that it makes lies in the cache."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.cc = compiler_command()
        self.identity = self._output("--version")
        self.sanitize = os.environ.get("PYENGINE_SANITIZE", "").replace(" ", "")
        self.user_cflags = shlex.split(os.environ.get("CPPFLAGS", "") + " " + os.environ.get("CFLAGS", ""))
        self.user_ldflags = shlex.split(os.environ.get("LDFLAGS", ""))
        headers = dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))
        self.python_includes = [f"-I{path}" for path in headers]
        self._require(C11_PROBE, [], "cannot compile a C11 program with the C library's headers")
        self._require(PYTHON_PROBE, self.python_includes, "does not find this Python's header, Python.h")
        machine = self._output("-dumpmachine").split("-")[0]
        self.machine = {"amd64": X86, "arm64": ARM}.get(machine, machine)
        self.amx = self.machine == X86 and self._try(AMX_PROBE, []) is None
        some = [flag for flag in NUMERIC_FLAGS_OF_SOME if self._try("", [flag, "-Werror"]) is None]
        self.numeric_flags = [*NUMERIC_FLAGS.split(), *some]
        self.link_flags = [flag for flag in HARDENED_LINK if self._try("", [flag], link=True) is None]
        if self.sanitize:
            self.link_flags.append(f"-fsanitize={self.sanitize}")

    def common_flags(self) -> list[str]:
        flags = [*self.user_cflags, *LANGUAGE_FLAGS.split(), *self.numeric_flags, "-Icsrc"]
        if self.amx:
            flags.append("-DPE_AMX")
        if self.sanitize:
            flags += [f"-fsanitize={self.sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
            flags += ["-O1", "-g"]
        else:
            flags += FAST_FLAGS.split()
        return flags

    def warning_flags(self) -> list[str]:
        flags = WARNING_FLAGS.split()
        return flags + (["-Werror"] if switched("PYENGINE_WERROR", "0") else [])

    def compile(self, source: Path, name: str, flags: list[str], headers: str) -> Path:
        """The object of ``source``, ``name`` in messages; ``headers`` hashes all that it may include."""
        key = digest(self.cc, self.identity, flags, headers, name, source.read_bytes())
        target = self.cache / f"{source.stem.split('-')[0]}-{key}.o"
        if not self._cached(target):
            isa = [flag for flag in flags if flag.startswith("-m") and flag not in self.numeric_flags]
            sys.stdout.write(" ".join(["compiling", name, *isa]) + "\n")
            self._make(target, [*self.cc, *flags, "-c", str(source)], CompileError)
        return target

    def link(self, objects: list[Path], name: str) -> Path:
        command = [*self.cc, "-shared", *map(str, objects)]
        flags = [*self.user_ldflags, *NUMERIC_LINK_FLAGS.split(), *self.link_flags, "-pthread", "-lm"]
        target = self.cache / f"{name}-{digest(self.identity, command, flags)}.so"
        if not self._cached(target):
            print(f"linking {name}", flush=True)
            self._make(target, [*command, *flags], LinkError)
        return target

    def _cached(self, target: Path) -> bool:
        if not target.exists():
            return False
        os.utime(target)
        return True

    def _make(self, target: Path, command: list[str], error: type[Exception]) -> None:
        """Run ``command -o target`` in the root, so that ``__FILE__`` is relative; no partial target."""
        partial = target.with_name(f"{os.getpid()}-{target.name}")
        done = subprocess.run([*command, "-o", str(partial)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise error(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
        print(done.stderr, end="", file=sys.stderr, flush=True)
        os.replace(partial, target)

    def _output(self, option: str) -> str:
        return subprocess.run([*self.cc, option], capture_output=True, text=True).stdout.strip()

    def _try(self, program: str, flags: list[str], link: bool = False) -> str | None:
        """Compile (and link) a small program; what the compiler said if it failed, else None."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program)
            mode = ["-shared"] if link else ["-c"]
            command = [*self.cc, *LANGUAGE_FLAGS.split(), *flags, *mode, str(source), "-o", f"{folder}/probe"]
            done = subprocess.run(command, capture_output=True, text=True)
        return None if done.returncode == 0 else (done.stdout + done.stderr).strip() or "it said nothing"

    def _require(self, program: str, flags: list[str], complaint: str) -> None:
        said = self._try(program, flags)
        if said is not None:
            lines = "\n".join(f"    {line}" for line in said.splitlines()[:6])
            what = f"the C compiler {shlex.join(self.cc)!r} {complaint}"
            raise CompileError(f"{what}:\n{lines}\nInstall what is missing:{HOW_TO_INSTALL}")


def c_sources() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.c"))


def hash_files(*patterns: str) -> str:
    """One hash of the names and the bytes of all files that match."""
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return digest(*(part for path in paths for part in (path.relative_to(ROOT), path.read_bytes())))


def translate_pyx(cache: Path) -> Path:
    """The C file of the Cython module."""
    import Cython
    from Cython.Build import cythonize

    checks = switched("PYENGINE_DEBUG_CYTHON", "0")
    directives = CYTHON_DIRECTIVES | {name: checks for name in CYTHON_CHECKS}
    inputs = hash_files("pyengine/*.pyx", "pyengine/*.pxi", "pyengine/*.pxd")
    target = cache / f"_core-{digest(Cython.__version__, directives, inputs)}.c"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            extension = Extension("pyengine._core", [PYX])
            done = cythonize([extension], build_dir=folder, compiler_directives=directives, force=True)
            os.replace(done[0].sources[0], target)
    os.utime(target)
    return target


class BuildPackage(build_py):
    """Starts from nothing: a module that is gone from the source must not come out of an earlier build."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "pyengine", ignore_errors=True)
        super().run()


class PackSources(sdist):
    """With the link that lets a checkout run where it stands, which no list of files can hold."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        os.symlink("../quantize", Path(base_dir, "pyengine", "quantize"))


class BuildCore(build_ext):
    """Replaces the compiling and linking of setuptools by the cached, per-file, parallel one."""

    def build_extension(self, ext: Extension) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        tools = Toolchain(CACHE)
        headers = hash_files("csrc/**/*.h")
        common = tools.common_flags()
        jobs: list[tuple[Path, str, list[str], str]] = []
        for name in c_sources():
            isa = isa_flags(name, tools.machine)
            if isa is not None and (tools.amx or not name.endswith("_amx.c")):
                jobs.append((Path(name), name, [*common, *tools.warning_flags(), *isa], headers))
        # Generated code is compiled without warnings: they would not be ours to mend.
        generated = translate_pyx(CACHE)
        jobs.append((generated, PYX, [*common, *tools.python_includes], digest(headers, sys.version)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: tools.compile(*job), jobs))
        built = tools.link(objects, "_core")
        place(built, Path(self.get_ext_fullpath(ext.name)))
        if not (self.inplace or tools.sanitize):
            self._copy_beside_source(ext, built)
        prune(CACHE)

    def _copy_beside_source(self, ext: Extension, built: Path) -> None:
        """Python started in the root of a checkout finds ``./pyengine`` first: give that the same core."""
        target = ROOT / "pyengine" / Path(self.get_ext_filename(ext.name)).name
        try:
            place(built, target)
        except OSError as error:
            print(f"pyengine: {target.name} was not copied into the source tree: {error}", flush=True)

    def get_source_files(self) -> list[str]:
        return [PYX, *c_sources()]


def place(built: Path, target: Path) -> None:
    """Copy to a new name and rename: a process that has the old file mapped keeps the old one."""
    target = ROOT / target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{os.getpid()}-{target.name}")
    shutil.copyfile(built, partial)
    os.replace(partial, target)


def prune(cache: Path) -> None:
    oldest = time.time() - CACHE_DAYS * 86400
    for path in cache.iterdir():
        if path.is_file() and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


def read_only_options() -> dict[str, dict[str, str]]:
    """A tree that cannot be written is built in a temporary folder, which goes when the build ends."""
    if WRITABLE:
        return {}
    atexit.register(shutil.rmtree, BUILD, ignore_errors=True)
    return {"build": {"build_base": str(BUILD)}, "egg_info": {"egg_base": str(BUILD)}}


setup(
    # quantize/ stands beside pyengine/, which never imports it, and installs as pyengine.quantize.
    packages=[
        *find_packages(include=["pyengine", "pyengine.*"], exclude=["pyengine.quantize*"]),
        "pyengine.quantize",
        *(f"pyengine.quantize.{name}" for name in find_packages("quantize")),
    ],
    package_dir={"pyengine.quantize": "quantize"},
    package_data={"pyengine": ["py.typed", "_core.pyi"]},
    ext_modules=[Extension("pyengine._core", [PYX])],
    cmdclass={"build_ext": BuildCore, "build_py": BuildPackage, "sdist": PackSources},
    options=read_only_options(),
)
