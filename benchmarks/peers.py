"""This engine and its peers on the same input, in turn, each in a process of its own.

    python benchmarks/peers.py mt       # translation, against CTranslate2
    python benchmarks/peers.py llm      # language models, against llama.cpp and CTranslate2
    python benchmarks/peers.py seq2seq  # T5 and BART, against CTranslate2 and transformers

What each measures is explained in peers_mt.py, peers_llm.py and peers_seq2seq.py, and by --help.
"""

from __future__ import annotations

import argparse

import peers_llm
import peers_mt
import peers_seq2seq
from report import parser, publish

TASKS = {"mt": peers_mt, "llm": peers_llm, "seq2seq": peers_seq2seq}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = made.add_subparsers(dest="task", required=True, metavar="TASK")
    for name, module in TASKS.items():
        common = parser(module.__doc__)
        task = tasks.add_parser(
            name, parents=[common], add_help=False, help=module.__doc__.partition("\n")[0],
            description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_options(task)
    options = made.parse_args()
    publish(TASKS[options.task].run(options), options)


if __name__ == "__main__":
    main()
