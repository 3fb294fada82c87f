"""How a model runs: the options that all commands share that answer texts."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from pyengine.command import size
from pyengine.tasks.task import BATCH_TOKENS

__all__ = ["add_ways", "loaded_with", "threads"]


def add_ways(parser: argparse.ArgumentParser, timeout: str, *, many: bool = True) -> argparse._ArgumentGroup:
    """The group "how it runs". `timeout`: what that one is for; `many`: whether there may be many texts in a call."""
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--threads", type=threads, default="auto", metavar="N", help="(default: auto, every CPU that may be used)"
    )
    if many:
        group.add_argument(
            "--replicas", type=int, metavar="N", help="streams that share the threads, for many texts (default: 1)"
        )
    group.add_argument(
        "--max-batch-tokens", type=int, default=BATCH_TOKENS, metavar="N", help="rows of a step (default: %(default)s)"
    )
    group.add_argument("--timeout", type=float, metavar="SECONDS", help=timeout)
    group.add_argument(
        "--load", default="copy", metavar="HOW", help="copy the weights to huge pages, or mmap the file (default: copy)"
    )
    group.add_argument("--compute", metavar="KIND", help="int8 or float32 (default: as DIR holds)")
    group.add_argument(
        "--kv", metavar="KIND", help="of the attention cache, int8 or float32 (default: as DIR asks, or as --compute)"
    )
    streams = " of each stream" if many else ""
    group.add_argument(
        "--cache-bytes", type=size, metavar="SIZE", help=f"of keys and values{streams}, at most, such as 500MB"
    )
    return group


def loaded_with(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `load` that these options are."""
    replicas = getattr(options, "replicas", None)
    return {
        "threads": options.threads,
        "replicas": 1 if replicas is None else replicas,
        "load": options.load,
        "compute": options.compute,
        "kv": options.kv,
        "cache_bytes": options.cache_bytes,
    }


def threads(text: str) -> int | Literal["auto"]:
    """What --threads takes."""
    return "auto" if text == "auto" else int(text)
