"""Encoders with decoders from the checkpoints that transformers writes, converted and run in float32 by the core:
logits, and the ids and scores of searches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyengine.canonical import CanonicalModel
from pyengine.importers import open_checkpoint
from pyengine.importers.t5 import _bucket
from pyengine.options import GenerationOptions
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request, Scheduler
from pyengine.tasks.forcing import target_logits
from pyengine.tasks.inputs import Sample

from ..core.models import TinyModel, new_session
from .checkpoints import floats, save
from .families import SEQ2SEQ, VOCABULARY, Family

LENGTHS = (1, 8, 16, 17, 33, 40)
SOURCES, LONGEST, NEW = 64, 17, 12
LOWEST = 8  # of random ids: those below are special


@pytest.fixture(scope="module", params=SEQ2SEQ, ids=lambda family: family.__name__)
def case(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, CanonicalModel]:
    make: Callable[[], Family] = request.param
    family, directory = make(), tmp_path_factory.mktemp(make.__name__)
    save(directory, family.model)
    return family, open_checkpoint(directory)


def random_texts(lengths: Any) -> list[np.ndarray]:
    rng = np.random.RandomState(2)
    return [rng.randint(LOWEST, VOCABULARY, length).astype(np.int32) for length in lengths]


def core_of(model: CanonicalModel) -> Any:
    return TinyModel.of(model.config, floats(model), "float32").core()


def test_what_the_importer_makes_of_it(case: tuple[Family, CanonicalModel]) -> None:
    """The configuration and the tensors that were written down by hand."""
    family, model = case
    assert replace(model.config, family=family.config.family) == family.config
    assert set(model.tensors) == set(family.tensors)
    for name, values in floats(model).items():
        bound = 1e-6 if name.endswith(".positions") else 1e-7  # torch's exponential is off by a bit
        np.testing.assert_allclose(values, family.tensors[name], rtol=3e-7, atol=bound, err_msg=name)


def test_logits(case: tuple[Family, CanonicalModel]) -> None:
    """Of targets of all lengths after sources of all lengths."""
    family, model = case
    assert model.generation is not None or family.model.config.decoder_start_token_id is None
    sources, targets = random_texts(LENGTHS), random_texts(LENGTHS[::-1])
    samples = [Sample(source, target) for source, target in zip(sources, targets, strict=True)]
    start = LOWEST
    found = target_logits(new_session(core_of(model)), model.config, samples, start, budget=64, deadline=Deadline())
    for sample, own in zip(samples, found, strict=True):
        source, target = sample
        assert source is not None and target is not None
        inputs = torch.tensor(np.append(np.int32(start), target[:-1]))[None].long()
        with torch.no_grad():
            output = family.model(input_ids=torch.tensor(source)[None].long(), decoder_input_ids=inputs)
        expected = output.logits[0].numpy()
        assert np.abs(own - expected).max() < 1e-4 * np.abs(expected).max()


def in_double(family: Family) -> Any:
    """Where two tokens nearly tie, torch's own products in float32 fall to one side or the other from run to run."""
    return copy.deepcopy(family.model).double()


@pytest.mark.parametrize("beams", (1, 4))
def test_searches(case: tuple[Family, CanonicalModel], beams: int) -> None:
    """Ids of 64 sources, and scores where there are beams: by the checkpoint's start, end and forced tokens."""
    family, model = case
    config, defaults = model.config, model.generation
    stack, vocab = config.target_side()
    assert defaults is not None
    options = GenerationOptions(num_beams=beams, max_new_tokens=NEW).resolve(defaults, vocab, stack.max_positions)
    sources = random_texts(np.random.RandomState(3).randint(1, LONGEST, SOURCES))
    start = np.array([defaults.decoder_start_token_id], np.int32)
    scheduler = Scheduler(new_session(core_of(model)), vocab=vocab, budget=64)
    requests = [Request(source, start, options) for source in sources]
    theirs = in_double(family)
    for source, found in zip(sources, scheduler.run(requests), strict=True):
        assert not isinstance(found, Exception)
        with torch.no_grad():
            output = theirs.generate(
                torch.tensor(source)[None].long(), num_beams=beams, do_sample=False, max_new_tokens=NEW,
                output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
        best, ids = found[0], output.sequences[0, 1:].numpy()
        np.testing.assert_array_equal(best.ids, ids[: len(best.ids)])
        assert (ids[len(best.ids) :] == theirs.config.pad_token_id).all()
        if beams > 1:
            assert best.score == pytest.approx(float(output.sequences_scores[0]), abs=1e-4)


@pytest.mark.parametrize("buckets, reach", [(32, 128), (12, 20), (8, 9), (13, 30), (64, 800)])
@pytest.mark.parametrize("both", (True, False))
def test_buckets(buckets: int, reach: int, both: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-reach - 9, reach + 10)
    expected = T5Attention._relative_position_bucket(distances, both, buckets, reach).tolist()
    assert [_bucket(distance, buckets, reach, both) for distance in distances.tolist()] == expected
