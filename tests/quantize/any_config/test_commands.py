"""The commands on models with one stack: text goes to the stack that there is, and figures are of what it gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pyengine.cli import main
from pyengine.errors import UnsupportedError
from pyengine.modelfile import open_directory
from pyengine.quantize import convert
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.seeing.teacher_data import write_teacher_data
from pyengine.quantize.seeing.text import load_text

from .models import END, lines, random_model

DECODER, ENCODER = 0, 2


def directory(folder: Path, seed: int) -> Path:
    """A random model in float32, whose tokens are words."""
    model = random_model(seed)
    size = model.config.target_vocab or model.config.source_vocab or 0
    words = {f"w{i}": i for i in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A w{END}", special_tokens=[(f"w{END}", END)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {"tokenizer.json": folder / "tokenizer.json"}
    convert(replace(model, tokenizer_kind="tokenizers", tokenizer_files=files), folder / "in", weights="float32")
    return folder / "in"


def text_file(path: Path, seed: int, count: int = 40) -> Path:
    """A text a line, and one that is blank."""
    texts = [next(side for side in line if side is not None) for line in lines(random_model(seed), count)]
    text = "\n".join(" ".join(f"w{id}" for id in each if id != END) for each in texts)  # type: ignore[union-attr]
    path.write_text(f"{text}\n\n", encoding="utf-8")
    return path


def run(*arguments: object) -> None:
    assert main([*map(str, arguments)]) == 0


@pytest.mark.parametrize("seed", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_quantize_and_compare(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    source, text = directory(tmp_path / "model", seed), text_file(tmp_path / "text", seed)
    run("quantize", source, "-o", tmp_path / "out", "--weights", "int4g32", "--calibrate", text, "--smooth",
        "auto", "--prune", "ffn=0.2", "--report", tmp_path / "page", "--speed")  # fmt: skip
    said = capsys.readouterr()
    assert "of the variance of what the model gives lost" in said.out
    assert "1 line without text skipped" in said.err
    report = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    assert report["calibration"]["lines"] == 40 and len(report["speed"]) == 2
    run("compare", source, tmp_path / "out", "--data", text, "--report", tmp_path / "compared", "--json")
    found = json.loads(capsys.readouterr().out)
    compared = json.loads((tmp_path / "compared" / "report.json").read_text("utf-8"))
    page = (tmp_path / "page" / "index.html").read_text("utf-8")
    if seed == ENCODER:
        assert report["end_to_end"] is None and 0 < report["states"]["error"] < 1
        assert (found["state_error"], found["state_cosine"]) == (
            compared["states"]["error"], compared["states"]["cosine"],
        )  # fmt: skip
        assert "what its encoder gives differs from" in page
    else:
        quality: dict[str, Any] = report["end_to_end"]
        assert report["states"] is None and quality["kl_divergence"] > 0 and quality["bleu"] is None
        assert quality["perplexity"]["before"] > 1
        assert found["kl_divergence"] == compared["end_to_end"]["kl_divergence"]
        assert compared["end_to_end"]["lines"][0]["source"].startswith("w")
    run("compare", source, tmp_path / "out", "--data", text)
    assert ("states:" if seed == ENCODER else "KL divergence:") in capsys.readouterr().out
    run("info", tmp_path / "out")


@pytest.mark.parametrize("seed", [DECODER, ENCODER], ids=["decoder", "encoder"])
def test_a_smaller_vocabulary(seed: int, tmp_path: Path) -> None:
    """The text that it was trimmed by says the same to both."""
    source, text = directory(tmp_path / "model", seed), text_file(tmp_path / "text", seed, 4)
    how = {"weights": "float32", "vocabulary": load_text(text)}
    report = convert(source, tmp_path / "out", **how)  # type: ignore[arg-type]
    assert report.kept is not None
    before, after = (open_directory(each).config for each in (source, tmp_path / "out"))
    side = "source_vocab" if seed == ENCODER else "target_vocab"
    assert getattr(after, side) < getattr(before, side) and not len(report.kept.source) == len(report.kept.target)
    whole = load_text(text)[:4]
    with Reader.open(source) as one, Reader.open(tmp_path / "out") as other:
        if seed == ENCODER:
            pairs = zip(one.states(whole), other.states(whole), strict=True)
        else:
            kept = report.kept.target
            pairs = zip((each[:, kept] for each in one.logits(whole)), other.logits(whole), strict=True)
        assert all(left.tobytes() == right.tobytes() for left, right in pairs)


def test_states_of_other_widths_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = random_model(ENCODER).config
    other = next(
        seed for seed in range(ENCODER + 3, 100, 3)
        if random_model(seed).config.width != own.width and random_model(seed).config.source_vocab == own.source_vocab
    )  # fmt: skip
    a, b = directory(tmp_path / "a", ENCODER), directory(tmp_path / "b", other)
    assert main(["compare", str(a), str(b), "--data", str(text_file(tmp_path / "text", ENCODER, 2))]) == 2
    assert f"{b}: expected the width of {a}, {own.width}, found" in capsys.readouterr().err


def test_what_needs_both_stacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, text = directory(tmp_path / "model", DECODER), text_file(tmp_path / "text", DECODER)
    with pytest.raises(UnsupportedError, match="expected a model with an encoder and a decoder, which translates"):
        write_teacher_data(source, text, tmp_path / "pairs")
    text.write_text("w4 w5\tw6\tw7\n", encoding="utf-8")  # which is one text to it
    run("compare", source, source, "--data", text)
    assert "of 5 tokens" in capsys.readouterr().out
