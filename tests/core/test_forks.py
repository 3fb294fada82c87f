"""Forks share pages and never see each other's tokens; freed pages come back."""

from __future__ import annotations

import numpy as np
import pytest


from .models import COMPUTE, UNEVEN, TinyModel, new_session, step

SOURCE = list(range(19))


EVEN = dict(width=24, decoder=(3, 3, 20))


@pytest.fixture(
    scope="module",
    params=[(*COMPUTE[0], EVEN), (*COMPUTE[3], EVEN), (*COMPUTE[3], UNEVEN)],
    ids=["float32", "int8", "int8, layers that differ"],
)
def model(request: pytest.FixtureRequest):
    weights, kv, stacks = request.param
    changes = dict(source_vocab=50, target_vocab=50, max_positions=100)
    return TinyModel.random(weights, seed=21, **changes, **stacks).core(kv)


def tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 50, n).tolist()


def logits_of(model, target: list[int]) -> np.ndarray:
    """The logits of every row of a sequence that was never forked."""
    result = step(new_session(model), sources={0: SOURCE}, rows=[(0, 0, target)], full_logits=True)
    assert result.logits is not None
    return result.logits


def started(model, prefix: list[int], **options: int):
    """A session in which sequence 0 holds `prefix`."""
    session = new_session(model, **options)
    step(session, sources={0: SOURCE}, rows=[(0, 0, prefix)])
    return session


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33])
@pytest.mark.parametrize("threads", [1, 3])
def test_children_and_parent_go_their_own_ways(model, n: int, threads: int) -> None:
    """Copy on write, at every place in a page: three owners of one last page write in one step, and again."""
    prefix = tokens(n)
    session = started(model, prefix, threads=threads)
    tails = {0: tokens(20, 1), 7: tokens(20, 2), 3: tokens(20, 3)}
    expected = {sequence: logits_of(model, prefix + tail)[n:] for sequence, tail in tails.items()}
    forks = [(0, 7), (0, 3)]
    for start, stop in ((0, 1), (1, 4), (4, 20)):
        rows = [(sequence, 0, tail[start:stop]) for sequence, tail in tails.items()]
        result = step(session, forks=forks, rows=rows, full_logits=True)
        assert result.logits is not None
        for i, sequence in enumerate(tails):
            own = result.logits[i * (stop - start) : (i + 1) * (stop - start)]
            assert own.tobytes() == expected[sequence][start:stop].tobytes()
        forks = []


def test_a_sibling_that_waits_keeps_its_bytes(model) -> None:
    prefix = tokens(21)
    session = started(model, prefix)
    step(session, forks=[(0, 1)])
    step(session, rows=[(0, 0, tokens(30, 1))])  # the parent fills the page that the child still shares, and more
    late = step(session, rows=[(1, 0, tokens(5, 2))], full_logits=True)
    assert late.logits is not None
    assert late.logits.tobytes() == logits_of(model, prefix + tokens(5, 2))[21:].tobytes()


def test_fork_free_and_run_in_one_step(model) -> None:
    """The usual step of a beam search: survivors move to new ids, the old ones go, all get a token."""
    prefix = tokens(18)
    session = started(model, prefix)
    result = step(
        session, forks=[(0, 1), (0, 2)], free_sequences=[0], rows=[(2, 0, [5]), (1, 0, [6])], full_logits=True
    )
    assert result.logits is not None
    assert result.logits[0].tobytes() == logits_of(model, [*prefix, 5])[-1].tobytes()
    assert result.logits[1].tobytes() == logits_of(model, [*prefix, 6])[-1].tobytes()
    again = step(session, rows=[(0, 0, [9])], full_logits=True)  # the freed id starts empty
    assert again.logits is not None
    assert again.logits.tobytes() == logits_of(model, [9]).tobytes()


def test_a_fork_of_a_fork(model) -> None:
    prefix = tokens(17)
    session = started(model, prefix)
    step(session, forks=[(0, 1)], rows=[(1, 0, [3])])
    result = step(session, forks=[(1, 2)], free_sequences=[1], rows=[(2, 0, [4]), (0, 0, [8])], full_logits=True)
    assert result.logits is not None
    assert result.logits[0].tobytes() == logits_of(model, [*prefix, 3, 4])[-1].tobytes()
    assert result.logits[1].tobytes() == logits_of(model, [*prefix, 8])[-1].tobytes()


def test_random_beams_against_unforked_sequences(model) -> None:
    """A search over three pages' worth of steps with random survivors."""
    rng = np.random.default_rng(5)
    beams = {i: [i] for i in range(6)}  # sequence -> its tokens
    session = new_session(model, threads=2)
    step(session, sources={0: SOURCE}, rows=[(i, 0, held) for i, held in beams.items()])
    unused = list(range(6, 30))
    for _ in range(50):
        old = list(beams)
        parents = rng.choice(old, 6)
        forks = [(int(parent), unused.pop(0)) for parent in parents]
        added = rng.integers(0, 50, 6)
        beams = {child: [*beams[parent], int(new)] for (parent, child), new in zip(forks, added, strict=True)}
        rows = [(child, 0, held[-1:]) for child, held in beams.items()]
        result = step(session, forks=forks, free_sequences=old, rows=rows, full_logits=True)
        unused += old
    assert result.logits is not None
    for i, held in enumerate(beams.values()):
        assert result.logits[i].tobytes() == logits_of(model, held)[-1].tobytes()


def test_freeing_returns_pages(model) -> None:
    session = started(model, tokens(20))
    sizes = set()
    for round_ in range(1000):
        children = list(range(1, 9))
        rows = [(child, 0, [round_ % 50]) for child in children]
        step(session, forks=[(0, child) for child in children], rows=rows, sources={1: SOURCE})
        step(session, free_sequences=children, free_memories=[1])
        sizes.add(session.cache_bytes)
    assert len(sizes) == 1


def test_a_page_that_was_copied_comes_back(model) -> None:
    """The last of those who shared it gives it back, whoever that is: the parent, or a child that went on waiting."""
    session = new_session(model)
    step(session, sources={0: SOURCE})
    sizes = set()
    for round_ in range(1000):
        step(session, rows=[(0, 0, tokens(20))])
        step(session, forks=[(0, 1), (0, 2)], rows=[(0, 0, [1]), (1, 0, [2])])
        first, rest = ([0], [1, 2]) if round_ % 2 else ([2], [0, 1])
        step(session, free_sequences=first)
        step(session, free_sequences=rest)
        sizes.add(session.cache_bytes)
    assert len(sizes) == 1


def test_forks_share_their_pages(model) -> None:
    """79 forks of 97 tokens, each with a token of its own, need 79 pages more; 79 sequences need six times that."""
    session = started(model, tokens(97))
    before = session.cache_bytes
    children = range(1, 80)
    step(session, forks=[(0, child) for child in children])
    step(session, rows=[(child, 0, [1]) for child in children])
    assert session.cache_bytes == before
    apart = started(model, tokens(97))
    for child in children:
        step(apart, rows=[(child, 0, tokens(97))])
    assert apart.cache_bytes > before


def test_clear_frees_everything(model) -> None:
    session = started(model, tokens(40))
    size = session.cache_bytes
    for _ in range(50):
        session.clear()
        result = step(session, sources={0: SOURCE}, rows=[(0, 0, tokens(40))], full_logits=True)
    assert session.cache_bytes == size
    assert result.logits is not None
    assert result.logits.tobytes() == logits_of(model, tokens(40)).tobytes()
