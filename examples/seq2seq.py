"""An encoder with a decoder from Python: the summary of a file, and a sentence in three languages.

    pyengine quantize flan-t5-small -o t5-int8 --smooth auto --calibrate lines.en
    pyengine quantize nllb-200-distilled-600M -o nllb-int8
    python examples/seq2seq.py t5-int8 nllb-int8 story.txt
    python examples/seq2seq.py t5-int8 m2m100-int8 story.txt --source en --targets de fr es

T5 does what a text begins with; NLLB, M2M100, mBART and mBART-50 are told languages by the codes of their tokenizers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyengine

SENTENCE = "The house by the sea has a blue door."
CODES = ["deu_Latn", "fra_Latn", "spa_Latn"]


def summarize(writer: pyengine.Translator, text: str) -> None:
    """A task is part of the text, which is read as it is; what is longer than the model reads is cut."""
    prompt = "summarize: " + " ".join(text.split())
    result = writer.generate(prompt, num_beams=4, max_new_tokens=80, truncate=True)
    print(f"{result.text}\n[{result.usage.prompt_tokens} tokens read, {result.usage.new_tokens} written]")
    if result.truncated:
        print("[the end of the text was cut]")


def translate(translator: pyengine.Translator, sentence: str, source: str, targets: list[str]) -> None:
    """One model, any pair of its languages: `info()["languages"]` lists their codes."""
    print(f"\n{source}: {sentence}")
    for target in targets:
        result = translator.translate(sentence, source=source, target=target, num_beams=4)
        print(f"{target}: {result.text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("writer", help="model directory of a T5")
    parser.add_argument("translator", help="model directory of a model of many languages")
    parser.add_argument("text", type=Path, help="UTF-8 file to summarize")
    parser.add_argument("--sentence", default=SENTENCE, help=f"to translate (default: {SENTENCE})")
    parser.add_argument("--source", metavar="CODE", default="eng_Latn", help="its language (default: eng_Latn)")
    default = " ".join(CODES)
    parser.add_argument("--targets", metavar="CODE", nargs="+", default=CODES, help=f"others (default: {default})")
    options = parser.parse_args()
    with pyengine.load(options.writer, task=pyengine.Translator) as writer:
        summarize(writer, options.text.read_text(encoding="utf-8"))
    with pyengine.load(options.translator, task=pyengine.Translator) as translator:
        translate(translator, options.sentence, options.source, options.targets)


if __name__ == "__main__":
    main()
