"""Language models from the checkpoints that transformers writes, converted and run in float32 by the core: logits,
and the ids of a greedy search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from pyengine.canonical import CanonicalModel
from pyengine.importers import open_checkpoint
from pyengine.options import GenerationOptions
from pyengine.scheduling.scheduler import Request, Scheduler

from ..core.models import TinyModel, new_session, step
from .checkpoints import floats, logits_by, random_ids, save, theirs_by
from .families import LANGUAGE_MODELS, VOCABULARY, Family
from .family import randomized
from .language_models import GEMMA_SIZES, gpt2, phi3

IMPORTED = [family for family in LANGUAGE_MODELS if family.__name__ != "bloom"]
LENGTHS = (1, 8, 16, 17, 33, 39)
PROMPTS, PROMPT, NEW, BEAM_NEW = 64, 9, 24, 12
SUFFIXES = (".safetensors", ".bin")


@pytest.fixture(scope="module", params=IMPORTED, ids=lambda family: family.__name__)
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, CanonicalModel]:
    make: Callable[[], Family] = request.param
    family, directory = make(), tmp_path_factory.mktemp(make.__name__)
    save(directory, family.model)
    return family, open_checkpoint(directory)


def test_what_the_importer_makes_of_it(case: tuple[Family, CanonicalModel]) -> None:
    """The configuration and the tensors that were written down by hand."""
    family, model = case
    assert replace(model.config, family=family.config.family) == family.config
    assert set(model.tensors) == set(family.tensors)
    for name, values in floats(model).items():
        np.testing.assert_allclose(values, family.tensors[name], rtol=3e-7, atol=1e-7, err_msg=name)


def in_double(family: Family) -> Any:
    """Where two tokens nearly tie, torch's own products in float32 fall to one side or the other from run to run."""
    return copy.deepcopy(family.model).double()


def core_of(model: CanonicalModel) -> Any:
    return TinyModel.of(model.config, floats(model), "float32").core()


def test_logits(case: tuple[Family, CanonicalModel]) -> None:
    family, model = case
    session = new_session(core_of(model))
    texts = [random_ids(model, length) for length in LENGTHS]
    sets = [model.config.rope_set(len(text)) for text in texts for _ in text]
    rows = [(i, -1, text) for i, text in enumerate(texts)]
    found = step(session, rows=rows, rope_sets=sets, full_logits=True).logits
    assert found is not None
    expected = np.concatenate([theirs_by(family.model, text) for text in texts])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_greedy_ids(case: tuple[Family, CanonicalModel]) -> None:
    family, model = case
    prompts = random_ids(model, PROMPTS * PROMPT).reshape(PROMPTS, PROMPT)
    session = new_session(core_of(model), max_rows=PROMPTS * PROMPT)
    rows = prompts
    found = []
    for _ in range(NEW):
        last = np.arange(PROMPTS) * rows.shape[1] + rows.shape[1] - 1
        sets = [model.config.rope_set(PROMPT + NEW)] * rows.size
        texts = [(i, -1, text) for i, text in enumerate(rows)]
        best = step(session, rows=texts, rope_sets=sets, logit_rows=last).top_ids
        found.append(best[:, 0])
        rows = best
    with torch.no_grad():
        theirs = in_double(family).generate(
            torch.tensor(prompts), attention_mask=torch.ones(prompts.shape), do_sample=False, max_new_tokens=NEW,
            eos_token_id=None, pad_token_id=5,
        )  # fmt: skip
    np.testing.assert_array_equal(np.stack(found, axis=1), theirs[:, PROMPT:].numpy())


def images_and_text() -> Any:
    """Gemma 3 with eyes: its text model is one of the keys of its config."""
    text = {key: value for key, value in GEMMA_SIZES.items() if key != "attn_implementation"}
    eyes = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = transformers.Gemma3Config(
        text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_index=VOCABULARY - 1,
        attn_implementation="eager", eos_token_id=[2, 7],
    )  # fmt: skip
    return randomized(transformers.Gemma3ForConditionalGeneration(config))


