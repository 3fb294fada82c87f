"""What lies at a path where a checkpoint or a model directory was expected: for messages, with what to do about it."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["what_else"]

# As huggingface_hub has it: an owner and a name, which may also be a relative path.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_CHECKPOINT = "a directory as Hugging Face exports it, with config.json and model.safetensors"
_CTRANSLATE2 = f"a CTranslate2 model, which only that reads; begin with what it was made of, {_CHECKPOINT}"
_LFS = "a Git LFS pointer in place of a file; `git lfs pull` fetches the file itself"
_TORCH = "a file of torch.save; where you trust it, load it with torch, and write a directory with save_pretrained(DIR)"


def what_else(path: Path) -> str | None:
    """What ``path`` is; None for a directory with a config.json that may be what was expected."""
    if not path.exists():
        if path.is_symlink():
            return "a link to nothing"
        if _HUB_ID.fullmatch(str(path)):
            return (
                "nothing; a model of the Hugging Face hub is first downloaded, by "
                f"`hf download {path} --local-dir DIR` for instance, and then converted: pyengine quantize DIR -o OUT"
            )
        return "nothing"
    if not path.is_dir():
        return _file(path)
    if _is_ctranslate2(path):
        return _CTRANSLATE2
    if os.path.lexists(path / "config.json"):
        return None
    names = sorted(os.listdir(path))
    if not names:
        return "an empty directory"
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return f"no config.json in it but {gguf[0]!r:.80}, {_gguf(path / gguf[0])}"
    return "no config.json in it"


def _file(path: Path) -> str:
    if not path.is_file():
        return "something that is no directory"
    start = _start(path)
    if start.startswith(b"GGUF"):
        return _gguf(path)
    if start.startswith(b"version https://git-lfs"):
        return _LFS
    if (path.parent / "config.json").is_file():
        return f"a file; give its directory, {path.parent}"
    return _TORCH if start.startswith((b"PK\x03\x04", b"\x80")) else "a file"


def _gguf(path: Path) -> str:
    return f"a GGUF file; it is converted by itself: pyengine quantize {path} -o OUT"


def _is_ctranslate2(path: Path) -> bool:
    """model.bin begins with a version of four bytes, and the name of its kind in two bytes of length and text."""
    if not (path / "model.bin").is_file():  # a FIFO would wait
        return False
    start = _start(path / "model.bin")
    length = int.from_bytes(start[4:6], "little")
    return start[6 : 6 + length].rstrip(b"\0").endswith(b"Spec") and 0 < length <= 64


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(80)
    except OSError:
        return b""
