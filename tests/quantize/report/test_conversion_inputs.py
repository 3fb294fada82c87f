"""What a report says of the inputs: those of layers, the one that was converted, and the text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.importers import open_checkpoint
from pyengine.modelfile import open_directory, packed_specs
from pyengine.quantize import convert, main
from pyengine.quantize.report.conversion import Reporter
from pyengine.quantize.seeing.calibration import calibrate, in_memory_engine
from pyengine.quantize.seeing.static_ranges import sampled_errors
from pyengine.text import open_tokenizer

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi30k-de-en"
LINES = 60  # of which 6 are held out
LAYER = "decoder.layers.1.ffn.down"
pytest.importorskip("matplotlib")

Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    german, english = ((EXAMPLE / f"test_2016_flickr.{side}").read_text("utf-8").splitlines() for side in ("de", "en"))
    return list(zip(german, english, strict=True))[:LINES]


def reported(folder: Path, checkpoint: Path = EXAMPLE, text: Pairs | None = None, **how: Any) -> dict[str, Any]:
    """The report of a conversion to ``folder``/out, by the names of the parts of report.json."""
    vocabulary = how.get("vocabulary")
    reporter = Reporter(checkpoint, folder / "out", folder / "page", text=text, vocabulary=vocabulary)
    reporter.write(convert(checkpoint, folder / "out", **how), method="absmax", command="command")
    found: dict[str, Any] = json.loads((folder / "page" / "report.json").read_text("utf-8"))
    return found


def words_of(folder: Path) -> str:
    page = (folder / "page" / "index.html").read_text("utf-8")
    return " ".join(re.sub("<wbr>", "", re.sub("</?(?!wbr)[^>]*>", " ", page)).split())


def test_ranges_are_of_what_the_layers_read(tmp_path: Path, pairs: Pairs) -> None:
    """Of the held out lines and the checkpoint's weights, for every layer; the page says the same."""
    rows = {each["name"]: each for each in reported(tmp_path, text=pairs)["layers"]}
    model = open_checkpoint(EXAMPLE)
    config = model.config
    assert model.tokenizer_kind is not None
    sizes = {"source_vocab": config.source_vocab, "target_vocab": config.target_vocab}
    tokenizer = open_tokenizer(EXAMPLE, model.tokenizer_kind, **sizes)
    engine = in_memory_engine(config, model.generation, model.tensors)
    seen = calibrate(engine, tokenizer, pairs[-LINES // 10 :])
    specs = packed_specs(config, "float32")
    assert len(seen) == len(rows) == sum(row["inputs"] is not None for row in rows.values())
    for name in (LAYER, "encoder.layers.0.self_attention.qkv"):
        matrix = np.concatenate([model.tensors[part].read() for part in specs[f"{name}.weight"].sources])
        expected = sampled_errors(matrix, seen[name].rows)
        found = rows[name]["inputs"]
        assert found["absmax"] == pytest.approx(np.abs(seen[name].rows[::2]).max())
        assert found["dynamic_error"] == pytest.approx(expected.dynamic, rel=1e-6)
        for method in ("mse", "kl"):
            pair = found[method]["limit"], found[method]["error"]
            assert pair == pytest.approx((expected.ranges[method], expected.static[method]), rel=1e-6)
    found = rows[LAYER]["inputs"]
    shown = f"{LAYER} T = {found['mse']['limit']:.2f} (mse), {found['kl']['limit']:.2f} (KL) of {found['absmax']:.2f}"
    figures = (10 * np.log10(each) for each in (found["dynamic_error"], found["mse"]["error"], found["kl"]["error"]))
    shown = " ".join([shown, *(f"\N{MINUS SIGN}{-round(float(each))}" for each in figures)])
    words = words_of(tmp_path)
    assert shown in words and "pyengine gives every row of inputs a scale of its own" in words


@pytest.mark.exhaustive
def test_layers_whose_inputs_have_other_scales_show_no_ranges(tmp_path: Path, pairs: Pairs) -> None:
    rows = {each["name"]: each["inputs"] for each in reported(tmp_path, text=pairs, equalize=True)["layers"]}
    assert rows["encoder.layers.0.self_attention.output"] is None
    assert rows["decoder.layers.0.cross_attention.q"] is not None


TYPES: dict[str, dict[str, Any]] = {
    "float32": {"weights": "float32"},
    "int8": {},
    "mixed": {"weights": "int4g64", "tensors": [("*.ffn.up", "int4g32z"), ("encoder.layers.0.*", "float32")]},
}


@pytest.mark.parametrize(
    "kind", ["mixed", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("float32", "int8"))]
)
def test_a_directory_is_reported_as_it_is_stored(tmp_path: Path, kind: str) -> None:
    """Types and bytes before are those that the report of the input had after."""
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    before = reported(tmp_path / "first", **TYPES[kind])
    after = reported(tmp_path / "again", tmp_path / "first" / "out", requantize=True)
    assert after["bytes_before"] == before["bytes_after"]
    for row, old in zip(after["layers"], before["layers"], strict=True):
        assert (row["type_before"], row["bytes_before"]) == (old["type_after"], old["bytes_after"])
    stored = sum(array.nbytes for array in open_directory(tmp_path / "first" / "out").tensors.values())
    assert after["bytes_before"] == stored


def test_a_checkpoint_is_reported_as_it_is_stored(tmp_path: Path) -> None:
    found = reported(tmp_path)
    tensors = open_checkpoint(EXAMPLE).tensors
    computed = {f"{stack}.positions" for stack in ("encoder", "decoder")}
    assert {name for name, each in tensors.items() if each.dtype != "float16"} == computed
    sizes = {name: (4 if name in computed else 2) * int(np.prod(each.shape)) for name, each in tensors.items()}
    assert found["bytes_before"] == sum(sizes.values())
    for row in found["layers"]:
        assert (row["type_before"], row["bytes_before"]) == ("float16", 2 * int(np.prod(row["shape"])))
    assert "float16 → int8" in words_of(tmp_path)


@pytest.mark.exhaustive
def test_lines_that_helped_to_choose_the_vocabulary(tmp_path: Path, pairs: Pairs) -> None:
    """Sources and targets count, each line once; what is no whole line does not."""
    held = pairs[-LINES // 10 :]
    corpus = [*pairs[:40], held[0], (held[1][0], "Another."), ("Noch eine.", held[2][1]), (held[3][0][:-1], "A part.")]
    corpus += [(f"{source} {target}", target + source) for source, target in held]  # so that all tokens are kept
    found = reported(tmp_path, text=pairs, vocabulary=corpus)
    [note] = [each for each in found["notes"] if "corpus" in each]
    assert "3 of the 6 held-out lines, too" in note and note in words_of(tmp_path)


@pytest.mark.exhaustive
def test_a_vocabulary_of_other_lines_needs_no_note(tmp_path: Path, pairs: Pairs) -> None:
    found = reported(tmp_path, text=pairs, vocabulary=pairs[:40])
    assert not any("corpus" in each for each in found["notes"])


def test_the_command_tells_the_report_of_the_corpus(tmp_path: Path, pairs: Pairs) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    words = [EXAMPLE, "-o", tmp_path / "out", "--report", tmp_path / "page"]
    assert main([*map(str, words), "--calibrate", str(text), "--vocabulary", str(text)]) == 0
    found = json.loads((tmp_path / "page" / "report.json").read_text("utf-8"))
    assert any("has 6 of the 6 held-out lines" in each for each in found["notes"])
