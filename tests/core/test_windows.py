"""Windowed layers: pages behind the window are given back, and no byte depends on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core
from pyengine.canonical.config import ModelConfig

from ..oracle.random_config import random_config, random_tensors
from .models import TinyModel, make_plan, new_session, step

PAGE = 16
POSITIONS = 600
WINDOWS = (5, 16, 33)


def windowed(*windows: int | None) -> _core.Model:
    """A decoder alone, with rotary positions; a layer for each window, which counts the own key."""
    config = next(
        config for config in map(random_config, range(1000))
        if config.encoder is None and config.decoder is not None and config.ropes and config.decoder.positions == "none"
    )  # fmt: skip
    assert config.decoder is not None
    first = config.decoder.layers[0]
    layers = tuple(
        replace(first, self_attention=replace(
            first.self_attention, window=None if window is None else (window - 1, 0), rope=next(iter(config.ropes))
        ))
        for window in windows
    )  # fmt: skip
    decoder = replace(config.decoder, layers=layers, max_positions=POSITIONS, relative_reach=0, slopes=False)
    config: ModelConfig = replace(config, decoder=decoder)
    return TinyModel.of(config, random_tensors(config, 1), "int8").core("int8")


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE)


@pytest.mark.parametrize("rows", [1, 7, 16, 100])
def test_a_sequence_holds_the_pages_of_its_window(rows: int) -> None:
    session = new_session(windowed(None, *WINDOWS))
    tokens = np.random.default_rng(rows).integers(0, 300, POSITIONS - POSITIONS % rows)
    for start in range(0, len(tokens), rows):
        step(session, rows=[(0, -1, tokens[start : start + rows])], logit_rows=[])
        held = session.used_pages
        assert held[0] == pages_of(start + rows)
        for window, pages in zip(WINDOWS, held[1:], strict=True):
            assert pages <= pages_of(window) + 2
    step(session, free_sequences=[0])
    assert session.used_pages == [0, 0, 0, 0]


@pytest.mark.parametrize("rows", [1, 16, 40])
def test_a_step_takes_the_pages_of_its_window_and_its_rows(rows: int) -> None:
    """A cache of the bytes that `sequence_bytes` asks for has room for every step, however long the sequence is."""
    model = windowed(*WINDOWS)
    free = new_session(model, max_rows=rows)
    page = free.sequence_bytes(1) // len(WINDOWS)
    most = free.sequence_bytes(POSITIONS)
    assert most == sum(pages_of(window + rows) + 2 for window in WINDOWS) * page
    bounded = new_session(model, max_rows=rows, cache_bytes=most)
    tokens = np.random.default_rng(rows).integers(0, 300, 560)
    for start in range(0, len(tokens), rows):
        plan = make_plan(rows=[(0, -1, tokens[start : start + rows])])
        assert bounded.step(plan).top_logits.tobytes() == free.step(plan).top_logits.tobytes()


def test_forks_share_what_their_window_sees() -> None:
    model = windowed(None, 33)
    session, alone = new_session(model), new_session(model)
    tokens = np.random.default_rng(0).integers(0, 300, 200)
    step(session, rows=[(0, -1, tokens)], logit_rows=[])
    before = session.used_pages
    step(session, forks=[(0, 1), (0, 2)])
    assert session.used_pages == before
    for sequence, next_tokens in ((1, [5]), (2, [6]), (0, [7]), (1, [8])):
        step(session, rows=[(sequence, -1, next_tokens)], logit_rows=[])
    step(session, free_sequences=[0, 2])
    found = step(session, rows=[(1, -1, [9])], full_logits=True)
    wanted = step(alone, rows=[(0, -1, [*tokens, 5, 8, 9])], logit_rows=[202], full_logits=True)
    assert found.logits is not None and wanted.logits is not None
    assert found.logits.tobytes() == wanted.logits.tobytes()
    step(session, free_sequences=[1])
    assert session.used_pages == [0, 0]


def test_the_pages_of_one_group_become_those_of_another() -> None:
    """A bound of bytes is shared: what a long sequence leaves unused, many short ones may take."""
    model = windowed(None, 33)
    page = new_session(model).sequence_bytes(1) // 2
    session = new_session(model, cache_bytes=34 * page)
    step(session, rows=[(0, -1, [1] * 250)], logit_rows=[])
    step(session, free_sequences=[0])
    for sequence in range(17):  # two pages each
        step(session, rows=[(sequence, -1, [2] * 16)], logit_rows=[])
    assert session.used_pages == [17, 17]
    step(session, free_sequences=range(17))
    step(session, rows=[(0, -1, [3] * 250)], logit_rows=[])
