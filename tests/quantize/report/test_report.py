"""The report of a compression: it says what it was given, the same way every time, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.errors import ModelFileError, OptionError
from pyengine.formats.limits import REPORT_BYTES
from pyengine.formats.strict_json import load_object
from pyengine.quantize.report import (
    CalibrationText,
    Change,
    ChangedLine,
    CompressionReport,
    EndToEnd,
    Histogram,
    InputRanges,
    Layer,
    Outlier,
    ParetoPoint,
    Pruned,
    Speed,
    StaticRange,
    require_matplotlib,
    write_report,
)
from pyengine.version import DISTRIBUTION

HOSTILE = "</style><script>alert('1')</script>\"&amp;$x_{2}$ \u202e\0\ud800 \N{CJK UNIFIED IDEOGRAPH-4E2D} ]]>-->"
VOID = {"meta", "wbr"}


def a_layer(name: str = "encoder.layers.0.ffn.up.weight", **changes: Any) -> Layer:
    return Layer(
        **{
            "name": name,
            "parts": (name,),
            "shape": (1024, 256),
            "type_before": "float32",
            "type_after": "int8",
            "bytes_before": 1048576,
            "bytes_after": 266240,
            "snr_db": 42.5,
            "output_error": 6.1e-5,
            "outliers": (Outlier(7, 31.5), Outlier(200, 4.25)),
            "histogram": Histogram((-0.5, 0.0, 0.25, 1.0), (3, 1000, 0)),
            "method": "absmax",
            "reason": "within the budget",
            "inputs": InputRanges(12.4, 6.3e-6, StaticRange(9.96, 5e-5), StaticRange(3.1, 7.9e-5)),
            **changes,
        }
    )


def a_report(**changes: Any) -> CompressionReport:
    return CompressionReport(
        **{
            "command": "pyengine-quantize in -o out",
            "versions": {"pyengine": "0.1.0", "numpy": "2.0"},
            "machine": ("a CPU", "2 CPUs"),
            "bytes_before": 4000000,
            "bytes_after": 1000000,
            "seed": 5,
            "calibration": CalibrationText(("train.de", "train.en"), 100, 2000, 500),
            "layers": (a_layer(), a_layer("decoder.embed", snr_db=None, output_error=0.5, outliers=(), inputs=None)),
            "pruned": (Pruned("neurons", "encoder.layers.0.ffn.up", 16, 1024, Change(0.02, 0.01)),),
            "end_to_end": EndToEnd(500, 0.0041, 0.987, Change(6.0, 6.1), Change(38.52, 38.31)),
            "speed": (Speed("1 sentence", 100.0, 200.0, 250.0), Speed("many", 100.0, None, 200.0)),
            "pareto": (ParetoPoint(900, 0.5, "small", False), ParetoPoint(1000, 0.1, "middle", True)),
            "notes": ("would not run faster",),
            **changes,
        }
    )


def a_plain_report() -> CompressionReport:
    """Only what must be there."""
    return CompressionReport("pyengine-quantize", {}, (), 4000000, 1000000)


def a_hostile_report() -> CompressionReport:
    """Text from outside wherever text goes."""
    return CompressionReport(
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
        machine=(HOSTILE,),
        bytes_before=2,
        bytes_after=1,
        calibration=CalibrationText((HOSTILE,), 1, 1, 0),
        layers=(a_layer(HOSTILE, parts=(HOSTILE, HOSTILE + ".b"), type_after=HOSTILE, method=HOSTILE, reason=HOSTILE),),
        pruned=(Pruned(HOSTILE, HOSTILE, 0, 1),),
        speed=(Speed(HOSTILE, None, None, 1.0),),
        pareto=(ParetoPoint(1, 0.0, HOSTILE, True),),
        notes=(HOSTILE,),
    )


def a_comparison(**changes: Any) -> CompressionReport:
    lines = (ChangedLine(12, HOSTILE, 9, 0.25, 0.5), ChangedLine(3, "Ein Hund.", 4, 0.125, 1.0))
    found = EndToEnd(500, 0.0041, 0.987, kl_quantiles=tuple(index / 1000 for index in range(101)), lines=lines)
    unlike = a_layer("output", snr_db=None, output_error=None, comparable=False, histogram=None)
    layers = (a_layer("encoder.embed", histogram=None), unlike)
    parts = {"layers": layers, "end_to_end": found, "models": ("in/A", HOSTILE), "calibration": None, **changes}
    return a_report(**{"pruned": (), "speed": (), "pareto": (), "notes": (), **parts})


class Page(HTMLParser):
    """What a page consists of; fails on a tag that is left open or closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> closes itself, which HTML does not know")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def headings(self) -> list[str]:
        return [word for word in self.words if word in SECTIONS]


