"""Families that transformers runs, as tiny random models in float64 and as configurations and tensors of ours.

The maps of names are written by hand, here only, so that no importer's mistake can hide in them.
"""

from __future__ import annotations

from collections.abc import Callable

from .encoders import bert, electra
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
from .seq2seq import bart, byt5, flan_t5, m2m_100, mbart, mt5, pegasus, t5

__all__ = ["FAMILIES", "LANGUAGE_MODELS", "LENGTH", "SEQ2SEQ", "SOURCE", "VOCABULARY", "Family"]

Families = tuple[Callable[[], Family], ...]
LANGUAGE_MODELS: Families = (
    llama, llama3, mistral, smollm3, qwen2, qwen3, gemma2, gemma3, phi3, phi4, gpt2, gpt_neox, gpt_neox_sequential,
    bloom,
)  # fmt: skip
SEQ2SEQ: Families = (t5, flan_t5, byt5, mt5, bart, mbart, pegasus, m2m_100)
FAMILIES: Families = (*LANGUAGE_MODELS, bert, electra, *SEQ2SEQ)