@pytest.mark.parametrize("names", ("of version 5", "of version 4"))
def test_the_text_model_of_one_that_reads_images(tmp_path: Path, names: str) -> None:
    model = images_and_text()
    save(tmp_path, model)
    if names == "of version 5":
        state = {name: values.clone() for name, values in model.state_dict().items()}
        del state["lm_head.weight"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = open_checkpoint(tmp_path)
    assert any("vision_tower" in note for note in found.notes)
    ids = np.minimum(random_ids(found, LENGTHS[-1]), VOCABULARY - 2)
    expected = theirs_by(model, ids)
    np.testing.assert_allclose(logits_by(found, ids), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_names_of_a_bare_model_and_what_old_files_hold(tmp_path: Path) -> None:
    """As the first GPT-2 was published: without "transformer.", and with masks among the tensors."""
    family = gpt2()
    save(tmp_path, family.model)
    state = {name: values.clone() for name, values in family.model.transformer.state_dict().items()}
    state |= {f"h.{i}.attn.bias": torch.ones(1, 1, 40, 40) for i in range(2)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = open_checkpoint(tmp_path)
    ids = random_ids(found, LENGTHS[-1])
    expected = theirs_by(family.model, ids)
    np.testing.assert_allclose(logits_by(found, ids), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("container", ("bfloat16", "shards", "bin", "shards of bin"))
def test_containers(tmp_path: Path, container: str) -> None:
    """Of a model whose tensors are parts of stored ones."""
    model = phi3().model.float()
    if container == "bfloat16":
        model = model.bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="60KB" if "shards" in container else "1GB")
    if "bin" in container:
        files = list(tmp_path.glob("model*.safetensors"))
        for file in files:
            torch.save(load_file(file), tmp_path / file.name.replace("model", "pytorch_model").replace(*SUFFIXES))
            file.unlink()
        if len(files) > 1:
            index = tmp_path / "model.safetensors.index.json"
            text = index.read_text().replace("model-", "pytorch_model-").replace(*SUFFIXES)
            (tmp_path / "pytorch_model.bin.index.json").write_text(text)
            index.unlink()
    assert len(list(tmp_path.glob("*model-*"))) > 2 or "shards" not in container
    found = open_checkpoint(tmp_path)
    ids = random_ids(found, LENGTHS[-1])
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    expected = theirs_by(loaded, ids)
    np.testing.assert_allclose(logits_by(found, ids), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_beams(case: tuple[Family, CanonicalModel]) -> None:
    """The best of four, with the checkpoint's end tokens: ids and scores."""
    family, model = case
    config, defaults = model.config, model.generation
    stack, vocab = config.target_side()
    assert defaults is not None and defaults.eos_token_id
    options = GenerationOptions(num_beams=4, max_new_tokens=BEAM_NEW).resolve(defaults, vocab, stack.max_positions)
    prompts = random_ids(model, PROMPTS * PROMPT).reshape(PROMPTS, PROMPT)
    scheduler = Scheduler(new_session(core_of(model)), vocab=vocab, budget=64, rope_set=config.rope_set)
    found = [best[0] for best in scheduler.run([Request(None, prompt.astype(np.int32), options) for prompt in prompts])]
    with torch.no_grad():
        theirs = in_double(family).generate(
            torch.tensor(prompts), attention_mask=torch.ones(prompts.shape), num_beams=4, do_sample=False,
            max_new_tokens=BEAM_NEW, pad_token_id=5,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    for own, ids in zip(found, theirs.sequences[:, PROMPT:].numpy(), strict=True):
        np.testing.assert_array_equal(own.ids, ids[: len(own.ids)])
        assert (ids[len(own.ids) :] == 5).all()
    scores = [own.score for own in found]
    np.testing.assert_allclose(scores, theirs.sequences_scores.numpy(), rtol=0, atol=1e-3)
