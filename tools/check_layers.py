"""Imports and includes go down the floors of docs/architecture.md, never up and never across.

Reads the ``import``, ``cimport`` and ``#include`` lines of every source file. A room that is not in the table,
an arrow that the table does not allow, and a cycle in the table itself are problems.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tree import SOURCES, run_check

# Room -> the rooms that it may use besides itself. "*" is any.
ARROWS: dict[str, str] = {
    "csrc/base": "",
    "csrc/kernels": "csrc/base",
    "csrc/ops": "csrc/base csrc/kernels",
    "csrc/model": "csrc/base csrc/kernels csrc/ops",
    "csrc/search": "csrc/base csrc/model",
    "cpus": "",
    "printing": "",
    "console": "printing",
    "errors": "printing",
    "results": "errors",
    "version": "",
    "pages": "",
    "threads": "",
    "native": "errors",
    "formats": "cpus errors pages threads",
    "output": "errors formats",
    "command": "console errors output canonical",
    "foreign": "",
    "arguments": "errors formats foreign",
    "options": "errors arguments canonical",
    "canonical": "errors formats arguments",
    "checkpoints": "cpus errors formats canonical",
    "importers": "errors formats canonical checkpoints",
    "modelfile": "errors output formats canonical version",
    "text": "cpus errors native formats threads",
    "shortlist": "errors output formats",
    "plan": "",
    "decoding": "errors native options plan _core",
    "scheduling": "errors options threads plan decoding",
    "_core": "errors plan csrc/base csrc/kernels csrc/ops csrc/model csrc/search",
    "tasks": (
        "cpus errors formats arguments options output pages results threads plan canonical modelfile text shortlist "
        "_core scheduling decoding"
    ),
    "pyengine": "cpus errors options results version tasks",
    "cli": (
        "command console cpus errors formats canonical options output results version modelfile text tasks quantize "
        "pyengine"
    ),
    "quantize": (
        "command console cpus errors options output plan version formats canonical checkpoints importers modelfile "
        "text shortlist scheduling tasks"
    ),
    "tools": "canonical importers pyengine quantize cli",
    "examples": "pyengine quantize errors",
    "benchmarks": "*",
    "tests": "*",
}
# Only these may import a training framework.
FRAMEWORKS = {"torch", "transformers", "tensorflow"}
FRAMEWORK_ROOMS = {"tests", "benchmarks", "tools"}
# Instruction sets do not see each other.
KERNEL_ROOMS = ("csrc/kernels/ref/", "csrc/kernels/x86/", "csrc/kernels/arm/")

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"|^\s*cdef\s+extern\s+from\s+"([^"]+)"', re.MULTILINE)
CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?c?import\s+\(?\s*([\w.]+)", re.MULTILINE)


def room_of(path: str) -> str | None:
    """The room that a file stands in; None for files outside the house (setup.py)."""
    parts = path.split("/")
    if len(parts) == 1:
        return None
    if parts[0] == "csrc":
        return f"csrc/{parts[1]}"
    if parts[0] != "pyengine":
        return parts[0]
    if path.endswith((".pyx", ".pxi", ".pxd", ".pyi")):
        return "_core"
    return {"__init__.py": "pyengine", "__main__.py": "cli"}.get(parts[1], parts[1].removesuffix(".py"))


def room_of_module(module: str) -> str:
    """The room of an imported module; of one that is not ours, its first name."""
    parts = module.split(".")
    if parts[0] != "pyengine":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] in ARROWS else "pyengine"


def python_imports(path: str, text: str) -> list[tuple[int, str]]:
    """Line and full module name of each import; names imported from a package count as modules of it."""
    package = path.removesuffix(".py").split("/")[:-1]
    if package[0] == "quantize":
        package.insert(0, "pyengine")
    found = []
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def scanned(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """Line of each match, and its groups joined by dots."""
    return [
        (text.count("\n", 0, match.end()) + 1, ".".join(group for group in match.groups() if group))
        for match in pattern.finditer(text)
    ]


def uses(path: str, text: str) -> list[tuple[int, str, str]]:
    """Line, room and name of everything that a file uses."""
    found: list[tuple[int, str, str]] = []
    if not path.endswith((".py", ".pyi")):
        for line, header in scanned(INCLUDE, text):
            beside = f"{path.rsplit('/', 1)[0]}/{header}"
            found.append((line, room_of(f"csrc/{header}" if "/" in header else beside) or header, header))
    if path.endswith((".py", ".pyi")):
        found += [(line, room_of_module(module), module) for line, module in python_imports(path, text)]
    elif path.startswith("pyengine/"):
        found += [(line, room_of_module(module), module) for line, module in scanned(CIMPORT, text)]
    return found


def cycles() -> list[str]:
    """Rooms of the table that reach themselves."""
    reach = {room: set(below.split()) for room, below in ARROWS.items() if below != "*"}
    for middle in reach:
        for below in reach.values():
            if middle in below:
                below |= reach[middle]
    return [f"tools/check_layers.py: {room} reaches itself" for room, below in reach.items() if room in below]


def check(root: Path, files: list[str]) -> list[str]:
    problems = cycles()
    for path in files:
        room = room_of(path)
        if room is None or not path.endswith(SOURCES):
            continue
        if room not in ARROWS:
            problems.append(f"{path}: {room} is not in the table of tools/check_layers.py")
            continue
        allowed = {room, *ARROWS[room].split()}
        for line, used, name in uses(path, (root / path).read_text(encoding="utf-8")):
            if used in ARROWS and used not in allowed and "*" not in allowed:
                problems.append(f"{path}:{line}: {room} must not use {used} ({name})")
            if used in FRAMEWORKS and room not in FRAMEWORK_ROOMS:
                problems.append(f"{path}:{line}: {room} must not use {used}")
            inside = [kernels for kernels in KERNEL_ROOMS if f"csrc/{name}".startswith(kernels)]
            if inside and not path.startswith(inside[0]):
                problems.append(f"{path}:{line}: only {inside[0]} includes {name}")
    return problems


if __name__ == "__main__":
    run_check("layers", check)
