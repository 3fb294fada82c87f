"""What linear layers read when a model runs on a text: the statistics that quantization with data starts from.

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
from pyengine.modelfile.layout import PackedSpec, pack_floats, pack_values, packed_specs, stack_rows
from pyengine.plan import Session
from pyengine.quantize.seeing.state import load_state, save_state
from pyengine.quantize.seeing.statistics import InputStatistics
from pyengine.quantize.seeing.text import Text, begin_of, inputs_for, read_samples
from pyengine.scheduling.deadline import Deadline
from pyengine.tasks.engine import Engine, make_engine
from pyengine.tasks.forcing import source_states, target_log_probs
from pyengine.tasks.inputs import Sample
from pyengine.tasks.translator import Translator
from pyengine.text import Tokenizer

__all__ = ["STATES", "View", "calibrate", "in_memory_engine", "packed_tensor", "paired_inputs"]

BATCH_ROWS = 1024  # of a step, encoder and decoder together
BLOCK_ROWS = 1024  # that statistics take in at a time
CHUNK_LINES = 128  # blocks end with them, and between two of them a state may be saved
CHUNK_ROWS = 16384  # that views are kept of at a time
SAVE_SECONDS = 60.0  # between two states

STATES = "states"
"""In the place of a layer's name: what an encoder without a decoder gives, which no layer reads."""

Progress = Callable[[int, int], None]  # (lines done, of all)
View = Callable[[np.ndarray], np.ndarray]
"""What to keep of the rows that a layer reads, float32 [rows, K], valid during the call; as many rows."""


