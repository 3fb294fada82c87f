"""A machine that runs the harmless part of the pickle language and nothing else.

Python's own unpickler can be told which globals it may load, but still offers every opcode to a hostile file.
Here only those opcodes exist that build numbers, strings, lists, tuples and dicts, plus GLOBAL, REDUCE, BUILD
and BINPERSID, whose meaning the caller gives by two functions; NEWOBJ is known to be refused by the name of its
class. Nothing is imported and nothing from the file is ever called. Keys of dicts are strings or integers, so that no
hash takes long; and since an opcode makes one small object at most, their number bounds what a stream of short ones
takes.

Source of the opcodes: CPython, Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from typing import Any, Callable

from pyengine.formats.limits import PICKLE_STEPS

__all__ = ["Global", "Machine", "ObjectRefused", "PickleError"]


class PickleError(Exception):
    """The stream is damaged or asks for something that is not allowed; the message says what."""


class ObjectRefused(PickleError):
    """The stream asks for an object of a class; the message is the class's name."""


class Global:
    """A name that the stream refers to; never looked up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_MARK = object()


class Machine:
    """Runs streams that follow one another in ``data``.

    ``construct(name, args)`` answers REDUCE, ``persistent(id)`` answers BINPERSID.
    """

    def __init__(
        self,
        data: bytes,
        construct: Callable[[Global, tuple[Any, ...]], Any],
        persistent: Callable[[Any], Any],
    ) -> None:
        self._data = data
        self._at = 0
        self._steps = 0  # of all streams
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}  # of one stream
        self._construct = construct
        self._persistent = persistent

    @property
    def at(self) -> int:
        """Bytes that have been read."""
        return self._at

    def next(self) -> Any:
        """Execute the next stream until its STOP and return the value. PickleError for anything unexpected."""
        self._memo.clear()
        while self._steps < PICKLE_STEPS:
            self._steps += 1
            at = self._at
            code = self._take(1)[0]
            if code == ord("."):
                value = self._pop()
                if self._stack:
                    raise PickleError(f"something is left beside the value at byte {self._at}")
                return value
            action = _ACTIONS.get(code)
            if action is None:
                raise PickleError(f"opcode 0x{code:02x} at byte {at} is not allowed")
            action(self)
        raise PickleError(f"more than {PICKLE_STEPS} opcodes, the most that are run")

    # Input: what follows an opcode in the stream.

    def _take(self, count: int) -> bytes:
        chunk = self._data[self._at : self._at + count]
        if len(chunk) != count:
            raise PickleError(f"truncated at byte {len(self._data)}")
        self._at += count
        return chunk

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise PickleError(f"truncated at byte {len(self._data)}")
        line = self._data[self._at : end]
        self._at = end + 1
        return self._decode(line)

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise PickleError(f"a string before byte {self._at} is not UTF-8") from None

    # The stack.

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise PickleError(f"stack underflow at byte {self._at}")
        return self._stack.pop()

    def _top(self, kind: type | tuple[type, ...]) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise PickleError(f"wrong operand at byte {self._at}")
        return self._stack[-1]

    def _pop_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                items = self._stack[index + 1 :]
                del self._stack[index:]
                return items
        raise PickleError(f"no mark at byte {self._at}")

    # The opcodes that need more than one line.

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise PickleError(f"a key without a value at byte {self._at}")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) not in (str, int):
                raise PickleError(f"a key of type {type(key).__name__} at byte {self._at}")
            target[key] = value

    def _set_item(self) -> None:
        value = self._pop()
        self._set_items([self._pop(), value])

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleError(f"memo {index} is not set at byte {self._at}")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._top(object)

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleError(f"wrong operand at byte {self._at}")
        self._push(Global(module, name))

    def _stack_global(self) -> None:
        name = self._pop()
        self._global(self._pop(), name)

    def _reduce(self) -> None:
        args = self._pop()
        function = self._pop()
        if not isinstance(function, Global) or type(args) is not tuple:
            raise PickleError(f"wrong operand at byte {self._at}")
        self._push(self._construct(function, args))

    def _new_object(self) -> None:
        self._pop()
        kind = self._pop()
        raise ObjectRefused(str(kind)) if isinstance(kind, Global) else PickleError(f"wrong operand at byte {self._at}")

    def _build(self) -> None:
        # Attributes of the object below: a state dict's ``_metadata``, versions that loading does not need.
        self._pop()
        self._top(dict)

    def _protocol(self) -> None:
        version = self._number("<B")
        if not 2 <= version <= 5:
            raise PickleError(f"pickle protocol {version}, expected 2 to 5")


_ACTIONS: dict[int, Callable[[Machine], None]] = {
    0x80: Machine._protocol,
    0x95: lambda m: m._number("<Q"),  # FRAME: a hint for buffering
    ord("("): lambda m: m._push(_MARK),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._number("<B")),
    ord("M"): lambda m: m._push(m._number("<H")),
    0x8A: lambda m: m._push(int.from_bytes(m._take(m._number("<B")), "little", signed=True)),
    ord("G"): lambda m: m._push(m._number(">d")),
    ord("X"): lambda m: m._push(m._decode(m._take(m._number("<I")))),
    0x8C: lambda m: m._push(m._decode(m._take(m._number("<B")))),
    ord(")"): lambda m: m._push(()),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("t"): lambda m: m._push(tuple(m._pop_mark())),
    ord("]"): lambda m: m._push([]),
    ord("a"): lambda m: m._append([m._pop()]),
    ord("e"): lambda m: m._append(m._pop_mark()),
    ord("}"): lambda m: m._push({}),
    ord("s"): Machine._set_item,
    ord("u"): lambda m: m._set_items(m._pop_mark()),
    ord("h"): lambda m: m._get(m._number("<B")),
    ord("j"): lambda m: m._get(m._number("<I")),
    ord("q"): lambda m: m._put(m._number("<B")),
    ord("r"): lambda m: m._put(m._number("<I")),
    0x94: lambda m: m._put(len(m._memo)),  # MEMOIZE
    ord("c"): lambda m: m._global(m._line(), m._line()),
    0x93: Machine._stack_global,
    ord("R"): Machine._reduce,
    0x81: Machine._new_object,  # NEWOBJ
    ord("b"): Machine._build,
    ord("Q"): lambda m: m._push(m._persistent(m._pop())),
}
