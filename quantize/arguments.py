"""The arguments of ``pyengine quantize``: what there is, and which go together."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import Sequence

from pyengine.command import size
from pyengine.console import Parser
from pyengine.errors import OptionError
from pyengine.modelfile.directory import KV
from pyengine.modelfile.layout import FLOATS, INT4
from pyengine.quantize.prune.masks import Pattern
from pyengine.quantize.prune.sparse import MASKS, SPARSE_METHODS, pattern_of
from pyengine.quantize.rounding.by_inputs import CALIBRATED
from pyengine.quantize.rounding.ranges import METHODS as RANGES
from pyengine.quantize.scaling.smooth import ALPHAS
from pyengine.quantize.types import TYPES
from pyengine.version import __version__

__all__ = ["METHODS", "PROGRAM", "list_methods", "read_arguments", "types_of"]

PROGRAM = "pyengine-quantize"
PLAIN_INT4 = "int4g64"  # what "int4" stands for

METHODS = {
    "absmax": "the largest weight of a channel or group is the last level; the default of int8, in seconds",
    "percentile": "clips the largest of 10,000 weights; for matrices with single outliers, in seconds",
    "mse": "the step of least squared error of the weights, of int4 the large ones first; the default of int4 without "
    "text, in seconds",
    "weighted": "int4 with text: the step of least squared error, each column weighted by what it multiplies",
    "awq": "int4 with text: scales of channels where the model absorbs them, each group clipped; a minute for 74M",
    "gptq": "int4 with text: columns make up for each other's errors; the default with --calibrate, a minute for 74M",
}
_OTHERS = {
    "Before rounding": {
        "--smooth": "with text: large inputs made smaller and their weights larger, where that brings the layer's "
        "outputs nearer; for int8 models with outliers in their activations; seconds beside the calibration",
        "--hadamard": "of language models, without text: outliers of activations and weights are spread over channels, "
        "by additions before each product; the default of int8 and of gptq",
        "--equalize": "without text: ranges of adjacent layers made alike; before percentile or mse; in seconds",
    },
    "Types (with text)": {
        "--target-size": "int4 and int8 by measured sensitivity: the least expected KL divergence in so many bytes; a "
        "run of the model for each matrix",
        "--max-kld": "the same, the fewest bytes for an expected KL divergence",
    },
    "Pruning (--prune, with text)": {
        "ffn=, heads=": "neurons and heads that lose least, the others fitted; smaller and faster; 20 seconds for 7M",
        "encoder-layers=, decoder-layers=": "whole layers that turn vectors least; for deep encoders; in seconds",
        "blocks=": "16 x 4 blocks of zeros, not stored and skipped; smaller and faster from a quarter of them on",
        "weights=, N:M": "zeros in single weights; not faster and not smaller here",
    },
    "Zeros (--prune-method)": {
        "sparsegpt": "what costs least with the others making up for it; the default, and the slowest",
        "wanda": "the smallest by what they multiply; in seconds",
        "magnitude": "the smallest; the only one without text, and hardly of use for blocks",
    },
}
_PLACES = """Scales of channels (--smooth, awq, --equalize) are absorbed where nothing else reads the channels: between
the values and the output of an attention, between up and down of a feed-forward layer with ReLU or a gate, behind a
norm before a sublayer, behind the last norm of a stack; --smooth also moves them from keys to queries."""


def read_arguments(arguments: Sequence[str] | None, program: str) -> argparse.Namespace:
    """What ``program`` is asked for; ``arguments`` default to those of the process. Exits, saying why, if they misfit.

    ``program`` is in the result. Settings are parsed: ``tensor`` is a list of (pattern, type), ``prune`` what -> share,
    ``sparse`` a Pattern or None.
    """
    parser = _parser(program)
    options = parser.parse_args(arguments)
    if options.list_methods:
        return options
    _check(parser, options)
    options.prune, options.sparse = _removal(parser, options)
    return options


def types_of(options: argparse.Namespace) -> set[str]:
    """All types that are asked for."""
    return {options.weights, *(kind for _, kind in options.tensor)}


def list_methods() -> list[str]:
    """The lines that --list-methods prints."""
    lines = []
    for title, entries in {"Rounding (--method)": METHODS, **_OTHERS}.items():
        lines.append(title)
        for name, what in entries.items():
            lines += textwrap.wrap(f"{name}: {what}", 100, initial_indent="  ", subsequent_indent="      ")
        lines.append("")
    return [*lines, *textwrap.wrap(" ".join(_PLACES.split()), 100)]


def _parser(program: str) -> Parser:
    parser = Parser(
        prog=program,
        description="Convert a training checkpoint, as Hugging Face exports it, or a GGUF file to a model directory.",
    )
    parser.set_defaults(program=program)
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="directory with config.json and the weights; a GGUF file; or a model directory in float32, bfloat16 or "
        "float16",
    )
    add("-o", "--output", metavar="OUT", help="model directory to write")
    add("--overwrite", action="store_true", help="replace OUT if it is a model directory, and the report")
    add(
        "--requantize",
        action="store_true",
        help="CHECKPOINT may be a model directory with rounded weights; more is lost than from the checkpoint",
    )
    add(
        "--allow-unknown-keys",
        type=_names,
        default=(),
        metavar="KEY[,KEY]",
        help="pass over these keys of the checkpoint's configs where they are unknown: those that change no result",
    )
    add("--list-methods", action="store_true", help="say what there is, when to use it, and what it costs")
    add("--version", action="version", version=f"pyengine {__version__}")
    _add_types(parser.add_argument_group("types"))
    _add_rounding(parser.add_argument_group("rounding"))
    _add_removal(parser.add_argument_group("removal"))
    _add_reports(parser.add_argument_group("reports and data"))
    return parser


def _add_types(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--weights",
        type=_type,
        default="int8",
        metavar="TYPE",
        help="how weights are stored: float32; bfloat16 or float16, half of that, computed in float32; int8 (the "
        "default); or int4 in groups of 32, 64 or 128 columns that share a scale, with z a zero point too: "
        f"{', '.join(INT4)}; int4 is {PLAIN_INT4}. With int4, embeddings and the output layer are int8",
    )
    add(
        "--tensor",
        action="append",
        type=_tensor,
        default=[],
        metavar="PATTERN=TYPE",
        help="another TYPE, of those above, for some matrices, such as 'encoder.*.ffn.*=int8'; lm_head is the output "
        "layer; may be given again, later ones win",
    )
    add(
        "--target-size",
        type=size,
        metavar="SIZE",
        help="of all tensors, such as 60MB: measured sensitivity, with --calibrate, chooses between int4 and int8",
    )
    add(
        "--max-kld",
        type=float,
        metavar="NATS",
        help="the same for an expected KL divergence a token, such as 0.002, in as few bytes as it takes",
    )
    add(
        "--kv",
        choices=KV,
        help="how keys and values are cached, unless load(kv=...) says otherwise (default: int8 if any weights are "
        "rounded)",
    )


def _add_rounding(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--method",
        choices=("auto", *METHODS),
        default="auto",
        help="how weights are rounded (default: %(default)s: absmax for int8; for int4 gptq with --calibrate, else "
        "mse); see --list-methods",
    )
    add(
        "--calibrate",
        metavar="FILE",
        help="text that int4, --smooth and --prune are calibrated on: of a language model a text a line; else a source "
        "sentence a line, its translation behind a tab; without one the model translates",
    )
    add("--resume", metavar="FILE", help="keep the calibration there; if it was interrupted, go on")
    add(
        "--smooth",
        type=_exponents,
        default=(),
        metavar="auto|ALPHA",
        help="SmoothQuant before rounding, with --calibrate: an exponent from 0 to 1, or the best of a few a place",
    )
    add("--equalize", action="store_true", help="make ranges of adjacent layers alike before rounding")
    add(
        "--hadamard",
        action=argparse.BooleanOptionalAction,
        help="multiply what matrices read by a Hadamard matrix, which spreads outliers; the default for language "
        "models in int8, or rounded by gptq, that get no scales of channels",
    )


def _add_removal(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--prune",
        action="append",
        default=[],
        metavar="WHAT=SHARE|N:M",
        help="first remove a share of all neurons of feed-forward layers, such as ffn=0.25, of attention heads, such "
        "as heads=0.2, or of the layers of a stack, such as decoder-layers=0.3, and fit the rest to --calibrate; may "
        "be given again. After that zeros, in layers that are not int4: blocks=0.5 of 16 x 4 weights, "
        "which int8 skips; or weights=0.5, or 2:4, which only take the place of weights",
    )
    add(
        "--prune-method",
        choices=SPARSE_METHODS,
        help="how blocks, weights and N:M choose (default: sparsegpt); magnitude needs no text",
    )
    add(
        "--vocabulary",
        metavar="FILE",
        help="keep only tokens that this text uses: a source and behind a tab its translation a line",
    )


def _add_reports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--report",
        metavar="DIR",
        help="write a page about the conversion there (needs matplotlib); with --calibrate it measures on the last "
        "tenth of the text, at most 200 lines, which calibration then does not see",
    )
    add(
        "--speed",
        action="store_true",
        help="put into the report how fast the model is beside float32 and int8, measured here; without it the same "
        "text gives the same bytes",
    )
    add("--report-only", action="store_true", help="print the table and write nothing")
    add(
        "--teacher-data",
        metavar="OUT",
        help="instead of converting, write lines of source, tab and the model's own translation of --corpus, in "
        "float32; - is standard output",
    )
    add("--corpus", metavar="FILE", help="what --teacher-data translates: a source a line")


def _type(text: str) -> str:
    """A type of weights."""
    if text not in (*TYPES, "int4"):
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(TYPES)} or int4, found {text!r}")
    return PLAIN_INT4 if text == "int4" else text


def _tensor(text: str) -> tuple[str, str]:
    """ "PATTERN=TYPE" in two."""
    pattern, equals, kind = text.partition("=")
    if not (pattern and equals):
        raise argparse.ArgumentTypeError(f"expected PATTERN=TYPE, found {text!r}")
    return pattern, _type(kind)


def _exponents(text: str) -> tuple[float, ...]:
    """What SmoothQuant tries."""
    if text == "auto":
        return ALPHAS
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 <= alpha <= 1:
        raise argparse.ArgumentTypeError(f"expected auto or a number from 0 to 1, found {text!r}")
    return (alpha,)


def _names(text: str) -> tuple[str, ...]:
    """ "a,b" -> a, b."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, found {text!r}")
    return names


