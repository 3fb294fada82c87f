"""What linear layers read when a model translates a text: the statistics that quantization with data starts from.

The engine runs the model by teacher forcing and shows every layer's inputs. Sums are made of blocks of rows that the
text alone decides, and the engine's bytes do not depend on threads or batches: neither do the statistics (the matrix
products of NumPy's BLAS as far as it promises that).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pyengine.canonical import GenerationDefaults, LazyTensor, ModelConfig, tensor_specs
from pyengine.canonical.tensors import mismatches
from pyengine.errors import InputError, OptionError
from pyengine.formats.regular_files import usable_path
from pyengine.modelfile.layout import pack_float32, pack_values, packed_specs, stack_rows
from pyengine.plan import Session
from pyengine.quantize.calibration_state import load_state, save_state
from pyengine.quantize.statistics import InputStatistics
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.engine import Engine, make_engine
from pyengine.tasks.forcing import target_log_probs
from pyengine.tasks.inputs import Inputs, Sentence
from pyengine.tasks.translator import Translator
from pyengine.text import Tokenizer

__all__ = ["calibrate", "in_memory_engine", "paired_inputs"]

BATCH_ROWS = 1024  # of a step, encoder and decoder together
BLOCK_ROWS = 256  # that statistics take in at a time
CHUNK_LINES = 128  # blocks end with them, and between two of them a state may be saved
SAVE_SECONDS = 60.0  # between two states

Progress = Callable[[int, int], None]  # (lines done, of all)
Pair = tuple[np.ndarray, "np.ndarray | None"]  # int32 ids; no target: the model is yet to translate


def in_memory_engine(
    config: ModelConfig,
    generation: GenerationDefaults,
    tensors: Mapping[str, np.ndarray | LazyTensor],
    *,
    threads: int | Literal["auto"] = "auto",
) -> Engine:
    """An engine of canonical float32 ``tensors`` (those of a CanonicalModel, say), computing in float32.

    It has packed copies: tensors may be changed afterwards. ``Translator(engine, tokenizer, {})`` translates with it.
    Raises InputError if names or shapes are not those of ``config``, and OptionError for ``threads``.
    """
    expected = {name: spec.shape for name, spec in tensor_specs(config).items()}
    problem = mismatches(expected, {name: tensor.shape for name, tensor in tensors.items()})
    if problem:
        raise InputError(f"the tensors do not match the configuration: {problem}")
    packed = {}
    for name, spec in packed_specs(config, "float32").items():
        found = [tensors[source] for source in spec.sources]
        parts = [part.read() if isinstance(part, LazyTensor) else part for part in found]
        weight = spec.kind == "weight"
        values = pack_float32(stack_rows(parts, spec.form)) if weight else pack_values(parts, spec.form)
        packed[name] = np.ascontiguousarray(values, np.float32)
    return make_engine(config, generation, packed, threads=threads)[0]


def calibrate(
    engine: Engine,
    tokenizer: Tokenizer | None,
    text: Sequence[tuple[Sentence, Sentence | None]],
    *,
    needed: int = 1,
    state: str | Path | None = None,
    reservoir: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, InputStatistics]:
    """Statistics of what each linear layer reads, by packed name in the order of use; "output" is the last layer's.

    text      (source, target) as texts or ids, as ``usable_text`` gives them; where the target is None, the model's
              greedy translation takes its place. Sources that are too long are cut
    needed    rows that every layer must see
    state     a file that is written now and then and at the end; if it is there, the calibration goes on from it
    reservoir, seed   of ``InputStatistics``; all layers sample the same places of the text
    Raises InputError for text that the model cannot take or that is too short, for a damaged state, and for values
    that are not finite, with layer and line; OptionError for a state of another model, text or sample.
    """
    pairs = _read(engine, tokenizer, text)
    _require_rows(min(_known_rows(pairs)), needed, len(pairs))
    path = None if state is None else usable_path(state, OptionError)
    done, statistics = 0, dict[str, InputStatistics]()
    identity = _identity(engine, pairs, reservoir, seed)
    if path is not None and path.exists():
        done, statistics = load_state(path, identity)
    gatherer = _Gatherer(statistics, reservoir, seed)
    saved = time.monotonic()
    with engine.session(Deadline(), 1, gatherer) as session:
        while done < len(pairs):
            chunk = _translated(engine, pairs[done : done + CHUNK_LINES])
            gatherer.begin(done + 1, chunk)
            _force(engine, session, chunk)
            gatherer.end()
            done += len(chunk)
            if path is not None and (done == len(pairs) or time.monotonic() - saved >= SAVE_SECONDS):
                save_state(path, identity, done, statistics)
                saved = time.monotonic()
            if progress:
                progress(done, len(pairs))
    _require_rows(min(each.count for each in statistics.values()), needed, len(pairs))
    return statistics


def paired_inputs(
    engines: Sequence[Engine],
    tokenizer: Tokenizer | None,
    text: Sequence[tuple[Sentence, Sentence | None]],
    names: Sequence[Sequence[str]],
    *,
    needed: int = 1,
) -> Iterator[tuple[int, list[dict[str, np.ndarray]]]]:
    """Lines done, and what the layers ``names[i]`` of engine i read of some more: float32 rows, of the same tokens.

    ``text``, ``needed`` and the errors raised are as in ``calibrate``; missing targets are translations of the first
    engine.
    """
    pairs = _read(engines[0], tokenizer, text)
    _require_rows(min(_known_rows(pairs)), needed, len(pairs))
    written = 0
    for start in range(0, len(pairs), CHUNK_LINES):
        chunk = _translated(engines[0], pairs[start : start + CHUNK_LINES])
        written += sum(len(target) for _, target in chunk)
        yield start + len(chunk), [_seen(*each, chunk) for each in zip(engines, names, strict=True)]
    _require_rows(written, needed, len(pairs))


def _seen(
    engine: Engine, names: Sequence[str], chunk: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def observe(name: str, x: np.ndarray) -> None:
        if name in rows:
            rows[name].append(x.copy())

    with engine.session(Deadline(), 1, observe) as session:
        _force(engine, session, chunk)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


class _Gatherer:
    """Adds what layers read to their statistics, in blocks that do not depend on how steps cut it."""

    def __init__(self, statistics: dict[str, InputStatistics], reservoir: int, seed: int) -> None:
        self._statistics = statistics
        self._reservoir, self._seed = reservoir, seed
        self._blocks: dict[str, np.ndarray] = {}
        self._seen: dict[str, int] = {}  # rows of the chunk

    def begin(self, line: int, chunk: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """A chunk follows, the first pair of which is this line."""
        self._line = line
        self._ends = [np.cumsum([len(pair[side]) for pair in chunk]) for side in (0, 1)]

    def __call__(self, name: str, x: np.ndarray) -> None:
        seen = self._seen.get(name, 0)
        if not np.isfinite(x).all():
            row, column = np.argwhere(~np.isfinite(x))[0]
            raise InputError(
                f"input of {name}, line {self._line_of(name, seen + row)} of the text: expected finite numbers, "
                f"found {x[row, column]} in column {column}"
            )
        if name not in self._statistics:
            self._statistics[name] = InputStatistics(x.shape[1], reservoir=self._reservoir, seed=self._seed)
        if name not in self._blocks:
            self._blocks[name] = np.empty((BLOCK_ROWS, x.shape[1]), np.float32)
        block = self._blocks[name]
        self._seen[name] = seen + len(x)
        while len(x):
            filled = seen % BLOCK_ROWS
            part = x[: BLOCK_ROWS - filled]
            block[filled : filled + len(part)] = part
            if filled + len(part) == BLOCK_ROWS:
                self._statistics[name].add(block)
            seen += len(part)
            x = x[len(part) :]

    def end(self) -> None:
        """The chunk is over: what is left of it is a block."""
        for name, seen in self._seen.items():
            self._statistics[name].add(self._blocks[name][: seen % BLOCK_ROWS])
        self._seen.clear()

    def _line_of(self, name: str, row: int) -> int:
        reads_source = name.startswith("encoder.") or name.endswith(".cross_attention.kv")
        return self._line + int(np.searchsorted(self._ends[0 if reads_source else 1], row, side="right"))


def _read(engine: Engine, tokenizer: Tokenizer | None, text: Sequence[tuple[Sentence, Sentence | None]]) -> list[Pair]:
    if not text:
        raise InputError("calibration needs text, found none")
    inputs = Inputs(engine.config, engine.generation.eos_token_id, tokenizer)
    pairs: list[Pair] = []
    for number, (source, target) in enumerate(text, 1):
        ids = inputs.source(source, truncate=True, name=f"the source of line {number}").ids
        if not len(ids):
            raise InputError(f"the source of line {number} is empty; expected text or token ids")
        pairs.append((ids, None if target is None else inputs.target(target, f"the target of line {number}")))
    return pairs


def _known_rows(pairs: list[Pair]) -> list[int]:
    """Rows of the sources, and of the targets if there are all of them."""
    rows = [sum(len(source) for source, _ in pairs)]
    if all(target is not None for _, target in pairs):
        rows.append(sum(len(target) for _, target in pairs if target is not None))
    return rows


def _require_rows(rows: int, needed: int, lines: int) -> None:
    if rows < needed:
        more = math.ceil(needed / rows * lines)
        raise InputError(
            f"calibration needs {needed} rows in every layer, but the text of {lines} lines gives {rows}; "
            f"about {more} lines like these are enough"
        )


def _translated(engine: Engine, pairs: list[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs, greedy translations in place of missing targets."""
    waiting = [source for source, target in pairs if target is None]
    results = iter(Translator(engine, None, {}).translate(waiting, num_beams=1, num_return_sequences=1))
    end, most = engine.generation.eos_token_id[0], engine.config.target_side()[0].max_positions
    return [
        (source, np.array([*next(results).ids, end][:most], np.int32) if target is None else target)
        for source, target in pairs
    ]


def _force(engine: Engine, session: Session, pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    start = engine.generation.decoder_start_token_id
    return target_log_probs(session, pairs, start, budget=BATCH_ROWS, deadline=Deadline())


def _identity(engine: Engine, pairs: list[Pair], reservoir: int, seed: int) -> dict[str, object]:
    """What statistics depend on, ready for JSON. The weights are known by what the model says of a few tokens."""
    ids = hashlib.sha256()
    for pair in pairs:
        for side in pair:
            ids.update(b"-" if side is None else len(side).to_bytes(8, "little") + side.tobytes())
    decoder, vocab = engine.config.target_side()
    target = np.arange(min(8, vocab, decoder.max_positions), dtype=np.int32)
    with engine.session(Deadline(), 1, lambda name, x: None) as session:  # observed: damaged weights are named later
        opinion = _force(engine, session, [(pairs[0][0], target)])[0]
    return {
        **{f"model.{name}": value for name, value in engine.config.to_json().items()},
        **{f"generation.{name}": value for name, value in engine.generation.to_json().items()},
        "weights": hashlib.sha256(opinion.tobytes()).hexdigest(),
        "lines": len(pairs),
        "text": ids.hexdigest(),
        "reservoir": reservoir,
        "seed": seed,
    }
