"""AMX's kernels, against a model of its instructions where the CPU lacks them: the reference's bytes; and what becomes
of AMX where the CPU or the operating system says no."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pyengine import _core

from .memory import EDGES
from .modelled import ModelledKernels, build, why_not
from .products import Product, int4_product, int8_product, run

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

LEAST_INT8, LEAST_INT4 = 4, {32: 32, 64: 16, 128: 16}
"""Rows from which on tiles multiply them, int4 by group."""
FEATURE, SAVED = 1 << 24 | 1 << 25, 0x600E7


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("modelled"))


@pytest.fixture
def modelled(library: ctypes.CDLL) -> Iterator[ModelledKernels]:
    kernels = ModelledKernels(library)
    yield kernels
    assert kernels.faults == 0


@pytest.fixture(scope="module")
def reference() -> _core.Kernels:
    return _core.Kernels("ref")


def check(modelled: ModelledKernels, reference: _core.Kernels, p: Product, **options) -> None:
    """The reference's bytes, by tiles exactly where there are rows enough."""
    before = modelled.dots
    got = run(modelled, p, **options)
    options.pop("edge", None)
    options.pop("gap", None)
    assert got.tobytes() == run(reference, p, **options).tobytes()
    m, k = p.x.shape
    by_tiles = m >= LEAST_INT4[p.group] if p.group else m >= LEAST_INT8 and k > 60
    assert (modelled.dots > before) == by_tiles


@pytest.mark.parametrize("m", [*range(1, 41), 48, 63, 191, 192, 193, 385])
def test_int8_of_any_number_of_rows(modelled: ModelledKernels, reference: _core.Kernels, m: int) -> None:
    p = int8_product(m, m, 200, 5)
    for edge in EDGES:
        check(modelled, reference, p, activation="silu", edge=edge, gap=56)
    check(modelled, reference, p, in_place=True)


@pytest.mark.parametrize("k", [1, 4, 60, 61, 64, 65, 68, 96, 124, 128, 512, 516, 572, 576, 580, 1024, 1100, 1660])
def test_int8_of_any_number_of_columns(modelled: ModelledKernels, reference: _core.Kernels, k: int) -> None:
    for m in (4, 20, 37):
        check(modelled, reference, int8_product(k, m, k, 3), activation="relu", gap=4)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("m", [7, 33])
def test_int8_of_a_part_of_the_blocks(modelled: ModelledKernels, reference: _core.Kernels, m: int, blocks: int) -> None:
    p = int8_product(m, m, 132, 5)
    for first in range(6 - blocks):
        check(modelled, reference, p, part=(first, first + blocks), activation="gelu")


def test_int8_extremes_do_not_saturate(modelled: ModelledKernels) -> None:
    """255 * 127 * K in 32 bits, at the most columns."""
    for x in (127, -127):
        ones = np.ones(17, np.float32), np.ones(16, np.float32)
        p = Product(np.full((17, 65536), x, np.int8), np.full((16, 65536), 127, np.int8), None, None, *ones)
        np.testing.assert_array_equal(run(modelled, p), np.float32(x * 127 * 65536))


@pytest.mark.parametrize("group", LEAST_INT4)
@pytest.mark.parametrize("m", [*range(14, 41), 64, 200, 204])
def test_int4_of_any_number_of_rows(modelled: ModelledKernels, reference: _core.Kernels, m: int, group: int) -> None:
    p = int4_product(m, m, 288, 2, group, m % 2 == 0)
    for edge in EDGES:
        check(modelled, reference, p, activation="silu", edge=edge, gap=64)
    check(modelled, reference, p, in_place=True)


@pytest.mark.parametrize("group", LEAST_INT4)
@pytest.mark.parametrize("k", [1, 32, 33, 64, 96, 128, 129, 160, 1000, 1024, 1025, 1056, 2100])
def test_int4_of_any_number_of_columns(modelled: ModelledKernels, reference: _core.Kernels, k: int, group: int) -> None:
    for zero_points in (False, True):
        check(modelled, reference, int4_product(k, 32, k, 3, group, zero_points), part=(1, 3), activation="gelu")


def test_int4_rows_that_are_no_whole_tile(modelled: ModelledKernels) -> None:
    """Few of them go by vectors, more by one tile more."""
    dots = []
    for m in (16, 23, 24, 32):
        before = modelled.dots
        run(modelled, int4_product(1, m, 64, 2, 64, False))
        dots.append(modelled.dots - before)
    assert dots == [2, 2, 4, 4]


def test_one_configuration_for_rows_of_a_height(modelled: ModelledKernels, library: ctypes.CDLL) -> None:
    """Tiles are configured anew, which costs as much as twenty products of them, only where they must be."""
    made = ctypes.c_int64.in_dll(library, "tile_configurations")
    p = int8_product(1, 32, 128, 4)
    run(modelled, p)
    before = made.value
    for block in range(4):
        run(modelled, p, part=(block, block + 1))
    assert made.value == before


