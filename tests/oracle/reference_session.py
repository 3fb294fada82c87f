"""A session that obeys plans by brute force, and checks that every plan keeps the rules."""

from __future__ import annotations

import numpy as np

from tests.oracle.reference import ReferenceModel

from pyengine.plan import Observer, Plan, StepResult

__all__ = ["ReferenceSession"]


class ReferenceSession:
    """Recomputes whole prefixes; asserts where the C core would report a bad plan."""

    def __init__(
        self,
        model: ReferenceModel,
        *,
        max_rows: int = 1024,
        max_sequences: int = 4096,
        max_memories: int = 1024,
    ) -> None:
        self.max_rows = max_rows
        self.max_bytes = 1 << 40
        self.working_bytes = self.cache_bytes = 0
        self.max_sequences = max_sequences
        self.max_memories = max_memories
        self.sequences: dict[int, list[int]] = {}
        self.memories: dict[int, np.ndarray] = {}
        self.lists: dict[int, np.ndarray] = {}
        self.rows_run = 0
        self.steps_run = 0
        self._model = model

    def sequence_bytes(self, tokens: int) -> int:
        return tokens

    memory_bytes = sequence_bytes

    def step(self, plan: Plan, patience: float = 0.0, since: int = 0) -> StepResult:
        assert len(plan.tokens) <= self.max_rows and len(plan.encode_tokens) <= self.max_rows
        self._prepare(plan)
        self._encode(plan)
        self.rows_run += len(plan.tokens)
        self.steps_run += 1
        vocab = self._model.config.target_vocab
        wanted = {int(row): q for q, row in enumerate(plan.logit_rows)}
        assert list(wanted) == sorted(wanted)
        logits = np.zeros((len(wanted), vocab), np.float64)
        listed = [self.lists.get(int(plan.memories[row])) for row in plan.logit_rows]
        if any(ids is not None for ids in listed):
            assert not plan.full_logits and all(ids is not None for ids in listed)
        ends: set[int] = set()
        for row, (token, sequence) in enumerate(
            zip(plan.tokens.tolist(), plan.sequences.tolist(), strict=True)
        ):
            assert 0 <= sequence < self.max_sequences and 0 <= token < vocab
            if row and plan.sequences[row - 1] != sequence:
                ends.add(int(plan.sequences[row - 1]))
            assert sequence not in ends, "rows of one sequence must be adjacent"
            prefix = self.sequences.setdefault(sequence, [])
            prefix.append(token)
            if row in wanted:
                memory = self.memories[int(plan.memories[row])]
                logits[wanted[row]] = self._model.decode(np.array(prefix), memory)[-1]
        for row, ids in zip(logits, listed, strict=True):
            if ids is not None:
                row[np.setdiff1d(np.arange(vocab), ids)] = -np.inf
        return self._candidates(plan, logits)

    def _prepare(self, plan: Plan) -> None:
        before = {parent: list(self.sequences[parent]) for parent in plan.forks[:, 0].tolist()}
        for parent, child in plan.forks.tolist():
            assert child not in self.sequences and 0 <= child < self.max_sequences
            self.sequences[child] = list(before[parent])
        for sequence in plan.free_sequences.tolist():
            del self.sequences[sequence]
        for memory in plan.free_memories.tolist():
            del self.memories[memory]
            self.lists.pop(memory, None)

    def clear(self) -> None:
        self.sequences.clear()
        self.memories.clear()
        self.lists.clear()

    def observe(self, callback: Observer | None) -> None:
        """Whole prefixes are computed again and again here: there is nothing to show row by row."""
        assert callback is None

    def _encode(self, plan: Plan) -> None:
        assert plan.encode_lengths.sum() == len(plan.encode_tokens)
        segments = np.split(plan.encode_tokens, np.cumsum(plan.encode_lengths)[:-1])
        for memory, segment in zip(plan.encode_memories.tolist(), segments, strict=False):
            assert memory not in self.memories and 0 <= memory < self.max_memories and len(segment)
            self.memories[memory] = self._model.encode(segment)
        if not len(plan.list_offsets):
            return
        assert len(plan.list_offsets) == len(plan.encode_lengths) + 1 and plan.list_offsets[0] == 0
        assert plan.list_offsets[-1] == len(plan.list_ids)
        for index, memory in enumerate(plan.encode_memories.tolist()):
            ids = plan.list_ids[slice(*plan.list_offsets[index : index + 2])]
            assert len(ids) and np.all(np.diff(ids) > 0), "the ids of a list must ascend"
            assert 0 <= ids[0] and ids[-1] < self._model.config.target_vocab
            self.lists[memory] = ids

    def _candidates(self, plan: Plan, logits: np.ndarray) -> StepResult:
        k = plan.top_k
        assert len(plan.exclude_offsets) == len(logits) + 1 and plan.exclude_offsets[-1] == len(
            plan.exclude_ids
        )
        top_ids = np.full((len(logits), k), -1, np.int32)
        top_logits = np.full((len(logits), k), -np.inf, np.float32)
        excluded_logits = np.zeros(len(plan.exclude_ids), np.float32)
        for q, row in enumerate(logits):
            span = slice(plan.exclude_offsets[q], plan.exclude_offsets[q + 1])
            excluded = plan.exclude_ids[span]
            assert np.all(np.diff(excluded) > 0), "excluded ids must ascend"
            excluded_logits[span] = row[excluded]
            allowed = np.setdiff1d(np.flatnonzero(row > -np.inf), excluded)
            best = allowed[np.argsort(-row[allowed].astype(np.float32), kind="stable")[:k]]
            top_ids[q, : len(best)] = best
            top_logits[q, : len(best)] = row[best]
        peak = logits.max(axis=1, initial=-np.inf)
        normalizer = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
        full = logits.astype(np.float32) if plan.full_logits else None
        return StepResult(normalizer, top_ids, top_logits, excluded_logits, full)
