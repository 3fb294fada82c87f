"""examples/quickstart.py: what a new user sees first."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"


def test_translations_come_before_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sacrebleu")
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    assert spec and spec.loader
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    few = tmp_path / "few.de"
    few.write_text("Ein Mann fährt Fahrrad.\n", encoding="utf-8")
    monkeypatch.setattr(quickstart, "BUILD", tmp_path)
    monkeypatch.setattr(quickstart, "WEIGHTS", ("int8",))
    monkeypatch.setattr(quickstart, "measure_apart", lambda directory, beams: {
        "lines": ["A man riding a bicycle."], "seconds": 1.0, "tokens": 7, "memory": 1000
    })  # fmt: skip
    monkeypatch.setattr(quickstart, "REFERENCES", few)
    monkeypatch.setattr("sys.argv", ["quickstart.py"])
    quickstart.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(" bytes, int8")
    assert lines[3].endswith("Ein Mann fährt Fahrrad.") and lines[4].endswith("  A man riding a bicycle.")
    table = next(number for number, line in enumerate(lines) if line.startswith("weights"))
    assert table > 4 and [line.split()[0] for line in lines[table + 1 :]] == ["int8", "int8"]