SECTIONS = ("Size", "Quality", "Speed", "Layers", "Inputs", "Outlier channels", "Weights", "Pruning",
            "Size against error", "How it was made", "Calibration")  # fmt: skip


def written(directory: Path, report: CompressionReport) -> str:
    write_report(directory, report)
    return (directory / "index.html").read_text(encoding="utf-8")


REPORTS = {"whole": a_report, "plain": a_plain_report, "hostile": a_hostile_report, "compared": a_comparison}


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_json_round_trip(tmp_path: Path, make: Any) -> None:
    write_report(tmp_path / "out", make())
    data = load_object(tmp_path / "out" / "report.json", ModelFileError, REPORT_BYTES)
    assert CompressionReport.from_json(data, "report.json") == make()


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_the_same_bytes_twice(tmp_path: Path, make: Any) -> None:
    write_report(tmp_path / "one", make())
    report = make()
    upside_down = dict(reversed(report.versions.items()))
    write_report(tmp_path / "two", dataclasses.replace(report, versions=upside_down))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "two"]
    for name in ("index.html", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_plots_do_not_depend_on_the_users_settings(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    expected = written(tmp_path / "one", a_report())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert written(tmp_path / "two", a_report()) == expected
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("make", REPORTS.values(), ids=REPORTS)
def test_a_page_that_stands_alone(tmp_path: Path, make: Any) -> None:
    text = written(tmp_path / "out", make())
    page = Page(text)
    assert not re.search(r"https?:|//|@import|@font-face", text.replace(HOSTILE, ""))
    assert not {"script", "link", "img", "image", "iframe", "object", "base", "foreignobject"} & set(page.tags)
    identifiers = [value for name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    inside = re.findall(r"url\(([^)]*)\)", text)
    inside += [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert {f"#{name}" for name in identifiers} == set(inside)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert ("name", "viewport") in page.attributes and ("lang", "en") in page.attributes


def test_hostile_text_is_shown_and_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path / "out", a_hostile_report())
    page = Page(text)
    assert "<script" not in text and text.count("</style>") == 1
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\0", "\ufffd").replace("\ud800", "\ufffd")
    assert page.text.count(shown) >= 10
    # No plot holds a drawn glyph in place of text: a dollar sign begins no formula.
    assert "svg" in page.tags and shown[-15:] in page.text
    assert page.tags.count("style") == 1


def test_what_a_whole_page_says(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "out", a_report()))
    assert tuple(page.headings()) == SECTIONS
    assert "takes 1 MB instead of 4 MB: 25.00 % of the size, or 4.00 to 1." in page.text
    assert "0.00410 nats a token" in page.text and "same token in 98.70 %" in page.text
    assert "BLEU goes from 38.52 to 38.31 (\N{MINUS SIGN}0.21)." in page.text
    assert "Perplexity goes from 6.00 to 6.10 (+0.10)." in page.text
    assert "It runs at 2.00 to 2.50 times the speed of float32 and 1.25 times the speed of int8." in page.text
    assert "The layer that changed most is decoder.embed, with an output error of 50.00 %." in page.text
    assert "The better of the two loses most in encoder.layers.0.ffn.up.weight: 9 dB." in page.text
    for words in ("would not run faster", "16 of 1,024", "7 (31.5 ×), 200 (4.2 ×)", "exact", "within the budget"):
        assert words in page.text
    assert page.tags.count("svg") == 7  # sizes, SNR, errors, outliers, two histograms, size against error


def test_what_a_comparison_says(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "out", a_comparison()))
    assert page.words[:2] == ["Comparison of two models"] * 2 and "A is in/A , B is" in page.text
    assert "Model B takes 1 MB instead of 4 MB" in page.text
    assert "Over 500 tokens its predictions are 0.00410 nats a token from those of A" in page.text
    assert "Half of the tokens move by 0.0500 nats at most, 99 % by 0.0990, and all by 0.100." in page.text
    assert "12 9 0.250 50.00 %" in page.text and "3 4 0.125 100.00 % Ein Hund." in page.text
    assert not re.search("before|after|original|compressed|held-out|exact", page.text)
    assert "KL divergence of the tokens, in ascending order" in dict(map(reversed, page.attributes))
    same = {"end_to_end": EndToEnd(5, 0.0, 1.0, kl_quantiles=(0.0,) * 101), "layers": (a_layer(output_error=0.0),)}
    page = Page(written(tmp_path / "same", a_comparison(**same)))
    assert "Half of" not in page.text and "differ most" not in page.text and "far to the right" not in page.text


ABSENT = {
    "calibration": (None, {"Calibration"}),
    "layers": ((), {"Layers", "Inputs", "Outlier channels", "Weights"}),
    "pruned": ((), {"Pruning"}),
    "end_to_end": (None, {"Quality"}),
    "speed": ((), {"Speed"}),
    "pareto": ((), {"Size against error"}),
}


@pytest.mark.parametrize("part", ABSENT)
def test_what_is_absent_is_left_out(tmp_path: Path, part: str) -> None:
    value, sections = ABSENT[part]
    page = Page(written(tmp_path / "out", a_report(**{part: value})))
    assert page.headings() == [name for name in SECTIONS if name not in sections]


def test_the_least_report(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "out", a_plain_report()))
    assert page.headings() == ["Size", "How it was made"]
    assert "svg" not in page.tags and "aside" not in page.tags
    assert not re.search(r"\b(None|nan|inf|seed|versions)\b", page.text)


