"""2,000 lines that tokenizers stumble over, the same on every machine and Python version.

Made from ``random.Random(seed).getrandbits``, whose sequence Python keeps; nothing else of that module is
used, because its other methods may change between versions.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

SEED = 20160
COUNT = 2000

_WORDS = (
    "Ein Mann in einem blauen Hemd steht auf einer Leiter und putzt ein Fenster . Zwei junge Männer sind im "
    "Freien A group of people standing in front of an igloo , the dog isn't there ! straße GROSSBUCHSTABEN "
    "naïve co-op e-mail@example.com https://example.org/a?b=c#d 3,14 1.000.000 §5 ½ 100% $20 €7 #tag C++ "
    "it's we'll don't"
).split()
_SPECIALS = (
    "</s>", "<unk>", "<pad>", "<s>", "</S>", "< /s>", "<unk", "pad>", "<<unk>>", "</s></s>", "<pad> <pad>",
)  # fmt: skip
_CODES = (
    ">>fra<<", ">>deu<<", ">>", "<<", ">><<", ">>>fra<<", ">> fra <<", ">>fra<", ">fra<<", ">>a b c<<",
    ">>fra<<>>deu<<",
)  # fmt: skip
_SPACES = (
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\u200b",
    "\ufeff", "\u2581",
)  # fmt: skip
_PIECES = (
    "\u2581", "\u2581a", "\u2581\u2581", "a\u2581b", "\u2581</s>", "@@", "##ing", "\u0120the", "<0x41>",
    "\u2047",
)  # fmt: skip
_PUNCTUATION = (
    "\u201e\u201c\u201d\u2018\u2019\u00ab\u00bb\u2013\u2014\u2026\u00b7\u2022\u00bf\u00a1()[]{}|\\/^~`\"'"
    "*_=+<>&%\uff0c\u3002\uff01\uff1f\uff08\uff09\u300c\u300d\u060c\u061f\u0964"
)
_EMOJI = (
    "\U0001f642", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "\u263a",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f9d1\U0001f3ff\u200d\U0001f4bb",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
)  # fmt: skip
_MARKS = "\u0301\u0308\u0327\u0303\u030a\u20d7\u0489\u0e48\u05b0\u064b\u3099\ufe0f"
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202e\u2066\u180e\u034f\U000e0001"
# Compatibility forms, which SentencePiece's NFKC rewrites, some of them to several characters.
_COMPATIBILITY = (
    "\ufb01\ufb02\u2460\u33a5\u2122\u00b2\u00bd\uff21\uff42\uff13"
    "\u3300\ufdfa\u1e9e\u01c6\u0130\u0149\u212b\u2126\uff76\uff9e"
)
_SCRIPTS = (
    (0x00C0, 0x024F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x0531, 0x058F), (0x05D0, 0x05EA),
    (0x0620, 0x064A), (0x0904, 0x0939), (0x0E01, 0x0E3A), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1E00, 0x1EFF), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0x13A0, 0x13F4), (0x1D400, 0x1D7FF), (0x20000, 0x2A6DF), (0x0021, 0x007E), (0x2190, 0x22FF),
    (0xE000, 0xE0FF), (0xFF01, 0xFF5E), (0xFFF9, 0xFFFF), (0x10FFF0, 0x10FFFF),
)  # fmt: skip


class _Source:
    """The few random draws that the makers below need."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, count: int) -> int:
        return self._random.getrandbits(32) % count

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def of(self, options):  # a str or a tuple
        return options[self.below(len(options))]

    def many(self, low: int, high: int, make: Callable[[], str], between: str = "") -> str:
        return between.join(make() for _ in range(self.between(low, high)))

    def script_text(self, low: int, high: int) -> str:
        first, last = self.of(_SCRIPTS)
        return self.many(low, high, lambda: chr(self.between(first, last)))

    def word(self) -> str:
        return self.of(_WORDS)


def _makers(source: _Source) -> tuple[Callable[[], str], ...]:
    """One maker a kind of oddity; each call gives a line."""
    word, of, many = source.word, source.of, source.many

    def sprinkled(insert: Callable[[], str]) -> str:
        """Words with something between them or within."""
        return many(
            1, 12, lambda: word() + of(("", "", " ")) + (insert() if source.below(2) else "") + of((" ", ""))
        )

    return (
        lambda: "",
        lambda: many(1, 6, lambda: of(_SPACES)),
        lambda: many(2, 10, word, " "),
        lambda: of(_SPACES) + many(2, 8, lambda: word() + of(_SPACES)) + of(_SPACES),
        lambda: sprinkled(lambda: of(_EMOJI)),
        lambda: sprinkled(lambda: chr(source.below(32))),
        lambda: sprinkled(lambda: chr(source.between(0x7F, 0x9F))),
        lambda: sprinkled(lambda: of(_PUNCTUATION)),
        lambda: sprinkled(lambda: of(_INVISIBLE)),
        lambda: sprinkled(lambda: of(_COMPATIBILITY)),
        lambda: sprinkled(lambda: of("aeiounAEIOU") + many(1, 3, lambda: of(_MARKS))),
        lambda: sprinkled(lambda: of(_SPECIALS)),
        lambda: many(1, 4, lambda: of(_SPECIALS) + of(("", " ", "  "))) + word(),
        lambda: of(("", "", " ")) + of(_CODES) + of(("", " ")) + many(0, 6, word, " "),
        lambda: of(_SPECIALS) + of(_CODES) + many(1, 4, word, " ") + of(_CODES),
        lambda: sprinkled(lambda: of(_PIECES)),
        lambda: many(1, 6, lambda: source.script_text(1, 8), " "),
        lambda: many(1, 6, lambda: source.script_text(1, 3) + word()),
        lambda: many(1, 20, lambda: chr(source.between(0, 0xD7FF))),
        lambda: many(1, 8, lambda: chr(source.between(0xE000, 0x10FFFF))),
        lambda: of("aebn\u00e4\u4e2d\U0001f642.") * source.between(20, 300) * of((1, 1, 1, 10)),
        lambda: many(10, 60, word),
        lambda: source.script_text(50, 200),
        lambda: many(1, 10, lambda: str(source.below(10**9)) + of((".", ",", "-", ":", "")), of(("", " "))),
        lambda: word().upper() + many(1, 6, lambda: of((word().upper(), word().title(), word()[::-1])), " "),
    )  # fmt: skip


def odd_lines() -> list[str]:
    """The lines, ``COUNT`` of them, valid Unicode each (no surrogates); line ends and NUL may be inside."""
    source = _Source(SEED)
    makers = _makers(source)
    return [makers[i % len(makers)]() for i in range(COUNT)]
