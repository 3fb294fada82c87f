"""A GGUF file in float32 against transformers' own reading of it: greedy ids and perplexity on the same ids.

    python benchmarks/parity.py --model smollm2.gguf --text valid.txt      # needs pip install ".[oracle]"

Text is the last two thirds of the file, as ids of pyengine's tokenizer, which takes names of special tokens in it for
text, `<unk>` among them; both sides get the same ids. Prompts are beginnings of paragraphs, of 4 to 64 tokens behind a
start token, which both go on with greedily; end tokens are suppressed until all tokens are there. Where the ids differ,
both say how far apart they find the two tokens at the first place that differs: it is a tie if both gaps are below 1e-4
of the largest logit there. Perplexity is that of the first tokens of the text, in windows of 1,024 that do not overlap,
each behind a start token. transformers runs by torch in float32, a window at a time, and as many prompts at once as are
of one length, so that it has no padding to mask. Whether its tokenizer of a GGUF file splits text as the original one
does is not asked here: for some files it does not.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish
from rounding import read_text, unseen_part
from tqdm import tqdm

import pyengine
from pyengine.modelfile import open_directory
from pyengine.quantize import convert
from pyengine.quantize.opening import open_model
from pyengine.text import TextTokenizer, text_tokenizer_of

SHORTEST, LONGEST, LENGTHS = 4, 64, 16
MAY_DIFFER = 1 / 64
RISE = 1e-4
TIE = 1e-4


class Side(Protocol):
    """One engine with the model."""

    def greedy(self, prompts: list[np.ndarray], tokens: int) -> list[list[int]]:
        """Exactly so many new ids of each."""

    def log_probs(self, window: np.ndarray) -> np.ndarray:
        """float [T - 1]: of each of T ids but the first, given those before it."""

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """float32 [vocab]: after the last of the ids."""


class Own:
    def __init__(self, directory: Path, threads: int) -> None:
        self._generator = pyengine.load(directory, task=pyengine.Generator, threads=threads)

    def greedy(self, prompts: list[np.ndarray], tokens: int) -> list[list[int]]:
        exact: dict[str, Any] = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        found = self._generator.generate(prompts, do_sample=False, num_beams=1, **exact)
        return [list(each.ids) for each in found]

    def log_probs(self, window: np.ndarray) -> np.ndarray:
        return np.array(self._generator.score(window).log_probs)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        return self._generator.logits(ids)[-1]


class Transformers:
    def __init__(self, path: Path, threads: int, ends: Sequence[int]) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._torch, self._ends = torch, list(ends)
        opened = transformers.AutoModelForCausalLM.from_pretrained
        self._model = opened(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    def greedy(self, prompts: list[np.ndarray], tokens: int) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        how: dict[str, Any] = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False, "num_beams": 1}
        with tqdm(total=len(prompts), desc="transformers, prompts", leave=False) as bar:
            for size in sorted({len(prompt) for prompt in prompts}):
                own = [number for number, prompt in enumerate(prompts) if len(prompt) == size]
                ids = self._torch.tensor(np.stack([prompts[number] for number in own]), dtype=self._torch.long)
                mask = self._torch.ones_like(ids)
                rows = self._model.generate(
                    ids, attention_mask=mask, eos_token_id=self._ends, pad_token_id=self._ends[0], **how
                )
                found |= zip(own, rows[:, size:].tolist(), strict=True)
                bar.update(len(own))
        return [found[number] for number in range(len(prompts))]

    def log_probs(self, window: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            logits = self._after(window[:-1])
            chosen = logits.gather(1, self._torch.tensor(window[1:, None], dtype=self._torch.long))
            return (chosen[:, 0].double() - logits.logsumexp(1).double()).numpy()

    def logits(self, ids: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._after(ids)[-1].numpy()

    def _after(self, ids: np.ndarray) -> Any:
        return self._model(self._torch.tensor(ids[None], dtype=self._torch.long)).logits[0]


@dataclass(frozen=True)
class Difference:
    """The first place where new ids differ, and the logit of pyengine's token less that of transformers' there, by
    both, each as it is and by the largest logit."""

    prompt: int
    length: int
    place: int
    ids: tuple[int, int]
    gaps: tuple[float, float]
    shares: tuple[float, float]

    @property
    def tie(self) -> bool:
        return max(map(abs, self.shares)) < TIE


def prompts_of(text: str, tokenizer: TextTokenizer, start: int, count: int, longest: int) -> list[np.ndarray]:
    """Beginnings of paragraphs from all over the text, of lengths that repeat, each behind a start token."""
    paragraphs = [line.strip() for line in text.split("\n") if len(line) > 8 * longest]
    lengths = np.linspace(min(SHORTEST, longest), longest, LENGTHS).astype(int)
    made = []
    for number in range(count):
        paragraph = paragraphs[number * len(paragraphs) // count]
        ids = tokenizer.encode(paragraph, special=False, split_special=True)[: lengths[number % LENGTHS]]
        made.append(np.array([start, *ids], np.int32))
    return made


def differences(own: Side, other: Side, prompts: list[np.ndarray], tokens: int) -> Iterator[Difference]:
    """Of the prompts, numbered from 1, that the two go on with in different ways."""
    pairs = zip(own.greedy(prompts, tokens), other.greedy(prompts, tokens), strict=True)
    for number, (prompt, (mine, theirs)) in enumerate(zip(prompts, pairs, strict=True), 1):
        if mine == theirs:
            continue
        place = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
        ids = mine[place], theirs[place]
        seen = np.append(prompt, np.array(mine[:place], np.int32))
        gaps, shares = [], []
        for side in (own, other):
            logits = side.logits(seen)
            gaps.append(float(logits[ids[0]]) - float(logits[ids[1]]))
            shares.append(gaps[-1] / float(np.abs(logits).max()))
        yield Difference(number, len(prompt) - 1, place + 1, ids, (gaps[0], gaps[1]), (shares[0], shares[1]))


def compare_greedy(name: str, own: Side, other: Side, prompts: list[np.ndarray], tokens: int, report: Report) -> None:
    found = list(differences(own, other, prompts, tokens))
    same, count = len(prompts) - len(found), len(prompts)
    columns = {"prompts": "d", "tokens of a prompt": "", "new tokens": "d", "same ids": "d"}
    sizes = [len(prompt) - 1 for prompt in prompts]
    row = [count, f"{min(sizes)} to {max(sizes)}", tokens, same]
    report.tables.append(Table(f"{name}, float32, greedy", columns, [row]))
    if found:
        title = "Prompts that differ: the logit of pyengine's token less that of transformers' at the first such place"
        columns = {"prompt": "d", "its tokens": "d", "new token": "d", "pyengine's": "d", "transformers'": "d"}
        columns |= {"gap by pyengine": ".1e", "gap by transformers": ".1e", "cause": ""}
        rows = [
            [each.prompt, each.length, each.place, *each.ids, *each.gaps, "a tie" if each.tie else "not explained"]
            for each in found
        ]
        report.tables.append(Table(title, columns, rows))
    least = count - math.floor(count * MAY_DIFFER)
    report.verdicts.append(Verdict(f"{name}: the same ids for {least} of {count} prompts", str(same), same >= least))
    unexplained = sum(not each.tie for each in found)
    demand = f"{name}: every difference is a tie"
    report.verdicts.append(Verdict(demand, f"{unexplained} of {len(found)} not", unexplained == 0))


def compare_perplexity(name: str, own: Side, other: Side, windows: list[np.ndarray], report: Report) -> None:
    pairs = [
        (own.log_probs(window), other.log_probs(window)) for window in tqdm(windows, desc="windows", leave=False)
    ]
    mine, theirs = (np.concatenate(each) for each in zip(*pairs, strict=True))
    values = [math.exp(-each.mean()) for each in (mine, theirs)]
    rise = values[0] / values[1] - 1
    columns = {"tokens": ",d", "pyengine": ".6f", "transformers": ".6f", "pyengine / transformers - 1": "+.1e"}
    columns |= {"largest difference of a token's log-probability": ".1e"}
    row = [len(mine), *values, rise, float(np.abs(mine - theirs).max())]
    report.tables.append(Table(f"{name}, float32, perplexity", columns, [row]))
    demand = f"{name}: perplexity within {RISE:.2%} of transformers'"
    report.verdicts.append(Verdict(demand, f"{rise:+.1e}", abs(rise) <= RISE))


def options() -> argparse.Namespace:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--model", type=Path, required=True, metavar="FILE", help="a GGUF file of a language model")
    made.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text, a paragraph a line")
    made.add_argument("--prompts", type=int, default=64, metavar="N", help="(default: %(default)s)")
    made.add_argument("--tokens", type=int, default=64, metavar="N", help="to write (default: %(default)s)")
    made.add_argument("--scored", type=int, default=32768, metavar="N", help="tokens of text (default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="of each engine (default: %(default)s)")
    return made.parse_args()


def main() -> None:
    chosen = options()
    name = chosen.model.stem
    windows = read_text(open_model(chosen.model), chosen.text, chosen.scored).unseen
    chosen.work.mkdir(parents=True, exist_ok=True)
    directory = chosen.work / f"{name}-float32"
    convert(chosen.model, directory, weights="float32", overwrite=True)
    opened = open_directory(directory)
    tokenizer = text_tokenizer_of(opened)
    assert tokenizer is not None and opened.generation is not None  # else its text could not be read
    start, text = int(windows[0][0]), unseen_part(chosen.text.read_text(encoding="utf-8"))
    longest = min(LONGEST, opened.config.target_side()[0].max_positions - chosen.tokens - 1)
    prompts = prompts_of(text, tokenizer, start, chosen.prompts, longest)
    own = Own(directory, chosen.threads)
    other = Transformers(chosen.model, chosen.threads, opened.generation.eos_token_id)
    settings = {"prompts": len(prompts), "tokens": chosen.tokens, "scored": chosen.scored, "threads": chosen.threads}
    report = Report("parity", settings)
    compare_greedy(name, own, other, prompts, chosen.tokens, report)
    compare_perplexity(name, own, other, windows, report)
    publish(report, chosen)


if __name__ == "__main__":
    main()