def test_columns_of_which_nothing_is_known_are_left_out(tmp_path: Path) -> None:
    bare = a_layer(snr_db=None, output_error=None, outliers=(), histogram=None, method="", reason="", inputs=None)
    text = Page(written(tmp_path / "out", a_report(layers=(bare,)))).text
    for title in ("SNR", "output error", "method", "why", "Inputs", "Outlier", "exact"):
        assert title not in text


def test_many_layers_have_few_histograms(tmp_path: Path) -> None:
    layers = tuple(a_layer(f"l{index}", snr_db=float(index), outliers=()) for index in range(30))
    page = Page(written(tmp_path / "out", a_report(layers=layers)))
    assert "the 24 layers with the lowest SNR of 30" in page.text
    drawn = [value for name, value in page.attributes if name == "aria-label" and value.startswith("Histogram")]
    assert drawn == [f"Histogram of the weights of l{index}" for index in range(24)]


def test_extreme_figures(tmp_path: Path) -> None:
    layers = (
        a_layer(bytes_before=0, bytes_after=0, output_error=0.0, histogram=Histogram((0.0, 1.0), (0,))),
        a_layer(snr_db=-300.0, output_error=1e30, outliers=(Outlier(0, 0.0), Outlier(1, 1e9))),
        a_layer(inputs=InputRanges(0.0, 0.0, StaticRange(0.0, 0.0), StaticRange(0.0, 1e30))),
    )
    points = (ParetoPoint(1, 0.0, "", False), ParetoPoint(1, 1e9, "", False))
    Page(written(tmp_path / "out", a_report(layers=layers, pareto=points, bytes_before=1, bytes_after=10**15)))


