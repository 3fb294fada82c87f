"""Reports that are refused before any work: where they must not lie, what they cannot be made of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyengine.quantize import main
from pyengine.version import DISTRIBUTION

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi30k-de-en"
pytest.importorskip("matplotlib")

WRONG = {
    "a report in its place": (["--report", "foreign"], "no report directory"),
    "the same place": (["--report", "out"], "must not lie in each other"),
    "the model inside": (["--report", "."], "no report directory"),
    "no folder": (["--report", "none/page"], "the directory none does not exist"),
    "too long": (["--report", "page", "--weights", "int4", "--calibrate", "long"], "10 lines too long for the model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_come_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    words, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("")
    (tmp_path / "long").write_text(f"Ein Hund.\t{'A dog. ' * 200}\n" * 10)
    assert main([str(EXAMPLE), "-o", "out", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["foreign", "long"]


def test_the_model_must_not_lie_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page").mkdir()
    assert main([str(EXAMPLE), "-o", str(tmp_path / "page" / "out"), "--report", str(tmp_path / "page")]) == 2
    assert "must not lie in each other" in capsys.readouterr().err
    assert list((tmp_path / "page").iterdir()) == []


def test_without_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(EXAMPLE), "-o", str(tmp_path / "out"), "--report", str(tmp_path / "page")]) == 2
    assert f"pip install '{DISTRIBUTION}[report]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_report_only_makes_no_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(EXAMPLE), "--report-only", "--report", "page"])
    assert "--report has no meaning with --report-only" in capsys.readouterr().err