def _check(parser: Parser, options: argparse.Namespace) -> None:
    if options.checkpoint is None:
        parser.error("the following arguments are required: CHECKPOINT")
    if (options.teacher_data is None) != (options.corpus is None):
        parser.error("--teacher-data and --corpus go together")
    if options.teacher_data is not None:
        allowed = ("checkpoint", "teacher_data", "corpus", "overwrite", "requantize", "allow_unknown_keys")
        given = [name for name, value in vars(options).items() if value != parser.get_default(name)]
        if others := [name for name in given if name not in allowed]:
            parser.error(f"--teacher-data converts nothing: --{others[0].replace('_', '-')} has no meaning with it")
        return
    if options.teacher_data is None and options.report_only == (options.output is not None):
        parser.error("give either -o OUT or --report-only")
    if "-" in (options.output, options.report):
        parser.error("a directory cannot be written to standard output (-)")
    if options.report_only and options.overwrite:
        parser.error("--overwrite has no meaning with --report-only")
    if options.speed and not (options.report and options.calibrate):
        parser.error("--speed has a meaning with --report and --calibrate only")
    if options.report_only and options.report:
        parser.error("--report has no meaning with --report-only")
    if options.method in CALIBRATED and not options.calibrate:
        parser.error(f"--method {options.method} needs text: --calibrate FILE")
    if options.smooth and options.weights in FLOATS and not options.tensor:
        parser.error("--smooth has a meaning where weights are rounded: --weights int8 or int4")
    if options.hadamard and (options.smooth or options.method == "awq"):
        parser.error("--hadamard mixes channels: --smooth and awq have none left to scale")
    if options.smooth and not options.calibrate:
        parser.error("--smooth needs text: --calibrate FILE")
    if options.calibrate and (options.report_only or not _uses_text(options)):
        parser.error(
            "--calibrate has no meaning with --report-only, nor where nothing needs text: int4 with a --method that "
            "calibrates, --smooth, --prune or --report"
        )
    if options.report_only and options.prune:
        parser.error("--prune has no meaning with --report-only")
    if options.report_only and options.equalize:
        parser.error("--equalize has no meaning with --report-only")
    if (options.target_size is not None or options.max_kld is not None) and not options.calibrate:
        parser.error("--target-size and --max-kld measure on text: --calibrate FILE")
    if options.target_size is not None and options.max_kld is not None:
        parser.error("give either --target-size or --max-kld")
    if options.max_kld is not None and not (0 < options.max_kld < math.inf):
        parser.error(f"--max-kld: expected a positive number, found {options.max_kld}")
    if options.resume and not options.calibrate:
        parser.error("--resume has a meaning with --calibrate only")


