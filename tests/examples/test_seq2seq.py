"""`examples/seq2seq.py` summarizes a file and translates a sentence into three languages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import pyengine
from pyengine.canonical import CanonicalModel, LazyTensor
from pyengine.quantize import convert

from ..oracle.tiny import generation, model_config, random_tensors

SCRIPT = Path(__file__).parents[2] / "examples" / "seq2seq.py"
END, CODES = "</s>", ("en", "de", "fr", "es")
SENTENCE = "A blue door."
SEED = 2  # of weights that write something else for each language


def write_model(folder: Path) -> Path:
    """A model of four languages, with random weights and a tokenizer of bytes."""
    special = [END, *(f"__{code}__" for code in CODES)]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>"]
    tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, []))
    tokenizer.add_special_tokens([*special, "<pad>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {code: f"__{code}__" for code in CODES}
    languages = {"source": "begin", "target": "first", "default": "en", "end": END, "tokens": tokens}
    (folder / "languages.json").write_text(json.dumps(languages), encoding="utf-8")
    size = len(words)
    config = model_config(source_vocab=size, target_vocab=size, max_positions=100)
    search = generation(
        decoder_start_token_id=size - 1, pad_token_id=size - 1, bad_words_ids=((size - 1,),), max_length=24
    )
    tensors = {name: LazyTensor.of(name, each) for name, each in random_tensors(config, SEED).items()}
    files = {name: folder / name for name in ("tokenizer.json", "languages.json")}
    model = CanonicalModel(config, search, tensors, tokenizer_kind="tokenizers", tokenizer_files=files)
    convert(model, folder / "model", weights="float32")
    return folder / "model"


def test_it_runs(tmp_path: Path) -> None:
    model, text = write_model(tmp_path), tmp_path / "text"
    text.write_text("It was a dark\nand stormy night.\n" * 9, encoding="utf-8")
    asked = ["--sentence", SENTENCE, "--source", "en", "--targets", *CODES[1:]]
    command = [sys.executable, SCRIPT, model, model, text, *asked]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120)
    printed = done.stdout.decode()
    assert "\n[100 tokens read, " in printed and "\n[the end of the text was cut]\n" in printed
    with pyengine.load(model, task=pyengine.Translator, threads=1) as translator:
        found = [translator.translate(SENTENCE, source="en", target=code, num_beams=4).text for code in CODES[1:]]
        begun = "summarize: " + " ".join(text.read_text(encoding="utf-8").split())
        summary = translator.generate(begun, num_beams=4, max_new_tokens=80, truncate=True).text
    assert len(set(found)) == 3 and printed.startswith(f"{summary}\n")
    assert printed.endswith("".join(f"{code}: {each}\n" for code, each in zip(CODES[1:], found, strict=True)))
