"""Teacher forcing: the model's opinion of targets that are given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyengine.plan import Plan, Session
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.slicing import run_plan

__all__ = ["target_log_probs", "target_logits"]

LOGIT_ROWS = 64
"""Rows whose whole logits are held at once."""


def target_log_probs(
    session: Session,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    start: int,
    *,
    budget: int,
    deadline: Deadline,
) -> list[np.ndarray]:
    """float64 log-probability of each token of the targets of (source, target) pairs of int32 ids.

    Runs as many pairs in a step as `budget` rows take, one at least; `start` is the start token.
    """
    found = []
    try:
        for batch in _batches(pairs, budget, session):
            deadline.check()
            lengths = np.array([len(target) for _, target in batch])
            labels = np.concatenate([target for _, target in batch])
            pair_of = np.repeat(np.arange(len(batch), dtype=np.int32), lengths)
            result = run_plan(
                session,
                Plan(
                    encode_tokens=np.concatenate([source for source, _ in batch]),
                    encode_lengths=np.array([len(source) for source, _ in batch], np.int32),
                    encode_memories=np.arange(len(batch), dtype=np.int32),
                    tokens=np.concatenate([_shifted(target, start) for _, target in batch]),
                    sequences=pair_of,
                    memories=pair_of,
                    logit_rows=np.arange(len(labels), dtype=np.int32),
                    exclude_offsets=np.arange(len(labels) + 1, dtype=np.int32),
                    exclude_ids=labels,
                ),
            )
            session.clear()
            log_probs = result.excluded_logits.astype(np.float64) - result.log_normalizer
            found += np.split(log_probs, np.cumsum(lengths)[:-1])
    finally:
        session.clear()
    return found


def target_logits(
    session: Session,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    start: int,
    vocab: int,
    *,
    budget: int,
    deadline: Deadline,
) -> Iterator[np.ndarray]:
    """For each (source, target) of int32 ids, float32 [T, vocab]: raw logits before each of the target's T tokens,
    given those before it.

    Encodes as many pairs in a step as `budget` rows take, one at least; `start` is the start token.
    """
    try:
        for batch in _batches(pairs, budget, session):
            deadline.check()
            run_plan(
                session,
                Plan(
                    encode_tokens=np.concatenate([source for source, _ in batch]),
                    encode_lengths=np.array([len(source) for source, _ in batch], np.int32),
                    encode_memories=np.arange(len(batch), dtype=np.int32),
                ),
            )
            pieces = _logit_pieces(session, [_shifted(target, start) for _, target in batch], deadline)
            piece = np.empty((0, vocab), np.float32)
            for _, target in batch:
                logits = np.empty((len(target), vocab), np.float32)
                filled = 0
                while filled < len(target):
                    piece = piece if len(piece) else next(pieces)
                    part = piece[: len(target) - filled]
                    logits[filled : filled + len(part)] = part
                    filled, piece = filled + len(part), piece[len(part) :]
                yield logits
            session.clear()
    finally:
        session.clear()


def _logit_pieces(session: Session, inputs: list[np.ndarray], deadline: Deadline) -> Iterator[np.ndarray]:
    """float32 [n, vocab], n at most LOGIT_ROWS: logits after each token of the inputs, end to end; input i has memory
    and sequence i.
    """
    rows = np.concatenate(inputs)
    input_of = np.repeat(np.arange(len(inputs), dtype=np.int32), [len(each) for each in inputs])
    for begin in range(0, len(rows), LOGIT_ROWS):
        deadline.check()
        own = slice(begin, begin + LOGIT_ROWS)
        plan = Plan(
            tokens=rows[own],
            sequences=input_of[own],
            memories=input_of[own],
            logit_rows=np.arange(len(rows[own]), dtype=np.int32),
            exclude_offsets=np.zeros(len(rows[own]) + 1, np.int32),
            full_logits=True,
        )
        logits = run_plan(session, plan).logits
        assert logits is not None  # the plan asked for them
        yield logits


def _shifted(target: np.ndarray, start: int) -> np.ndarray:
    """The decoder's input before each token of `target`."""
    return np.concatenate([np.array([start], np.int32), target[:-1]])


def _batches(
    pairs: list[tuple[np.ndarray, np.ndarray]], budget: int, session: Session
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """As many pairs as `budget` rows and the session's cache take, one at least."""
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    rows = room = 0
    for pair in pairs:
        own_rows = len(pair[0]) + len(pair[1])
        own_room = session.memory_bytes(len(pair[0])) + session.sequence_bytes(len(pair[1]))
        if batch and (rows + own_rows > budget or room + own_room > session.max_bytes):
            yield batch
            batch, rows, room = [], 0, 0
        batch.append(pair)
        rows, room = rows + own_rows, room + own_room
    if batch:
        yield batch
