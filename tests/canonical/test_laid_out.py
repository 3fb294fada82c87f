"""Where tokenizer files are: in a checkpoint, or made and nowhere yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pyengine.canonical import AttentionConfig, CanonicalModel, FeedForwardConfig, LayerConfig, ModelConfig, StackConfig

LAYER = LayerConfig(AttentionConfig.plain(1, 4), FeedForwardConfig(4, "relu"))
CONFIG = ModelConfig("test", 4, StackConfig((LAYER,), 8), None, 9, None)


def test_made_files_are_laid_out_beside_the_others_and_go(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    model = CanonicalModel(CONFIG, None, {}, "tokenizers", {"a": tmp_path / "a", "b": b"two"})
    with model.laid_out() as laid:
        assert laid.path != tmp_path
        assert {path.name: path.read_bytes() for path in laid.path.iterdir()} == {"a": b"one", "b": b"two"}
        assert replace(laid, tokenizer_files={}) == replace(model, tokenizer_files={})
    assert not laid.path.exists()


def test_files_that_all_lie_somewhere_stay_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    model = CanonicalModel(CONFIG, None, {}, "tokenizers", {"a": tmp_path / "a"})
    with model.laid_out() as laid:
        assert laid is model and laid.path == tmp_path
