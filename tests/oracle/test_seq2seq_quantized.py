"""A T5 and a BART, quantized and pruned as any other: nothing knows what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import pyengine
from pyengine.quantize import main as quantize

from .checkpoints import save
from .families import VOCABULARY, Family
from .seq2seq import bart, flan_t5, mbart

WAYS = {
    "int8": (["--weights", "int8"], 0.2),
    "int4": (["--weights", "int4g32z"], 0.6),
    "equalized": (["--weights", "int8", "--equalize"], 0.2),
    "blocks of zeros": (["--weights", "int8", "--prune", "blocks=0.1", "--prune-method", "magnitude"], 0.6),
}


@pytest.mark.parametrize("family", (flan_t5, bart, mbart), ids=lambda family: family.__name__)
def test_quantized_and_pruned(tmp_path: Path, family: Callable[[], Family]) -> None:
    """How far logits are from float32's, relative to these: activations and weights are rounded apart."""
    save(tmp_path / "checkpoint", family().model)
    assert quantize([str(tmp_path / "checkpoint"), "-o", str(tmp_path / "exact"), "--weights", "float32"]) == 0
    rng = np.random.RandomState(4)
    source, target = rng.randint(8, VOCABULARY, 30), rng.randint(8, VOCABULARY, 20)
    with pyengine.load(tmp_path / "exact", task=pyengine.Translator, threads=1) as exact:
        expected = exact.logits(source, target)
    for name, (words, bound) in WAYS.items():
        out = tmp_path / name
        assert quantize([str(tmp_path / "checkpoint"), "-o", str(out), *words]) == 0, name
        with pyengine.load(out, task=pyengine.Translator, threads=1) as model:
            found = model.logits(source, target)
        off = float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))
        assert 0 < off < bound, (name, off)