class Machine:
    """A CPU and an operating system; grants 0 never gives AMX's registers, 1 when asked, 2 has given them."""

    def __init__(self, library: ctypes.CDLL, seventh: int = FEATURE, saved: int = SAVED, grants: int = 1) -> None:
        self.library = library
        ctypes.c_uint32.in_dll(library, "cpu_seventh_d").value = seventh
        ctypes.c_uint64.in_dll(library, "cpu_saved").value = saved
        ctypes.c_int.in_dll(library, "system_grants").value = grants
        self.requests = 0

    @property
    def requests(self) -> int:
        return ctypes.c_int.in_dll(self.library, "system_requests").value

    @requests.setter
    def requests(self, value: int) -> None:
        ctypes.c_int.in_dll(self.library, "system_requests").value = value

    def chosen(self, isa: str | None = None) -> str | None:
        found = self.library.tile_chosen(None if isa is None else isa.encode())
        return None if found is None else found.decode()

    def missing(self, most: str | None = None) -> str | None:
        found = self.library.tile_missing(None if most is None else most.encode())
        return None if found is None else found.decode()


def test_amx_is_chosen_where_all_agree(library: ctypes.CDLL) -> None:
    for grants, requests in ((1, 1), (2, 0)):
        machine = Machine(library, grants=grants)
        assert (machine.chosen(), machine.missing(), machine.requests) == ("amx", None, requests)
        assert (machine.chosen("amx"), machine.chosen("avx512vnni")) == ("amx", "avx512vnni")


def test_a_cpu_without_amx(library: ctypes.CDLL) -> None:
    for seventh in (0, 1 << 24, 1 << 25):
        machine = Machine(library, seventh=seventh)
        assert (machine.chosen(), machine.chosen("amx")) == ("avx512vnni", None)
        assert (machine.missing(), machine.requests) == ("the CPU lacks it", 0)


def test_an_operating_system_that_does_not_save_tiles(library: ctypes.CDLL) -> None:
    for saved in (0xE7, 0x200E7, 0x400E7):
        machine = Machine(library, saved=saved)
        assert (machine.chosen(), machine.chosen("amx")) == ("avx512vnni", None)
        assert (machine.missing(), machine.requests) == ("the operating system refuses it", 0)


def test_a_request_that_is_denied(library: ctypes.CDLL) -> None:
    machine = Machine(library, grants=0)
    assert (machine.chosen(), machine.chosen("amx")) == ("avx512vnni", None)
    assert machine.missing() == "the operating system refuses it"


def test_who_asks_for_less_does_not_request(library: ctypes.CDLL) -> None:
    """A sandbox may end a process at that system call."""
    machine = Machine(library)
    assert [machine.chosen(isa) for isa in ("ref", "avx2", "avx512vnni", "none")] == ["ref", "avx2", "avx512vnni", None]
    assert [machine.missing(isa) for isa in ("ref", "avx512vnni")] == ["nobody asked"] * 2
    assert machine.requests == 0


def test_a_region_leaves_the_callers_configuration(library: ctypes.CDLL) -> None:
    assert Machine(library).chosen() == "amx"
    theirs = bytearray(64)
    theirs[0], theirs[16], theirs[48], theirs[18], theirs[49] = 1, 32, 5, 64, 3
    for before in (bytes(64), bytes(theirs)):
        inside, after = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
        library.tile_region(before, inside, after)
        assert inside.raw == after.raw == before
    ctypes.c_int64.in_dll(library, "tile_faults").value = 0


def test_the_model_against_plain_arithmetic(library: ctypes.CDLL) -> None:
    """A product of tiles that are not full, by the manual's words in NumPy, modulo 2^32."""
    rng = np.random.default_rng(1)
    rows, quads, columns = 5, 7, 11
    config = np.zeros(64, np.uint8)
    config[0] = 1
    for tile, (height, width) in enumerate(((rows, 4 * columns), (rows, 4 * quads), (quads, 4 * columns))):
        config[16 + 2 * tile], config[48 + tile] = width, height
    a = rng.integers(0, 256, (rows, 4 * quads), np.uint8)
    b = rng.integers(-128, 128, (quads, columns, 4), np.int8)
    c = rng.integers(-(2**31), 2**31, (rows, columns)).astype(np.int32)
    library.tile_configure(config.ctypes.data_as(ctypes.c_void_p))
    for tile, values in enumerate((c, a, b)):
        library.tile_load(tile, values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.strides[0]))
    library.tile_dot(0, 1, 2)
    got = np.zeros_like(c)
    library.tile_store(0, got.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(got.strides[0]))
    plain = a.astype(np.int64) @ b.transpose(0, 2, 1).reshape(4 * quads, columns).astype(np.int64)
    np.testing.assert_array_equal(got, (c + plain).astype(np.int32))
    assert ctypes.c_int64.in_dll(library, "tile_faults").value == 0
    library.tile_dot(0, 2, 1)  # shapes that do not fit
    library.tile_dot(0, 1, 3)  # a tile that is not configured
    assert ctypes.c_int64.in_dll(library, "tile_faults").value == 2
    ctypes.c_int64.in_dll(library, "tile_faults").value = 0
    library.tile_configure(bytes(64))
