"""Families that transformers runs, as tiny random models in float64 and as configurations and tensors of ours.

The maps of names are written by hand, here only, so that no importer's mistake can hide in them.
"""

from __future__ import annotations

from collections.abc import Callable

from .encoders import bert, electra, t5
from .family import LENGTH, SOURCE, VOCABULARY, Family
from .language_models import (
    bloom,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    gpt_neox_sequential,
    llama,
    llama3,
    mistral,
    phi3,
    phi4,
    qwen2,
    qwen3,
    smollm3,
)

__all__ = ["FAMILIES", "LENGTH", "SOURCE", "VOCABULARY", "Family"]

FAMILIES: tuple[Callable[[], Family], ...] = (
    llama, llama3, mistral, smollm3, qwen2, qwen3, gemma2, gemma3, phi3, phi4, gpt2, gpt_neox, gpt_neox_sequential,
    bloom, bert, electra, t5,
)  # fmt: skip
