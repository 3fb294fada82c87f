"""Text for calibration: how a file is read, which lines a model can take, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyengine.canonical import GenerationDefaults
from pyengine.errors import InputError
from pyengine.quantize import Calibration, convert, main
from pyengine.quantize.seeing.text import inputs_for, load_text, read_samples, sides, usable_text

from ...modelfile.directories import checkpoint_with_tokenizer
from ...oracle.random_config import random_config
from ...oracle.tiny import generation, model_config

CONFIG = model_config(max_positions=6)
DEFAULTS = generation()
END = DEFAULTS.eos_token_id[0]


def test_reading_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("Ein Mann\tA man\r\nzwei\u2028 Männer\n drei ".encode())
    assert load_text(path) == [("Ein Mann", "A man"), ("zwei\u2028 Männer", None), (" drei ", None)]
    path.write_bytes(b"a\n\n \t \nb\t\n\tc\n")
    assert load_text(path) == [("a", None), ("", None), (" ", " "), ("b", ""), ("", "c")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "text: expected lines of text, found an empty file"),
        (b"a\nb\xff\n", "text: line 2: expected UTF-8, found an invalid byte at 1"),
    ],
)
def test_lines_that_are_odd(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(InputError, match=what):
        load_text(tmp_path / "text")


def test_a_text_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: cannot be read: No such file"):
        load_text(tmp_path / "none")


def usable(*pairs: Any) -> tuple[list[Any], str]:
    kept, skipped = usable_text(pairs, CONFIG, DEFAULTS, None)
    return kept, str(skipped)


def test_what_a_model_can_take() -> None:
    fine = [([3, END], [4] * 5), ([3] * 6, None), ([3], [*[4] * 5, END])]
    assert usable(*fine) == (fine, "")
    blank = [([], None), ([3], []), ([], [])]
    assert usable(*fine, *blank) == (fine, "text: 3 lines without a source or a target skipped")
    long = [([3] * 7, None), ([3], [4] * 6), ([3], [*[4] * 6, END]), ([3] * 7, [4] * 6)]
    assert usable(long[0], *fine) == (fine, "text: 1 line too long for the model skipped")
    both = "text: 1 line without a source or a target and 4 lines too long for the model skipped"
    assert usable(blank[0], *fine, *long) == (fine, both)
    with pytest.raises(InputError, match="4 lines too long for the model skipped, none is left"):
        usable(*long)
    with pytest.raises(InputError, match="text: expected lines, found none"):
        usable()
    with pytest.raises(InputError, match="the target of line 2: expected token ids"):
        usable(fine[0], ([3], [99]))


    with pytest.raises(InputError, match="line 2: expected a source, or source, tab, target; found 2 tabs"):
        usable(fine[0], ("a", "b\tc"))


ALONE = random_config(0)  # a decoder
assert ALONE.encoder is None and ALONE.decoder is not None
MOST = ALONE.decoder.max_positions


def read_alone(*texts: Any, ends: tuple[int, ...] = (1,)) -> tuple[list[list[int]], str]:
    """What a decoder alone reads, each text with its end token, and what is said of the rest."""
    defaults = GenerationDefaults(eos_token_id=ends, max_length=MOST)
    kept, skipped = usable_text([(each, None) for each in texts], ALONE, defaults, None)
    samples = read_samples(inputs_for(ALONE, defaults, None), ALONE, kept)
    assert all(sample.source is None for sample in samples)
    return [sample.target.tolist() for sample in samples if sample.target is not None], str(skipped)


@pytest.mark.parametrize("ends", [(1,), ()])
def test_a_long_text_comes_in_pieces(ends: tuple[int, ...]) -> None:
    """No token of it is lost, and each piece has room for its end token."""
    room = MOST - len(ends)
    for length in (1, room, MOST, MOST + 1, 3 * MOST + 5):
        text = [3 + i % 200 for i in range(length)]
        pieces, said = read_alone(text, [7, 8], ends=ends)
        assert said == "" and pieces.pop() == [7, 8, *ends]
        assert sum((piece[: len(piece) - len(ends)] for piece in pieces), []) == text
        assert [len(piece) for piece in pieces[:-1]] == [MOST] * (-(-length // room) - 1)
    whole, _ = read_alone([5] * (MOST - 1) + [1], ends=ends)
    assert len(whole) == 1


def test_a_text_alone_has_no_source_and_no_target() -> None:
    assert read_alone([5], [], [6])[1] == "text: 1 line without text skipped"
    with pytest.raises(InputError, match="^line 2: expected token ids"):
        read_alone([5], [999])
    assert sides(ALONE, ("a", "b\tc"), 1) == (None, "a\tb\tc")


GOOD = [(f"Ein Mann {word}", f"A man {word}") for word in "abcdefghijklmnopqrstuvwxyz" * 2]


def test_a_conversion_skips_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes as without the lines; and the number of each kind, once."""
    checkpoint, text = checkpoint_with_tokenizer(tmp_path / "checkpoint"), tmp_path / "text"
    odd = [*GOOD[:5], ("", None), *GOOD[5:], ("Ein Mann " * 40, None), ("Ein", "A man " * 40), ("Ein", " ")]
    text.write_text("".join(source + ("" if target is None else f"\t{target}") + "\n" for source, target in odd))
    command = [str(checkpoint), "-o", str(tmp_path / "out"), "--weights", "int4", "--calibrate", str(text)]
    assert main(command) == 0
    said = capsys.readouterr().err
    note = "text: 2 lines without a source or a target and 2 lines too long for the model skipped"
    assert said == f"pyengine-quantize: note: {note}\n"
    report = convert(checkpoint, tmp_path / "clean", weights="int4g64", calibration=Calibration(GOOD))
    assert report.notes == ()
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()


def test_a_report_skips_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    checkpoint, text = checkpoint_with_tokenizer(tmp_path / "checkpoint"), tmp_path / "text"
    text.write_text("\n" + "".join(f"{source}\t{target}\n" for source, target in GOOD) + f"{'Ein ' * 80}\n")
    words = ["--weights", "int4", "--calibrate", str(text), "--report", str(tmp_path / "page")]
    assert main([str(checkpoint), "-o", str(tmp_path / "out"), *words]) == 0
    skipped = "ext: 1 line without a source or a target and 1 line too long for the model skipped"
    assert capsys.readouterr().err == f"pyengine-quantize: note: t{skipped}\n"
    assert f"T{skipped}." in (tmp_path / "page" / "index.html").read_text()


def test_a_vocabulary_of_a_text_with_blank_lines(tmp_path: Path) -> None:
    checkpoint = checkpoint_with_tokenizer(tmp_path / "checkpoint")
    convert(checkpoint, tmp_path / "blank", vocabulary=[GOOD[0], ("", None), *GOOD[1:], (" ", None)])
    convert(checkpoint, tmp_path / "clean", vocabulary=GOOD)
    assert (tmp_path / "blank" / "vocab.json").read_bytes() == (tmp_path / "clean" / "vocab.json").read_bytes()
