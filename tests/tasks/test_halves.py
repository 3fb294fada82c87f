"""Model directories in bfloat16 and float16 answer as float32 ones with the same weights do, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyengine
from pyengine.errors import OptionError
from pyengine.quantize import convert
from tests.conftest import CHECKPOINT
from tests.tasks.language import write_language_model
from tests.tasks.test_shortlist import some_ids

KINDS = ("bfloat16", "float16")


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """German to English, and what float32 makes of it."""
    folder = tmp_path_factory.mktemp("halves")
    convert(CHECKPOINT, folder / request.param, weights=request.param)
    convert(folder / request.param, folder / "float32", weights="float32")
    return folder / request.param, folder / "float32"


def test_translations(both: tuple[Path, Path], german: list[str]) -> None:
    halves, floats = (pyengine.load(path, threads=1) for path in both)
    with halves, floats:
        about = halves.info()
        assert (about["weights"], about["compute"], about["kv"]) == (both[0].name, "float32", "float32")
        assert about["weight_bytes"] < 0.52 * floats.info()["weight_bytes"]
        for beams in (1, 4):
            found = halves.translate(german, num_beams=beams)
            assert found == floats.translate(german, num_beams=beams)
            assert halves.translate(german[3], num_beams=beams) == found[3]


def test_with_a_shortlist(both: tuple[Path, Path], german: list[str], tmp_path: Path) -> None:
    listed = some_ids(1, tmp_path / "shortlist")
    halves, floats = (pyengine.load(path, threads=1, shortlist=listed) for path in both)
    with halves, floats:
        assert halves.translate(german[:20]) == floats.translate(german[:20])


def test_no_int8_of_them(both: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError, match=f'compute is "int8", but .* holds {both[0].name} weights; quantize'):
        pyengine.load(both[0], compute="int8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_model(tmp_path: Path, kind: str) -> None:
    source = write_language_model(tmp_path / "words")
    convert(source, tmp_path / kind, weights=kind)
    convert(tmp_path / kind, tmp_path / "float32", weights="float32")
    prompts = ["the sea", "a", "it is an ante room, and no", "stones"]
    halves, floats = (pyengine.load(tmp_path / name, threads=2) for name in (kind, "float32"))
    with halves, floats:
        options = {"max_new_tokens": 12}
        assert halves.generate(prompts, **options) == floats.generate(prompts, **options)
        assert halves.score(prompts) == floats.score(prompts)


def test_floats_stay_as_they_are_beside_integers(tmp_path: Path, german: list[str]) -> None:
    """Some matrices in int8: with compute="float32" those become floats, and the others remain halves."""
    types = [("encoder.*", "bfloat16"), ("lm_head", "float16")]
    convert(CHECKPOINT, tmp_path / "mixed", weights="int8", tensors=types)
    convert(tmp_path / "mixed", tmp_path / "float32", weights="float32", requantize=True)
    with pyengine.load(tmp_path / "mixed", threads=1, compute="float32") as mixed:
        with pyengine.load(tmp_path / "float32", threads=1) as floats:
            assert mixed.translate(german[:20]) == floats.translate(german[:20])
            assert mixed.info()["weight_bytes"] < 0.8 * floats.info()["weight_bytes"]
    with pyengine.load(tmp_path / "mixed", threads=1) as translator:
        assert translator.info()["compute"] == "int8"
        assert len(translator.translate(german[0]).text) > 3
