"""Records what the original MarianTokenizer makes of the odd lines, or compares it with ours on whole files.

    python -m tests.oracle.golden_tokens record examples/multi30k-de-en
    python -m tests.oracle.golden_tokens compare examples/multi30k-de-en --source FILE... --target FILE...

The recording, ``tests/golden/tokens.npz``: of the odd lines the ids, uint16, one line after the other, their
lengths, uint16 [2000], and the CRC-32 of each line and of the text decoded from its ids; of the test set
beside the checkpoint the CRC-32 of the ids of each line and, on the target side, of the decoded text. Needs
transformers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pyengine.text import Tokenizer, open_tokenizer

from ..text.odd_lines import odd_lines
from ..text.test_tokenizer_golden import GOLDEN, crc_of_ids, crc_of_text, sentences


def open_original(directory: Path):
    """The MarianTokenizer of transformers for ``directory``."""
    from transformers import MarianTokenizer

    return MarianTokenizer.from_pretrained(directory)


def differences(tokenizer: Tokenizer, original, lines: Iterable[str], side: str) -> list[str]:
    """Of lines encoded as ``side``, those whose ids, pieces or decoded text differ from the original's."""
    found = []
    for line in lines:
        if side == "source":
            ids, expected = tokenizer.encode_source(line), original(line)["input_ids"]
        else:
            ids, expected = tokenizer.encode_target(line, end=True), original(text_target=line)["input_ids"]
        if ids != expected:
            found.append(f"{line!a}: ids {ids} and not {expected}")
        elif side == "target":
            text, expected_text = tokenizer.decode(ids), original.decode(ids, skip_special_tokens=True)
            if text != expected_text:
                found.append(f"{line!a}: text {text!a} and not {expected_text!a}")
            if tokenizer.pieces(ids) != original.convert_ids_to_tokens(ids):
                found.append(f"{line!a}: pieces {tokenizer.pieces(ids)}")
    return found


def record(directory: Path) -> None:
    original = open_original(directory)
    lines = odd_lines()
    ids = original(lines)["input_ids"]
    source = original(sentences("de"))["input_ids"]
    target = original(text_target=sentences("en"))["input_ids"]

    def text_crcs(sequences: list[list[int]]) -> np.ndarray:
        texts = (original.decode(sequence, skip_special_tokens=True) for sequence in sequences)
        return np.array([crc_of_text(text) for text in texts], np.uint32)

    np.savez_compressed(
        GOLDEN,
        ids=np.concatenate([np.array(line_ids, np.uint16) for line_ids in ids]),
        lengths=np.array([len(line_ids) for line_ids in ids], np.uint16),
        line_crc=np.array([crc_of_text(line) for line in lines], np.uint32),
        text_crc=text_crcs(ids),
        source_crc=np.array([crc_of_ids(sequence) for sequence in source], np.uint32),
        target_crc=np.array([crc_of_ids(sequence) for sequence in target], np.uint32),
        target_text_crc=text_crcs(target),
    )
    print(f"{len(lines)} lines, {sum(map(len, ids))} ids, {GOLDEN.stat().st_size} bytes")


def compare(directory: Path, source: list[Path], target: list[Path]) -> int:
    """Prints a line a file and each difference; returns how many there are."""
    tokenizer, original = open_tokenizer(directory, "sentencepiece"), open_original(directory)
    count = 0
    for side, paths in (("source", source), ("target", target)):
        for path in paths:
            lines = path.read_text(encoding="utf-8").split("\n")
            found = differences(tokenizer, original, lines, side)
            print(f"{path.name}: {len(lines)} lines as {side}, {len(found)} differences")
            print(*found, sep="\n", end="\n" if found else "")
            count += len(found)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record").add_argument("directory", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("directory", type=Path)
    comparing.add_argument("--source", nargs="+", type=Path, default=[], help="text files, a sentence a line")
    comparing.add_argument("--target", nargs="+", type=Path, default=[], help="text files, a sentence a line")
    options = parser.parse_args()
    if options.command == "record":
        record(options.directory)
    elif compare(options.directory, options.source, options.target):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
