"""What test_exits.py runs in processes of their own:  python exits.py CALLS MODEL TOKENIZERS

Daemon threads make CALLS, again and again, while the interpreter ends. MODEL has a SentencePiece tokenizer, TOKENIZERS
a tokenizer.json. "late": one thread calls only after the end has begun, and is waited for.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

late: list[threading.Thread] = []
ending = threading.Event()


@atexit.register  # before pyengine is imported, and so called after what it registers
def end() -> None:
    ending.set()
    for thread in late:
        thread.join()


sys.path.append(str(Path(__file__).parents[1]))  # last: an installed pyengine goes first

import pyengine  # noqa: E402
from pyengine import native  # noqa: E402
from pyengine.text import open_tokenizer  # noqa: E402

calls, model, tokenizers = sys.argv[1:]
LINE = "Ein Mann fährt mit dem Rad."
whole = open_tokenizer(tokenizers, "tokenizers")
pieces = open_tokenizer(model, "sentencepiece")
translator = pyengine.load(model, threads=1)
CALLS = {
    "tokenize": [
        lambda: pieces.decode(pieces.encode_target(LINE, end=True)),
        lambda: whole.decode(whole.encode_target(LINE, end=True)),
    ],
    "load": [
        lambda: open_tokenizer(model, "sentencepiece"),
        lambda: open_tokenizer(tokenizers, "tokenizers"),
        lambda: pyengine.load(model, threads=1),
    ],
    "translate": [
        lambda: translator.translate(LINE, beam_size=1, min_length=9),
        lambda: list(translator.translate_iter([LINE] * 3, beam_size=3, bad_words_ids=[[5], [6, 7]])),
        lambda: translator.score([LINE], [LINE]),
    ],
}


def work(one: Callable[[], object], working: threading.Event) -> None:
    while True:
        one()
        working.set()


def come_late() -> None:
    ending.wait()
    for one in CALLS["tokenize"]:
        try:
            one()
        except pyengine.EngineError as error:
            print(error, flush=True)


if calls == "late":
    native.GRACE = 0.1
    late.append(threading.Thread(target=come_late, daemon=True))
    late[0].start()
else:
    events = [threading.Event() for _ in CALLS[calls] * 2]
    for one, working in zip(CALLS[calls] * 2, events, strict=True):
        threading.Thread(target=work, args=(one, working), daemon=True).start()
    if not all(working.wait(30) for working in events):
        print("a call did not come to its end")
    time.sleep(0.02)
