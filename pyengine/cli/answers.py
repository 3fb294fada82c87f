"""Results as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from pyengine.results import Echo, GenerationResult, TranslationResult

__all__ = ["answer_line"]


def answer_line(result: TranslationResult | GenerationResult) -> str:
    """An object, ASCII, in one line. JSON knows no infinity, the score where nothing could be written: it is null."""
    hypotheses: list[dict[str, Any]] = [
        {
            "text": each.text,
            "score": _finite(each.score),
            "finish_reason": each.finish_reason,
            "ids": each.ids,
            "tokens": each.tokens,
        }
        for each in result.hypotheses
    ]
    about: dict[str, Any] = {"truncated": result.truncated, "hypotheses": hypotheses}
    if isinstance(result, GenerationResult):
        about["usage"] = asdict(result.usage)
        if result.prompt is not None:
            about["prompt"] = _prompt(result.prompt)
        for own, each in zip(hypotheses, result.hypotheses, strict=True):
            given = each.log_probs
            own["log_probs"] = None if given is None else [_finite(value) for value in given]
            if each.best is not None:
                own["best"] = [{"before": _pairs(best.before), "after": _pairs(best.after)} for best in each.best]
    return json.dumps(about)


def _prompt(prompt: Echo) -> dict[str, Any]:
    said: dict[str, Any] = {"ids": prompt.ids}
    if prompt.decoded is not None:
        said |= {"text": prompt.decoded.text, "tokens": prompt.decoded.tokens}
    if prompt.log_probs is not None:
        said["log_probs"] = [_finite(value) for value in prompt.log_probs]
    if prompt.best is not None:
        said["best"] = [_pairs(pairs) for pairs in prompt.best]
    return said


def _pairs(pairs: tuple[tuple[int, float], ...]) -> list[tuple[int, float | None]]:
    return [(id, _finite(value)) for id, value in pairs]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