def _uses_text(options: argparse.Namespace) -> bool:
    chosen = options.target_size is not None or options.max_kld is not None
    int4 = not INT4.keys().isdisjoint(types_of(options))
    return bool((int4 or chosen) and options.method not in RANGES or options.prune or options.smooth or options.report)


def _removal(
    parser: Parser, options: argparse.Namespace
) -> tuple[dict[str, float], Pattern | None]:
    """What --prune removes, by what to share of it; and the pattern of zeros, if one is asked for."""
    shares, patterns = {}, []
    for setting in options.prune:
        what, equals, value = setting.partition("=")
        try:
            share = float(value) if equals else math.nan
        except ValueError:
            share = math.nan
        if math.isnan(share) == bool(":" not in what):
            parser.error(f"--prune {setting!r}: expected WHAT=SHARE, such as ffn=0.25, or N:M")
        if what in MASKS or ":" in what:
            try:
                patterns.append(pattern_of(what, share))
            except OptionError as error:
                parser.error(f"--prune {error}")
        else:
            shares[what.replace("-", "_")] = share
    if len(patterns) > 1:
        parser.error("--prune: expected one kind of zeros, found several")
    if options.prune_method and not patterns:
        parser.error("--prune-method has a meaning with --prune blocks=SHARE, weights=SHARE or N:M only")
    options.prune_method = options.prune_method or "sparsegpt"
    if not options.calibrate and (shares or patterns and options.prune_method != "magnitude"):
        parser.error("--prune needs text: --calibrate FILE; or zeros with --prune-method magnitude")
    if patterns and (options.target_size is not None or options.max_kld is not None):
        parser.error("--target-size and --max-kld choose int4 types, which cannot have zeros")
    return shares, patterns[0] if patterns else None
