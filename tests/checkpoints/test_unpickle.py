"""The pickle machine: runs nothing, and a hostile stream is refused at once, whatever it tries."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyengine.checkpoints import open_weights
from pyengine.checkpoints.unpickle import Global, Machine, PickleError
from pyengine.errors import CheckpointError

from . import handmade


def construct(function: Global, arguments: tuple[Any, ...]) -> Any:
    if str(function) == "collections.OrderedDict":
        return {}
    raise PickleError(f"{function} is not allowed")


def persistent(token: Any) -> Any:
    raise PickleError("no persistent ids here")


def run(stream: bytes) -> Any:
    return Machine(stream, construct, persistent).next()


PLAIN = {
    "text": "ä\n",
    "numbers": [0, 1, 255, 256, 65535, 65536, -1, 1 << 31, -(1 << 70), 0.5],
    "others": [None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}],
    "nested": {"a": [{"b": (1, [2])}]},
    7: "an integer key",
}


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_plain_values(protocol: int) -> None:
    assert run(pickle.dumps(PLAIN, protocol=protocol)) == PLAIN


def test_streams_that_follow_one_another() -> None:
    """The memo is each one's own."""
    values = ["one", {"two": (1, "one")}, [2]]
    data = b"".join(pickle.dumps(value, protocol=2) for value in values)
    machine = Machine(data + b"N", construct, persistent)
    assert [machine.next() for _ in values] == values and machine.at == len(data)
    with pytest.raises(PickleError, match="truncated"):
        machine.next()
    machine = Machine(b"]q\x00.h\x00.", construct, persistent)
    machine.next()
    with pytest.raises(PickleError, match="memo 0 is not set"):
        machine.next()


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
@pytest.mark.parametrize(
    "function", (os.system, eval, exec, subprocess.Popen, open, getattr, __import__, os.mkdir)
)
def test_no_function_is_called(tmp_path: Path, protocol: int, function: Any) -> None:
    target = tmp_path / "made"
    argument = {os.mkdir: str(target), open: str(target), os.system: f"touch {target}"}.get(function, "1")
    handmade.write_zip(
        tmp_path / "pytorch_model.bin", {"archive/data.pkl": handmade.bomb(protocol, function, argument)}
    )
    with pytest.raises(CheckpointError, match="is not allowed; only tensors are built"):
        open_weights(tmp_path)
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ("eval", "OrderedDict.__init__", "OrderedDict\0", "_rebuild_tensor_v2.__globals__")
)
@pytest.mark.parametrize("module", ("builtins", "collections", "torch._utils", "os"))
def test_names_are_compared_whole(tmp_path: Path, module: str, name: str) -> None:
    stream = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."
    handmade.write_zip(tmp_path / "pytorch_model.bin", {"archive/data.pkl": stream})
    with pytest.raises(CheckpointError, match="is not allowed"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("stream", "message"),
    (
        (b"", "truncated"),
        (b"\x80\x02", "truncated"),
        (b"\x80\x02}", "truncated"),
        (b"\x80\x01}.", "pickle protocol 1"),
        (b"\x80\x06}.", "pickle protocol 6"),
        (b".", "stack underflow"),
        (b"(.", "stack underflow"),
        (b"NN.", "something is left beside the value"),
        (b"t.", "no mark"),
        (b"\x85.", "stack underflow"),
        (b"Na.", "stack underflow|wrong operand"),
        (b"NNa.", "wrong operand"),
        (b"](NK\x01u.", "wrong operand"),
        (b"}(K\x01u.", "a key without a value"),
        (b"}NNs.", "a key of type NoneType"),
        (b"})Ns.", "a key of type tuple"),
        (b"}G\x7f\xf8\0\0\0\0\0\0Ns.", "a key of type float"),
        (b"h\x00.", "memo 0 is not set"),
        (b"j\xff\xff\xff\xff.", "memo 4294967295 is not set"),
        (b"q\x00.", "wrong operand"),
        (b"NNR.", "wrong operand"),
        (b"cos\nsystem\nNR.", "wrong operand"),
        (b"cos\nsystem", "truncated"),
        (b"c\xff\nx\n.", "not UTF-8"),
        (b"N\x93.", "stack underflow"),
        (b"NN\x93.", "wrong operand"),
        (b"NNb.", "wrong operand"),
        (b"X\xff\xff\xff\xffabc", "truncated"),
        (b"\x8a\xffabc", "truncated"),
        (b"J\x00", "truncated"),
        # Opcodes that call, load by other ways, or that torch does not write.
        (b"(S'x'\nios\nsystem\n.", "opcode 0x53"),
        (b"(ios\nsystem\n.", "opcode 0x69"),
        (b"(cos\nsystem\no.", "opcode 0x6f"),
        (b"cos\nsystem\n)\x81.", r"^os\.system$"),  # an object of that class
        (b"N)\x81.", "wrong operand"),
        (b")\x81.", "stack underflow"),
        (b"cos\nsystem\n)}\x92.", "opcode 0x92"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"\x97.", "opcode 0x97"),
        (b"P0\n.", "opcode 0x50"),
        (b"I1\n.", "opcode 0x49"),
        (b"\x8b\xff\xff\xff\x7f", "opcode 0x8b"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "opcode 0x8d"),
    ),
)
def test_a_hostile_stream(stream: bytes, message: str) -> None:
    with pytest.raises(PickleError, match=message):
        run(stream)


OPEN = """
import sys
from pathlib import Path
from pyengine.checkpoints import open_weights
from pyengine.errors import CheckpointError
try:
    open_weights(Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
"""


def quick(tmp_path: Path, stream: bytes) -> None:
    handmade.write_zip(tmp_path / "pytorch_model.bin", {"archive/data.pkl": stream, "archive/data/0": b""})
    # In a process of its own, which can be stopped: anything exponential would never end.
    done = subprocess.run([sys.executable, "-c", OPEN, tmp_path], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert 0 < len(done.stdout) < 1000


def test_tuples_of_tuples_are_neither_hashed_nor_printed(tmp_path: Path) -> None:
    """Two to the power of a hundred leaves in 500 bytes, where a name, a size or an id is expected."""
    huge = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(100))
    quick(tmp_path, b"\x80\x02}" + huge + b"Ns.")
    quick(tmp_path, b"\x80\x02" + huge + b"Q.")
    stored = handmade.storage("0", "FloatStorage", 0)
    quick(tmp_path, handmade.state_dict({"a": handmade.tensor(stored, 0, huge, ())}))


def test_a_tuple_nested_two_hundred_thousand_deep(tmp_path: Path) -> None:
    quick(tmp_path, b"\x80\x02)" + b"\x85" * 200_000 + b"Q.")


def test_a_list_that_holds_itself(tmp_path: Path) -> None:
    quick(tmp_path, b"\x80\x02]q\x00h\x00aQ.")


def test_random_streams(tmp_path: Path) -> None:
    random = Random(3)
    opcodes = b".\x80\x95(N\x88\x89JKM\x8aGX\x8c)\x85\x86\x87t]ae}suhjqr\x94c\x93RbQ\n\x00\x01\x02"
    for _ in range(5000):
        stream = bytes(random.choice(opcodes) for _ in range(random.randint(1, 60)))
        try:
            run(stream)
        except PickleError:
            pass
