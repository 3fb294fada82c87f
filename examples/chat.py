"""A language model from Python: text as it is written, many prompts at once, and a conversation.

    pyengine quantize smollm2.gguf -o smollm2-int8 --weights int8
    python examples/chat.py smollm2-int8
"""

from __future__ import annotations

import argparse

import pyengine

PROMPTS = ["The capital of France is", "Water boils at", "The first man on the moon was"]
QUESTIONS = ["What is the capital of France?", "And how many people live there?"]


def stream(generator: pyengine.Generator, prompt: str) -> None:
    """Shows text as it is written; leaving the loop would cancel the rest."""
    print(prompt, end="")
    for piece in generator.stream(prompt, max_new_tokens=48):
        print(piece.text, end="", flush=True)
        if piece.result is not None:
            print(f"\n[{piece.result.finish_reason}, {piece.result.usage.new_tokens} tokens]")


def batch(generator: pyengine.Generator) -> None:
    """A list in, a list out, in order; the prompts run together."""
    results = generator.generate(PROMPTS, max_new_tokens=16, stop=["\n"])
    for prompt, result in zip(PROMPTS, results, strict=True):
        print(f"{prompt}{result.text}")


def sample(generator: pyengine.Generator, prompt: str) -> None:
    """The same seed gives the same texts, in any batch and with any number of threads."""
    result = generator.generate(prompt, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=7, num_return_sequences=3)
    for each in result.hypotheses:
        print(f"{each.score:8.3f}  {' '.join(each.text.split())}")


def converse(generator: pyengine.Generator) -> None:
    """What was said before goes in again with each question."""
    messages = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        print(f"> {question}")
        answer = ""
        for piece in generator.chat_stream(messages, max_new_tokens=64):
            print(piece.text, end="", flush=True)
            answer += piece.text
        print()
        messages.append({"role": "assistant", "content": answer})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model directory of a language model")
    options = parser.parse_args()
    with pyengine.load(options.model, task=pyengine.Generator) as generator:
        stream(generator, PROMPTS[0])
        batch(generator)
        sample(generator, "Once upon a time")
        try:
            converse(generator)
        except pyengine.UnsupportedError as error:  # it has no chat template
            print(error)


if __name__ == "__main__":
    main()
