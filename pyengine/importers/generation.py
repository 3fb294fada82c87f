"""Search defaults from ``generation_config.json``, or from the generation keys of an older ``config.json``.

Names and defaults: transformers 5.24.0, generation/configuration_utils.py.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pyengine.canonical import GenerationDefaults, ModelConfig
from pyengine.canonical.kinds import Ids, Kind, OneId
from pyengine.canonical.search import OPTIONS
from pyengine.errors import CheckpointError
from pyengine.formats.limits import CONFIG_BYTES
from pyengine.formats.strict_json import load_object, shorten
from pyengine.importers.unknown_keys import pass_over

__all__ = ["GENERATION_KEYS", "read_generation"]

NEW_TOKENS = 256
"""Of a model without a table of positions whose checkpoint says nothing of lengths."""

LONGEST = 1000
"""Characters of a prefix that is offered."""

_IDS: dict[str, Kind] = {
    "decoder_start_token_id": OneId(),
    "eos_token_id": Ids(),
    "pad_token_id": OneId(),
    "bos_token_id": OneId(),
}
# What changes the result and is not implemented: the values at which it does nothing (None always is one).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (),
    "constraints": ([],),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_bos_token_to_be_generated": (False,),
    "force_words_ids": ([],),
    "forced_decoder_ids": ([],),
    "guidance_scale": (1.0,),
    "max_time": (),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "sequence_bias": ({}, []),
    "speculation_type": (),
    "stop_strings": ([],),
    "token_healing": (False,),
    "top_h": (),
    "use_mtp": (False,),
    "watermarking_config": (),
}
# No effect but on how transformers computes and what it returns.
_IGNORED = frozenset({
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "low_memory",
    "prefill_chunk_size", "compile_config", "disable_compile", "continuous_batching_config",
    "remove_invalid_values", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "transformers_version",
})  # fmt: skip

GENERATION_KEYS = frozenset({*OPTIONS, *_IDS, *_NEUTRAL, *_IGNORED})


def read_generation(
    checkpoint: Path, place: Path, model_json: Mapping[str, Any], config: ModelConfig, allowed: Collection[str]
) -> tuple[GenerationDefaults, tuple[str, ...]]:
    """The defaults of a ``checkpoint`` whose config.json, read from ``place``, is ``model_json``, and notes about them.

    As transformers does: generation_config.json alone if it is there, else the generation keys of
    config.json; the start, end and padding ids fall back to config.json. A list of one id is that id. Without a length
    the model's positions are the limit, or NEW_TOKENS where there is no table of them (transformers would stop after 20
    tokens).
    UnsupportedError for a key that asks for what the engine lacks or is neither known nor ``allowed``, CheckpointError
    for a wrong value.
    """
    path = checkpoint / "generation_config.json"  # of a file there is none
    if os.path.lexists(path):  # a link to nothing is damage, not absence
        source = load_object(path, CheckpointError, CONFIG_BYTES)
        unknown = {key: value for key, value in source.items() if key not in GENERATION_KEYS and key[:1] != "_"}
    else:
        path = place
        unknown, source = {}, {key: value for key, value in model_json.items() if key in GENERATION_KEYS}
    given = {key: value for key, value in source.items() if value is not None}
    lacking = [
        f"{key} = {shorten(given[key])}: the engine does not have this"
        for key, neutral in _NEUTRAL.items()
        if key in given and not any(given[key] == value for value in neutral)
    ]
    notes = pass_over(path, {key: value for key, value in unknown.items() if value is not None}, allowed, lacking)

    def token(key: str) -> Any:
        return given.get(key, model_json.get(key))

    positions = config.target_side()[0].max_positions
    values = {
        name: option.kind.fit(option.kind.of_checkpoint(given[name]), positions)
        for name, option in OPTIONS.items()
        if name in given
    }
    if config.target_side()[0].positions == "none" and not values.keys() & {"max_length", "max_new_tokens"}:
        values["max_new_tokens"] = min(NEW_TOKENS, positions)
    values.setdefault("max_length", positions)
    values.update({key: kind.of_checkpoint(token(key)) for key, kind in _IDS.items()})
    values["prefixes"] = _prefixes(model_json.get("task_specific_params"))
    return GenerationDefaults.from_json(values, str(path), config, CheckpointError), notes


def _prefixes(tasks: object) -> dict[str, str]:
    """Those that config.json names, by task. They change nothing, so that what is none is passed over."""
    found = tasks.items() if isinstance(tasks, Mapping) else ()
    given = {name: task.get("prefix") for name, task in found if isinstance(task, Mapping)}
    return {name: prefix for name, prefix in given.items() if isinstance(prefix, str) and 0 < len(prefix) <= LONGEST}
