"""Opening a model directory: weights bound to the core, tokenizer and settings, as the task that fits the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, overload

from pyengine.arguments import KEYWORDS, choice, flag, unknown_option
from pyengine.canonical import ModelConfig
from pyengine.cpus import started_cpus
from pyengine.errors import EngineError, OptionError, UnsupportedError
from pyengine.formats.strict_json import shorten
from pyengine.modelfile import open_head, open_weights
from pyengine.options import GenerationKeywords
from pyengine.shortlist import Shortlist
from pyengine.tasks.engine import open_engine
from pyengine.tasks.generator import Generator
from pyengine.tasks.task import Task
from pyengine.tasks.translator import Translator
from pyengine.text import MultilingualTokenizer, chat_template_of, text_tokenizer_of, tokenizer_of
from pyengine.threads import side_by_side

__all__ = ["load"]

TASKS: tuple[type[Task], ...] = (Translator, Generator)

T = TypeVar("T", bound=Task)


@overload
def load(
    path: str | Path,
    *,
    task: None = ...,
    threads: int | Literal["auto"] = ...,
    replicas: int = ...,
    compute: str | None = ...,
    kv: str | None = ...,
    load: Literal["copy", "mmap"] = ...,
    shortlist: str | Path | None = ...,
    cache_bytes: int | None = ...,
    verify: bool = ...,
    **unknown: NoReturn,
) -> Translator | Generator: ...
@overload
def load(
    path: str | Path,
    *,
    task: type[T],
    threads: int | Literal["auto"] = ...,
    replicas: int = ...,
    compute: str | None = ...,
    kv: str | None = ...,
    load: Literal["copy", "mmap"] = ...,
    shortlist: str | Path | None = ...,
    cache_bytes: int | None = ...,
    verify: bool = ...,
    **unknown: NoReturn,
) -> T: ...
def load(
    path: str | Path,
    *,
    task: type[T] | None = None,
    threads: int | Literal["auto"] = "auto",
    replicas: int = 1,
    compute: str | None = None,
    kv: str | None = None,
    load: Literal["copy", "mmap"] = "copy",
    shortlist: str | Path | None = None,
    cache_bytes: int | None = None,
    verify: bool = False,
    **unknown: NoReturn,
) -> Any:
    """Open the model directory `path`, as `pyengine quantize` writes it: a Translator for an encoder and a decoder, a
    Generator for a decoder alone.

    task     Translator or Generator: what it has to be; an UnsupportedError names the one that fits
    threads  "auto": the CPUs that the process may use, by affinity mask and cgroup quota
    replicas streams that a call of many sentences runs in, each with its share of the threads, on one copy of the
             weights; a call of one sentence has all threads
    compute  "int8" or "float32"; None: what the directory holds. "float32" dequantizes int8
    kv       type of the attention cache, "int8" or "float32"; None: what the directory asks for, else as compute
    load     "copy": weights in memory of their own, in huge pages where the system has them; "mmap": in the
             pages of the file, which processes share. A file that shrinks while it is mapped ends the process
    shortlist  a file of `pyengine shortlist`: translations take only ids that it lists for their sentence, which is
             faster with a large vocabulary; `score` and `logits` do not look at it
    cache_bytes  of keys and values that each stream of a call holds, at most: sentences wait until there is room for
             all that they may come to need. One that alone needs more raises CacheFullError. None: any number
    verify   compare every byte of the directory with its checksum first
    Raises ModelFileError, TokenizerError, OptionError or EngineError.
    """
    for name in unknown:
        own = [each for each, calls in KEYWORDS.items() if calls == "pyengine.load"]
        searching = dict.fromkeys(GenerationKeywords.__annotations__, KEYWORDS["options"])
        raise unknown_option(name, own, KEYWORDS | searching)
    choice("load", load, ("copy", "mmap"))
    try:
        head = open_head(path, verify=flag("verify", verify))
        fitting = _fitting(head.config, str(path), task)
        listed = None if shortlist is None else _shortlist(shortlist, head.config)
        # Opening a tokenizer takes as long as reading the weights.
        words = tokenizer_of if fitting is Translator else text_tokenizer_of
        directory, tokenizer = side_by_side(lambda: open_weights(head, copy=load == "copy"), lambda: words(head))
        engine, settings = open_engine(
            directory, threads=threads, replicas=replicas, compute=compute, kv=kv, cache_bytes=cache_bytes
        )
        about = {
            "path": str(directory.path),
            "created_by": directory.created_by,
            "weights": directory.weights,
            "bytes": directory.bytes,
            "tokenizer": directory.tokenizer_kind,
            "load": load,
            **({"languages": tokenizer.languages.codes} if isinstance(tokenizer, MultilingualTokenizer) else {}),
            "shortlist": None if shortlist is None else str(shortlist),
            **settings,
            "cpus": list(started_cpus()),
        }
    except MemoryError as error:
        raise EngineError(f"{path}: out of memory while it was opened") from error
    if fitting is Generator:
        return Generator(engine, tokenizer, about, lambda: chat_template_of(head))
    return Translator(engine, tokenizer, about, listed)


def _fitting(config: ModelConfig, name: str, wanted: type[Task] | None) -> type[Task]:
    """The task that a model fits. UnsupportedError if there is none, or another is `wanted`; OptionError: no task."""
    if wanted is not None and wanted not in TASKS:
        known = " or ".join(f"pyengine.{task.__name__}" for task in TASKS)
        raise OptionError(f"task is {shorten(wanted)}; expected {known}")
    found = next((task for task in TASKS if task.fits(config)), None)
    if found is None:
        raise UnsupportedError(f"{name}: the model has an encoder alone; there is no task for it")
    if wanted is not None and found is not wanted:
        raise UnsupportedError(f"{name}: expected a model to {wanted.purpose}; found one to {found.purpose}")
    return found


def _shortlist(path: str | Path, config: ModelConfig) -> Shortlist:
    if not Translator.fits(config):
        raise OptionError(f"shortlist is {path}; expected none: it is for a model to {Translator.purpose}")
    (_, source_vocab), (_, target_vocab) = config.source_side(), config.target_side()
    return Shortlist.open(path, source_vocab, target_vocab)