def in_memory_engine(
    config: ModelConfig,
    generation: GenerationDefaults | None,
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
    packed = {name: packed_tensor(spec, tensors) for name, spec in packed_specs(config, "float32").items()}
    return make_engine(config, generation, packed, threads=threads)[0]


def packed_tensor(spec: PackedSpec, tensors: Mapping[str, np.ndarray | LazyTensor]) -> np.ndarray:
    """A float32 tensor as the core has it, of the canonical ``tensors`` that it consists of."""
    found = [tensors[source] for source in spec.sources]
    parts = [part.read() if isinstance(part, LazyTensor) else part for part in found]
    weight = spec.kind == "weight"
    values = pack_floats(stack_rows(parts, spec.form)) if weight else pack_values(parts, spec.form)
    return np.ascontiguousarray(values, np.float32)


def calibrate(
    engine: Engine,
    tokenizer: Tokenizer | None,
    text: Text,
    *,
    needed: int = 1,
    state: str | Path | None = None,
    reservoir: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, InputStatistics]:
    """Statistics of what each linear layer reads, by packed name in the order of use; "output" is the last layer's.

    text      (source, target) as texts or ids, as ``usable_text`` gives them; where both stacks are there and the
              target is None, the model's greedy translation takes its place. Sources that are too long are cut
    needed    rows that every layer must see
    state     a file that is written now and then and at the end; if it is there, the calibration goes on from it
    reservoir, seed   of ``InputStatistics``; all layers sample the same places of the text
    Raises InputError for text that the model cannot take or that is too short, for a damaged state, and for values
    that are not finite, with layer and line; OptionError for a state of another model, text or sample.
    """
    samples, start = _read(engine, tokenizer, text), _start(engine)
    _require_rows(min(_known_rows(samples, start)), needed, len(samples))
    path = None if state is None else usable_path(state, OptionError)
    done = 0
    statistics: dict[str, InputStatistics] = {}
    identity = _identity(engine, samples, reservoir, seed)
    if path is not None and path.exists():
        done, statistics = load_state(path, identity)
    gatherer = _Gatherer(statistics, reservoir, seed, start)
    saved = time.monotonic()
    with engine.session(Deadline(), 1, gatherer) as session:
        while done < len(samples):
            chunk = _translated(engine, samples[done : done + CHUNK_LINES])
            gatherer.begin(done + 1, chunk)
            _run(engine, session, chunk)
            gatherer.end()
            done += len(chunk)
            if path is not None and (done == len(samples) or time.monotonic() - saved >= SAVE_SECONDS):
                save_state(path, identity, done, statistics)
                saved = time.monotonic()
            if progress:
                progress(done, len(samples))
    _require_rows(min(each.count for each in statistics.values()), needed, len(samples))
    return statistics


def paired_inputs(
    engines: Sequence[Engine],
    tokenizer: Tokenizer | None,
    text: Text,
    views: Sequence[Mapping[str, View]],
    *,
    needed: int = 1,
) -> Iterator[tuple[int, list[Sample], list[dict[str, np.ndarray]]]]:
    """Lines done, some more samples, and of each engine what its ``views`` keep of what layers read of these.

    Rows are those of all samples end to end, for every layer of a stack the same tokens. ``text``, ``needed`` and the
    errors raised are as in ``calibrate``; missing targets are translations of the first engine. A view of STATES sees
    what an encoder without a decoder gives.
    """
    samples, start = _read(engines[0], tokenizer, text), _start(engines[0])
    _require_rows(min(_known_rows(samples, start)), needed, len(samples))
    written: list[Sample] = []
    for done in range(0, len(samples), CHUNK_LINES):
        for chunk in _of_rows(_translated(engines[0], samples[done : done + CHUNK_LINES]), CHUNK_ROWS):
            written += chunk
            yield len(written), chunk, [_seen(*each, chunk) for each in zip(engines, views, strict=True)]
    _require_rows(min(_known_rows(written, start)), needed, len(samples))


def _of_rows(samples: Sequence[Sample], most: int) -> Iterator[list[Sample]]:
    """Parts with at most so many tokens, of one side or the other, or of one sample."""
    part: list[Sample] = []
    rows = 0
    for sample in samples:
        own = max(0 if ids is None else len(ids) for ids in sample)
        if part and rows + own > most:
            yield part
            part, rows = [], 0
        part.append(sample)
        rows += own
    if part:
        yield part


def _seen(engine: Engine, views: Mapping[str, View], chunk: Sequence[Sample]) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {name: [] for name in views}

    def observe(name: str, x: np.ndarray) -> None:
        if name in views:
            rows[name].append(views[name](x))

    with engine.session(Deadline(), 1, observe) as session:
        given = _run(engine, session, chunk)
    if STATES in views:
        rows[STATES] = [views[STATES](states) for states in given]
    return {name: np.concatenate(parts) for name, parts in rows.items()}


class _Gatherer:
    """Adds what layers read to their statistics, in blocks that do not depend on how steps cut it."""

    def __init__(
        self, statistics: dict[str, InputStatistics], reservoir: int, seed: int, start: int | None
    ) -> None:
        self._statistics, self._start = statistics, start
        self._reservoir, self._seed = reservoir, seed
        self._blocks: dict[str, np.ndarray] = {}
        self._seen: dict[str, int] = {}  # rows of the chunk

    def begin(self, line: int, chunk: Sequence[Sample]) -> None:
        """A chunk follows, the first sample of which is this line."""
        self._line = line
        self._ends = [np.cumsum([0 if rows is None else rows for rows in side]) for side in _rows(chunk, self._start)]

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


def _start(engine: Engine) -> int | None:
    """What a decoder reads before a target; an encoder alone has no targets, and any will do."""
    return None if engine.config.decoder is None else engine.generation.decoder_start_token_id


def _read(engine: Engine, tokenizer: Tokenizer | None, text: Text) -> list[Sample]:
    if not text:
        raise InputError("calibration needs text, found none")
    config = engine.config
    generation = None if config.decoder is None else engine.generation
    return read_samples(inputs_for(config, generation, tokenizer), config, text, begin=begin_of(config, generation))


def _known_rows(samples: Sequence[Sample], start: int | None) -> list[int]:
    """Rows of each stack that there is, unless some targets are yet to be written."""
    sides = ([rows for rows in side if rows is not None] for side in _rows(samples, start))
    return [sum(side) for side in sides if len(side) == len(samples)]


def _rows(samples: Sequence[Sample], start: int | None) -> list[list[int | None]]:
    """Rows of each sample in either stack; None where it is not there, or yet to be written.

    A target's last token is not read; where there is no token to ``start`` with, its first one stands for it.
    """
    sources, targets = zip(*samples, strict=True)
    unread = 1 if start is None else 0
    return [
        [None if ids is None else len(ids) for ids in sources],
        [None if ids is None else len(ids) - unread for ids in targets],
    ]


def _require_rows(rows: int, needed: int, lines: int) -> None:
    if rows < needed:
        more = math.ceil(needed / rows * lines)
        raise InputError(
            f"calibration needs {needed} rows in every layer, but the text of {lines} lines gives {rows}; "
            f"about {more} lines like these are enough"
        )


def _translated(engine: Engine, samples: list[Sample]) -> list[Sample]:
    """The samples, greedy translations in place of missing targets."""
    decoder = engine.config.decoder
    waiting = [source for source, target in samples if source is not None and target is None]
    if not waiting or decoder is None:
        return samples
    results = iter(Translator(engine, None, {}).translate(waiting, num_beams=1, do_sample=False))
    end, most = engine.generation.eos_token_id[0], decoder.max_positions
    return [
        Sample(source, np.array([*next(results).ids, end][:most], np.int32) if target is None else target)
        for source, target in samples
    ]


def _run(engine: Engine, session: Session, samples: Sequence[Sample]) -> list[np.ndarray]:
    """Log-probabilities of the targets, or what the encoder gives where there are none."""
    if engine.config.decoder is None:
        return list(source_states(session, samples, budget=BATCH_ROWS, deadline=Deadline()))
    start = engine.generation.decoder_start_token_id
    return target_log_probs(session, engine.config, samples, start, budget=BATCH_ROWS, deadline=Deadline())


def _identity(engine: Engine, samples: Sequence[Sample], reservoir: int, seed: int) -> dict[str, object]:
    """What statistics depend on, ready for JSON. The weights are known by what the model says of a few tokens."""
    ids = hashlib.sha256()
    for sample in samples:
        for side in sample:
            ids.update(b"-" if side is None else len(side).to_bytes(8, "little") + side.tobytes())
    config, target = engine.config, None
    generation: dict[str, object] = {}
    if config.decoder is not None and config.target_vocab is not None:
        target = np.arange(min(8, config.target_vocab, config.decoder.max_positions), dtype=np.int32)
        generation = engine.generation.to_json()
    with engine.session(Deadline(), 1, lambda name, x: None) as session:  # observed: damaged weights are named later
        opinion = _run(engine, session, [Sample(samples[0].source, target)])[0]
    return {
        **{f"model.{name}": value for name, value in config.to_json().items()},
        **{f"generation.{name}": value for name, value in generation.items()},
        "weights": hashlib.sha256(opinion.tobytes()).hexdigest(),
        "lines": len(samples),
        "text": ids.hexdigest(),
        "reservoir": reservoir,
        "seed": seed,
    }
