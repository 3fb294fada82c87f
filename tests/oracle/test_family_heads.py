"""What a head means, shown on families that have one: by transformers' own code and by tests/oracle/transformer.py, in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pyengine.canonical import HeadConfig

from .encoders import BERT_SIZES, bert_like
from .family import SOURCE, VOCABULARY, randomized, renamed, state_of
from .test_families import compare
from .transformer import Transformer

LABELS = 3
WORDS = HeadConfig("none", True, "gelu", norm=True, out="vocabulary")


def bert(kind: str) -> Any:
    config = transformers.BertConfig(**BERT_SIZES, num_labels=LABELS)
    return randomized(getattr(transformers, kind)(config)), "bert.", {}


def electra(kind: str) -> Any:
    config = transformers.ElectraConfig(**BERT_SIZES, embedding_size=36, num_labels=LABELS)
    return randomized(getattr(transformers, kind)(config)), "electra.", {"embedding_width": 36}


# Who has it, the head, and the names of its layers there.
CASES: dict[str, tuple[Callable[[str], Any], HeadConfig, dict[str, str]]] = {
    "BertForMaskedLM": (bert, WORDS, {
        "dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
        "out": "cls.predictions",
    }),
    "BertForSequenceClassification": (
        bert, HeadConfig("cls", True, "tanh", out=LABELS), {"dense": "bert.pooler.dense", "out": "classifier"},
    ),
    "BertForTokenClassification": (bert, HeadConfig("none", out=LABELS), {"out": "classifier"}),
    "ElectraForMaskedLM": (electra, WORDS, {
        "dense": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm", "out": "generator_lm_head",
    }),
    "ElectraForSequenceClassification": (
        electra, HeadConfig("cls", True, "gelu", out=LABELS),
        {"dense": "classifier.dense", "out": "classifier.out_proj"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_logits(kind: str) -> None:
    make, head, names = CASES[kind]
    model, prefix, changes = make(kind)
    case = bert_like(model, prefix, 80, **changes)
    own = renamed(state_of(model), {f"head.x.{part}": name for part, name in names.items()})
    config = replace(case.config, heads={"x": head})
    oracle = Transformer(config, {**case.tensors, **own})
    rng = np.random.RandomState(1)
    ids, types = rng.randint(0, VOCABULARY, SOURCE), rng.randint(0, 2, SOURCE)
    with torch.no_grad():
        expected = model(torch.tensor(ids)[None], token_type_ids=torch.tensor(types)[None]).logits
    found = oracle.answer("x", oracle.encode(ids, types))
    compare(found, expected if head.pool == "none" else expected[:, None], single=False)