def test_overwrite_and_foreign_directories(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write_report(target, a_plain_report())  # an empty directory may be used
    with pytest.raises(OptionError, match="exists; overwrite=True replaces it"):
        write_report(target, a_report())
    write_report(target, a_report(), overwrite=True)
    assert "Quality" in (target / "index.html").read_text(encoding="utf-8")

    (target / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="no report directory"):
        write_report(target, a_report(), overwrite=True)
    assert (target / "mine.txt").read_text() == "mine"

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "report.json").write_text('{"format": "another"}')
    with pytest.raises(OptionError, match="no report directory"):
        write_report(foreign, a_report(), overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="not a directory"):
        write_report(tmp_path / "file", a_report(), overwrite=True)
    with pytest.raises(OptionError, match="does not exist"):
        write_report(tmp_path / "none" / "out", a_report())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "foreign", "out"]


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=re.escape(f"pip install '{DISTRIBUTION}[report]'")):
        require_matplotlib()
    with pytest.raises(OptionError, match=re.escape(f"pip install '{DISTRIBUTION}[report]'")):
        write_report(tmp_path / "out", a_report())
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_become_plain(tmp_path: Path) -> None:
    layer = a_layer(bytes_after=np.int64(266240), snr_db=np.float32(42.5), shape=(np.int32(1024), 256))
    write_report(tmp_path / "out", a_report(layers=(layer,)))
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["layers"][0]["snr_db"] == 42.5 and data["layers"][0]["shape"] == [1024, 256]


def test_impossible_figures() -> None:
    for quantiles, message in (((0.0, 1.0), "expected 101 numbers, found 2"), ((1.0, *[0.0] * 100), "not descend")):
        with pytest.raises(ValueError, match=message):
            EndToEnd(1, 0.0, 1.0, kl_quantiles=quantiles)
    with pytest.raises(ValueError, match="models: expected none or two, found 1"):
        a_report(models=("A",))


WRONG = {
    "snr_db": ({"layers": (a_layer(snr_db=math.inf),)}, r"report: layers\[0\]: snr_db: expected a finite number"),
    "seed": ({"seed": "5"}, "report: seed: expected an integer, found '5'"),
    "machine": ({"machine": "a CPU"}, "report: machine: expected a list"),
    "notes": ({"notes": (None,)}, r"report: notes\[0\]: expected a string, found None"),
}


@pytest.mark.parametrize("field", WRONG)
def test_what_json_cannot_hold_is_named(tmp_path: Path, field: str) -> None:
    changes, message = WRONG[field]
    with pytest.raises(OptionError, match=message):
        write_report(tmp_path / "out", a_report(**changes))
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_damaged() -> None:
    whole = a_report().to_json()
    for change, message in (
        ({"format": "another"}, "format: expected one of"),
        ({"version": 2}, "version: expected one of"),
        ({"more": 1}, "unknown fields: 'more'"),
        ({"bytes_after": 0}, "bytes_after: expected an integer from 1"),
        ({"bytes_after": 1.5}, "bytes_after: expected an integer, found 1.5"),
        ({"layers": [{}]}, r"layers\[0\]: field 'name' is missing"),
        ({"end_to_end": {**whole["end_to_end"], "top1_agreement": 2}}, "top1_agreement: expected a share"),
        ({"versions": {"numpy": 2}}, r"versions\['numpy'\]: expected a string"),
    ):
        with pytest.raises(ModelFileError, match=message):
            CompressionReport.from_json({**whole, **change}, "report.json")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Histogram((0.0, 1.0), ()),
        lambda: Histogram((0.0, 0.0), (1,)),
        lambda: Histogram((0.0, 1.0), (-1,)),
        lambda: Pruned("heads", "l", 5, 4),
        lambda: Speed("s", 0.0, None, 1.0),
        lambda: StaticRange(-1.0, 0.0),
        lambda: InputRanges(1.0, -0.1, StaticRange(1.0, 0.0), StaticRange(1.0, 0.0)),
        lambda: ParetoPoint(-1, 0.0, "", False),
    ],
)
def test_impossible_values_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()
