"""Text: no trailing spaces, no tabs, one final newline, no long lines, no path of one machine, no dead link between
documents, nothing that tells to install a stranger's package; and the subjects of commits read ``area: imperative``
in at most 72 characters without a period.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tree import SOURCES, run_check

TEXTS = (*SOURCES, ".md", ".toml", ".in", ".sh", ".gitignore", ".ci/run")
LONGEST_LINE = 120
LINE_RULES = (
    (re.compile(r"[ \t]+$"), "trailing space"),
    (re.compile(r"\t"), "tab"),
    (re.compile(r"(?<![\w.~-])/(?:work|root|home|tmp)/\w"), "path of one machine"),
    (re.compile(r"\r"), "carriage return"),
    # On the index that name is another project's; ours is DISTRIBUTION of pyengine/version.py.
    (re.compile(r"\bpip3? install\b[^`]*(?<![\w./-])pyengine(?![\w./-])"), "tells to install a stranger's package"),
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
SUBJECT = re.compile(r"[a-z][a-z0-9_./, -]*: \S.*[^.]")
LONGEST_SUBJECT = 72


def text_problems(path: str, text: str) -> list[str]:
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        problems += [f"{path}:{number}: {what}" for pattern, what in LINE_RULES if pattern.search(line)]
        if path.endswith(SOURCES) and len(line) > LONGEST_LINE:
            problems.append(f"{path}:{number}: {len(line)} characters, more than {LONGEST_LINE}")
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        problems.append(f"{path}: does not end in one newline")
    return problems


def link_problems(root: Path, path: str, text: str) -> list[str]:
    """Of a document: links to files that are not there."""
    links = [link for link in LINK.findall(text) if not (root / path).parent.joinpath(link).exists()]
    return [f"{path}: dead link to {link}" for link in links]


def commit_problems(root: Path) -> list[str]:
    """Of every commit but merges; none where there is no repository."""
    command = ["git", "-C", str(root), "log", "--no-merges", "--format=%h%x00%s%x00%b%x01"]
    log = subprocess.run(command, capture_output=True, text=True).stdout
    problems = []
    for commit in log.split("\x01")[:-1]:
        name, subject, _ = commit.strip("\n").split("\0")
        if len(subject) > LONGEST_SUBJECT or not SUBJECT.fullmatch(subject):
            rule = f"is not 'area: imperative' in {LONGEST_SUBJECT} characters"
            problems.append(f"commit {name}: {subject!r} {rule}")
    return problems


def check(root: Path, files: list[str]) -> list[str]:
    problems = commit_problems(root)
    for path in files:
        text = (root / path).read_bytes().decode("utf-8") if path.endswith(TEXTS) else ""
        problems += text_problems(path, text)
        if path.endswith(".md"):
            problems += link_problems(root, path, text)
    return problems


if __name__ == "__main__":
    run_check("text", check)
