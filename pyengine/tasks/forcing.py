"""Teacher forcing: the model's opinion of targets that are given, and what an encoder makes of sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pyengine.canonical import ModelConfig
from pyengine.errors import CacheFullError
from pyengine.plan import Plan, Session, StepResult
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.slicing import run_plan
from pyengine.tasks.inputs import Sample
from pyengine.tasks.outcomes import answered

__all__ = ["judged", "source_states", "target_best", "target_inputs", "target_log_probs", "target_logits"]

LOGIT_ROWS = 64
"""Rows whose whole logits are held at once."""


def target_log_probs(
    session: Session,
    config: ModelConfig,
    samples: Sequence[Sample],
    start: int | None,
    *,
    budget: int,
    deadline: Deadline,
) -> list[np.ndarray]:
    """float64 log-probability of each token of the targets of `samples`.

    Runs as many samples in a step as `budget` rows take, one at least. `start` is the start token; None: the first
    token of a target takes its place, and is not among the others.
    """
    return [answered(each) for each in judged(session, config, samples, start, budget=budget, deadline=deadline)]


def judged(
    session: Session,
    config: ModelConfig,
    samples: Sequence[Sample],
    start: int | None,
    *,
    budget: int,
    deadline: Deadline,
) -> Iterator[np.ndarray | Exception]:
    """What `target_log_probs` gives, one by one; an error in place of one that is too large for the cache by itself."""
    try:
        for batch in _batches(samples, budget, session):
            deadline.check()
            targets = [_judged(sample, start) for sample in batch]
            labels = np.concatenate(targets)
            plan = Plan(
                **_encoded(batch),
                **_rows(config, batch, start),
                logit_rows=np.arange(len(labels), dtype=np.int32),
                exclude_offsets=np.arange(len(labels) + 1, dtype=np.int32),
                exclude_ids=labels,
            )
            try:
                result = run_plan(session, plan)
            except CacheFullError as error:
                if len(batch) > 1:  # they fit together
                    raise
                yield error
                continue
            finally:
                session.clear()
            log_probs = result.excluded_logits.astype(np.float64) - result.log_normalizer
            yield from np.split(log_probs, np.cumsum([len(target) for target in targets])[:-1])
    finally:
        session.clear()


def target_logits(
    session: Session,
    config: ModelConfig,
    samples: Sequence[Sample],
    start: int | None,
    *,
    budget: int,
    deadline: Deadline,
) -> Iterator[np.ndarray]:
    """For each of `samples`, float32 [T, vocab]: raw logits before each of its target's T tokens, given those before.

    Encodes as many samples in a step as `budget` rows take, one at least; `start` as of `target_log_probs`.
    """
    _, vocab = config.target_side()
    try:
        for batch in _batches(samples, budget, session):
            deadline.check()
            if batch[0].source is not None:
                run_plan(session, Plan(**_encoded(batch)))
            pieces = _pieces(session, _rows(config, batch, start), deadline)
            piece = np.empty((0, vocab), np.float32)
            for sample in batch:
                logits = np.empty((len(_judged(sample, start)), vocab), np.float32)
                filled = 0
                while filled < len(logits):
                    piece = piece if len(piece) else _whole_rows(next(pieces))
                    part = piece[: len(logits) - filled]
                    logits[filled : filled + len(part)] = part
                    filled, piece = filled + len(part), piece[len(part) :]
                yield logits
            session.clear()
    finally:
        session.clear()


def target_best(
    session: Session, config: ModelConfig, ids: np.ndarray, count: int, *, deadline: Deadline
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each token of `ids` [T] but the first: its log-probability, float64 [T - 1], and the `count` best tokens in
    its place with theirs, int32 and float64 [T - 1, count], best first; -1 and minus infinity where there are fewer.
    """
    from pyengine._core import Lottery  # converting needs no core

    every = Lottery(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0)
    log_probs = np.empty(len(ids) - 1)
    best = np.empty((len(log_probs), count), np.int32), np.empty((len(log_probs), count))
    filled = 0
    try:
        if len(log_probs):
            rows = _rows(config, [Sample(None, ids)], None)
            for result in _pieces(session, rows, deadline, ids[1:]):
                own = slice(filled, filled + len(result.log_normalizer))
                log_probs[own] = result.excluded_logits.astype(np.float64) - result.log_normalizer
                for place, logits in enumerate(_whole_rows(result).astype(np.float64), filled):
                    best[0][place], best[1][place] = every.best(logits, count)
                filled = own.stop
    finally:
        session.clear()
    return log_probs, *best


