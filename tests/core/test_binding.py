"""What the binding checks when a model is made, which instruction set it takes, and what the module exports."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine import _core
from pyengine.errors import EngineError, ModelFileError, OptionError

from ..oracle.reference import ReferenceModel
from .models import UNEVEN, TinyModel, new_session, step

NAMES_CHECKER = Path(__file__).parents[2] / "tools" / "check_names.py"


def core_of(tiny: TinyModel, **tensors: np.ndarray) -> _core.Model:
    return TinyModel(tiny.config, tiny.weights, {**tiny.packed, **tensors}, tiny.floats).core()


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("name", ["output.weight", "decoder.embed.weight", "encoder.layers.1.ffn.down.weight"])
def test_a_weight_of_minus_128_is_refused(name: str, isa: str) -> None:
    tiny = TinyModel.random("int8", tie_output=False)
    weight = tiny.packed[name].copy()
    weight.flat[-70] = -128
    with pytest.raises(ModelFileError, match=rf"{name}: expected values in \[-127, 127\], found -128"):
        TinyModel(tiny.config, "int8", {**tiny.packed, name: weight}, tiny.floats).core(isa=isa)


@pytest.mark.parametrize("stacks", [{}, UNEVEN], ids=["layers alike", "layers that differ"])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16", "int8"])
def test_every_tensor_must_have_its_shape_and_type(weights: str, stacks: dict[str, Any]) -> None:
    tiny = TinyModel.random(weights, share_embeddings=False, tie_output=False, **stacks)
    for name, tensor in tiny.packed.items():
        wrong_type = np.zeros(tensor.shape, np.float64)
        wrong_shape = np.zeros((tensor.shape[0] + 1, *tensor.shape[1:]), tensor.dtype)
        strided = np.zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]), tensor.dtype)[..., ::2]
        for bad in (wrong_type, wrong_shape, strided):
            with pytest.raises(EngineError, match="expected a .* array"):
                core_of(tiny, **{name: bad})


def test_each_stack_has_its_own_positions() -> None:
    tiny = TinyModel.random(share_embeddings=False, encoder=(1, 2, 24))
    moved = core_of(tiny, **{"encoder.positions": tiny.packed["encoder.positions"] + 1})
    logits = [
        step(new_session(model), sources={0: [3, 4]}, rows=[(0, 0, [5])], full_logits=True).logits
        for model in (tiny.core(), moved)
    ]
    floats = {**tiny.floats, "encoder.positions": tiny.floats["encoder.positions"] + 1}
    reference = ReferenceModel(tiny.config, floats)
    exact = reference.decode(np.array([5]), reference.encode(np.array([3, 4])))
    np.testing.assert_allclose(logits[1], exact, atol=1e-4)
    assert np.abs(logits[0] - exact).max() > 0.01


def test_the_model_keeps_its_arrays_alive() -> None:
    tiny = TinyModel.random()
    array = tiny.packed["output.bias"]
    before = sys.getrefcount(array)
    model = tiny.core()
    assert sys.getrefcount(array) > before
    del model
    assert sys.getrefcount(array) == before


def test_read_only_tensors_are_enough() -> None:
    tiny = TinyModel.random("int8")
    for tensor in tiny.packed.values():
        tensor.flags.writeable = False
    assert tiny.core("int8").kv == "int8"


@pytest.mark.parametrize("isa", _core.available_isas())
def test_the_environment_lowers_the_instruction_set(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("PYENGINE_ISA", isa)
    assert TinyModel.random().core().isa == isa


def test_without_a_wish_the_best_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    best = _core.available_isas()[-1]
    monkeypatch.delenv("PYENGINE_ISA", raising=False)
    assert TinyModel.random().core().isa == best
    monkeypatch.setenv("PYENGINE_ISA", "")
    assert TinyModel.random().core().isa == best


@pytest.mark.parametrize("isa", ["sse9", "avx1024", "REF", "ref "])
def test_an_unknown_instruction_set_names_what_there_is(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    expected = f"PYENGINE_ISA={isa}: expected one of {', '.join(_core.available_isas())} on this machine"
    monkeypatch.setenv("PYENGINE_ISA", isa)
    with pytest.raises(OptionError) as caught:
        TinyModel.random().core()
    assert str(caught.value) == expected
    monkeypatch.delenv("PYENGINE_ISA")
    with pytest.raises(OptionError, match="expected one of ref"):
        TinyModel.random().core(isa=isa)


@pytest.mark.parametrize(("isa", "status", "said"), [("ref", 0, "ref"), ("nonsense", 1, "OptionError: PYENGINE_ISA")])
def test_the_environment_of_a_process(isa: str, status: int, said: str) -> None:
    code = "from tests.core.models import TinyModel; print(TinyModel.random().core().isa)"
    code = f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); {code}"
    environment = {**os.environ, "PYENGINE_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done.stderr


@pytest.mark.skipif(not (shutil.which("nm") and shutil.which("readelf")), reason="reads the module with binutils")
def test_exported_names_and_the_stack() -> None:
    """Only PyInit__core is exported; the stack is not executable."""
    command = [sys.executable, str(NAMES_CHECKER), "--extension", _core.__file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "names: 0 problems\n"), done.stderr


def test_public_names_of_the_module() -> None:
    names = [
        "Beams", "Crews", "Lottery", "Model", "Session", "available_isas", "default_isa", "exp",
        "instruction_sets", "log", "power", "uniforms", "write_tokens",
    ]  # fmt: skip
    assert sorted(_core.__all__) == names


def test_the_types_of_the_extension_name_what_it_has() -> None:
    """`_core.pyi`: the exported names, with attributes and methods that are there."""
    stub = ast.parse((Path(pyengine.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
    declared = [each for each in stub.body if isinstance(each, (ast.ClassDef, ast.FunctionDef))]
    assert sorted(each.name for each in declared) == sorted(_core.__all__)
    for each in declared:
        for inner in each.body if isinstance(each, ast.ClassDef) else ():
            assert isinstance(inner, ast.FunctionDef) and hasattr(getattr(_core, each.name), inner.name), inner
