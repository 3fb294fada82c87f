"""Names in the C core: kernels follow the grammar of csrc/kernels/kernels.h, global symbols begin with ``pe_``,
OpenMP stands nowhere, CPUID in one place, and no name of a model family outside importers/.

With ``--extension`` the built module is checked too: it exports ``PyInit__core`` and nothing else, and asks for
no executable stack.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

from tree import ROOT, project_files, report

ISAS = {
    "csrc/kernels/ref/": ("ref",),
    "csrc/kernels/x86/": ("avx2", "avxvnni", "avx512vnni", "amx"),
    "csrc/kernels/arm/": ("neon", "dotprod", "i8mm"),
}
TYPES = r"(?:f32|bf16|f16|s32|q8|q8r|q8c|q8s|q4g)p?"
KERNEL = re.compile(rf"pe_[a-z]+(?:_[a-z]+)*?(?:_{TYPES}){{1,3}}(?:_\d+x\d+(?:x\d+)?)?__(?P<isa>[a-z0-9]+)")
LONGEST = 48

# "#define ALWAYS_INLINE static inline ...": a word that makes a function static.
STATIC_MACRO = re.compile(r"^\s*#\s*define\s+(\w+)\s+static\b", re.MULTILINE)
# A function that is defined or declared at the start of a line: type words and stars, a name, a parenthesis.
FUNCTION = re.compile(r"^(?P<type>[A-Za-z_][\w ]*[\w*][ *]+)(?P<name>[A-Za-z_]\w*)\s*\(", re.MULTILINE)
CPUID = re.compile(r"\bcpuid\.h\b|\b__get_cpuid|\bxgetbv\b|__builtin_cpu_supports|\bgetauxval\b")
OPENMP = re.compile(r"^\s*#\s*pragma\s+omp\b|<omp\.h>|\bomp_[a-z]+_[a-z_]+\s*\(", re.MULTILINE)
PRINTS = re.compile(r"\b(?:printf|fprintf|puts|abort|exit|_exit)\s*\(")
# A family is data: its name stands in importers/ (and in tests and documents), nowhere else.
FAMILIES = re.compile(
    r"(?i:marian|opus-mt|llama(?!\.cpp)|gemma|qwen|mistral|smollm|pegasus|nllb)"
    r"|(?i:roberta(?!processing)|distilbert|modernbert|electra)"
    r"|\b(?i:gpt2?|gpt-2|neox|bert|bart|mbart|t5|mt5|m2m(?:100)?|phi[34]|bloom)\b"
)
CODE = (".py", ".pyx", ".pxi", ".pxd", ".c", ".h")
BANS = (
    (OPENMP, "OpenMP: threads are a crew's, csrc/base/crew.h", ()),
    (CPUID, "CPU detection stands in csrc/base/hardware.h only", ("csrc/base/hardware.h",)),
    (PRINTS, "the core neither prints nor exits: it returns a pe_status", ()),
)


def without_comments(text: str) -> str:
    """The text with comments blanked; line numbers stay."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def kernel_problem(path: str, name: str) -> str | None:
    """What is wrong with the name of a global function that has an ISA suffix."""
    match = KERNEL.fullmatch(name)
    if not match:
        return "does not follow pe_<op>_<result>_<left>_<right>__<isa>"
    if len(name) > LONGEST:
        return f"is longer than {LONGEST} characters"
    isas = next((isas for folder, isas in ISAS.items() if path.startswith(folder)), None)
    if isas is None or match["isa"] not in isas:
        return f"does not belong into {path.rsplit('/', 1)[0]}"
    stem = Path(path).stem
    if path.endswith(".c") and not stem.endswith("_" + match["isa"]):
        return f"does not belong into a file that does not end in _{match['isa']}.c"
    return None


def family_names(root: Path, files: list[str]) -> list[str]:
    code = [
        path for path in files
        if path.startswith(("csrc/", "pyengine/", "quantize/", "tools/")) and path.endswith(CODE)
        and not path.startswith("pyengine/importers/") and path != "tools/check_names.py"
    ]  # fmt: skip
    texts = {path: (root / path).read_text(encoding="utf-8") for path in code}
    return [
        f"{path}:{line_of(text, match.start())}: {match.group()}: a family is data, of importers/"
        for path, text in texts.items() for match in FAMILIES.finditer(text)
    ]  # fmt: skip


def check_sources(root: Path, files: list[str]) -> list[str]:
    problems = []
    core = [path for path in files if path.startswith("csrc/") and path.endswith((".c", ".h"))]
    texts = {path: without_comments((root / path).read_text(encoding="utf-8")) for path in core}
    local = {"static", *(name for text in texts.values() for name in STATIC_MACRO.findall(text))}
    for path, text in texts.items():
        for match in FUNCTION.finditer(text):
            words = match["type"].split()
            if local & set(words) or words[0] in ("return", "else", "typedef"):
                continue
            where = f"{path}:{line_of(text, match.start('name'))}: {match['name']}"
            if not match["name"].startswith("pe_"):
                problems.append(f"{where} is global and does not begin with pe_")
            elif "__" in match["name"] and (problem := kernel_problem(path, match["name"])):
                problems.append(f"{where} {problem}")
        for pattern, rule, places in BANS:
            if path not in places:
                problems += [f"{path}:{line_of(text, m.end())}: {rule}" for m in pattern.finditer(text)]
    return problems


def check_extension(path: Path) -> list[str]:
    """What ``nm`` and ``readelf`` say about the built module."""

    def output(*command: str) -> list[str]:
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    exported = {line.split()[-1] for line in output("nm", "-D", "--defined-only")}
    problems = [f"{path.name}: exports {name}" for name in sorted(exported - {"PyInit__core"})]
    if "PyInit__core" not in exported:
        problems.append(f"{path.name}: does not export PyInit__core")
    stack = [line for line in output("readelf", "-lW") if "GNU_STACK" in line]
    if not stack or "E" in stack[0].split()[-2]:
        problems.append(f"{path.name}: the stack is executable")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="the tree to check")
    parser.add_argument("--extension", type=Path, help="the built _core module")
    options = parser.parse_args()
    files = project_files(options.root)
    problems = check_sources(options.root, files) + family_names(options.root, files)
    if options.extension:
        problems += check_extension(options.extension)
    report("names", problems)


if __name__ == "__main__":
    main()