def source_states(
    session: Session, samples: Sequence[Sample], *, budget: int, deadline: Deadline
) -> Iterator[np.ndarray]:
    """For each of `samples`, float32 [S, width]: what an encoder without a decoder makes of its source's S tokens.

    Runs as many samples in a step as `budget` rows take, one at least.
    """
    for batch in _batches([Sample(sample.source, None) for sample in samples], budget, session):
        deadline.check()
        plan = Plan(**_encoded(batch), states=True)
        states = run_plan(session, plan).states
        assert states is not None  # they were asked for
        yield from np.split(states, np.cumsum(plan.encode_lengths)[:-1])


def target_inputs(target: np.ndarray, start: int | None) -> np.ndarray:
    """The decoder's input before each token of `target`, of which the first takes the place of a missing `start`."""
    return target[:-1] if start is None else np.concatenate([np.array([start], np.int32), target[:-1]])


def _pieces(
    session: Session, rows: dict[str, np.ndarray], deadline: Deadline, labels: np.ndarray | None = None
) -> Iterator[StepResult]:
    """All logits after each of a plan's rows, end to end, LOGIT_ROWS at most at a time; and at `labels`, one a row."""
    for begin in range(0, len(rows["tokens"]), LOGIT_ROWS):
        deadline.check()
        own: dict[str, Any] = {name: each[begin : begin + LOGIT_ROWS] for name, each in rows.items()}
        count = len(own["tokens"])
        asked = np.zeros(0, np.int32) if labels is None else labels[begin : begin + count]
        yield run_plan(
            session,
            Plan(
                **own,
                logit_rows=np.arange(count, dtype=np.int32),
                exclude_offsets=np.minimum(np.arange(count + 1, dtype=np.int32), len(asked)).astype(np.int32),
                exclude_ids=asked,
                full_logits=True,
            ),
        )


def _whole_rows(result: StepResult) -> np.ndarray:
    assert result.logits is not None  # they were asked for
    return result.logits


def _encoded(batch: Sequence[Sample]) -> dict[str, Any]:
    """Parts of a plan: the sources, kept as memory i of sample i where there is a target. Nothing without sources."""
    sources = [sample.source for sample in batch if sample.source is not None]
    if not sources:
        return {}
    kept = batch[0].target is not None
    return {
        "encode_tokens": np.concatenate(sources),
        "encode_lengths": np.array([len(source) for source in sources], np.int32),
        "encode_memories": np.arange(len(batch), dtype=np.int32) if kept else np.full(len(batch), -1, np.int32),
    }


def _rows(config: ModelConfig, batch: Sequence[Sample], start: int | None) -> dict[str, Any]:
    """Parts of a plan: what the decoder reads of the targets, i by sequence i with memory i."""
    inputs = [target_inputs(_of_decoder(sample), start) for sample in batch]
    lengths = [len(each) for each in inputs]
    of = np.repeat(np.arange(len(batch), dtype=np.int32), lengths)
    memories = of if batch[0].source is not None else np.full_like(of, -1)
    rope_sets = np.array([config.rope_set(length) for length in lengths], np.int32).repeat(lengths)
    return {"tokens": np.concatenate(inputs), "sequences": of, "memories": memories, "rope_sets": rope_sets}


def _of_decoder(sample: Sample) -> np.ndarray:
    assert sample.target is not None  # whoever asks for an opinion gives a target
    return sample.target


def _judged(sample: Sample, start: int | None) -> np.ndarray:
    """Ids of the tokens of a target that something comes before."""
    target = _of_decoder(sample)
    return target[1:] if start is None else target


def _batches(samples: Sequence[Sample], budget: int, session: Session) -> Iterator[list[Sample]]:
    """As many samples as `budget` rows and the session's cache take, one at least."""
    batch: list[Sample] = []
    rows = room = 0
    for sample in samples:
        source, target = (0 if side is None else len(side) for side in sample)
        own_room = session.memory_bytes(source) + session.sequence_bytes(target) if target else 0
        if batch and (rows + source + target > budget or room + own_room > session.max_bytes):
            yield batch
            batch, rows, room = [], 0, 0
        batch.append(sample)
        rows, room = rows + source + target, room + own_room
    if batch:
        yield batch
