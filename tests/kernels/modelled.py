"""AMX's kernels compiled against a model of its instructions, for machines that lack them (`tile_model/`)."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np

from pyengine import _core

__all__ = ["ModelledKernels", "build", "why_not"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "tests/kernels/tile_model/tile_model.c", "csrc/base/cpu.c", "csrc/base/flag.c", "csrc/base/team.c",
    "csrc/kernels/kernels.c", "csrc/kernels/x86/overlay_amx.c", "csrc/kernels/x86/gemm_amx.c",
    "csrc/kernels/x86/gemm_q4_amx.c",
    "csrc/kernels/x86/gemm_avx512vnni.c", "csrc/kernels/x86/gemm_q4_avx512vnni.c",
)  # fmt: skip
# The model's headers stand before those that they take the place of.
FLAGS = (
    "-std=c11 -shared -fPIC -pthread -O2 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -DPE_AMX "
    "-Itests/kernels/tile_model -Icsrc "
    "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma"
).split()


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def why_not() -> str | None:
    """Why these kernels cannot run here, or None: all but the tiles is AVX-512's."""
    if platform.machine() != "x86_64" or "avx512vnni" not in _core.available_isas():
        return "the kernels of AMX use AVX-512 VNNI, which this CPU lacks"
    return None if shutil.which(_compiler()[0]) else "needs a C compiler"


def build(folder: Path) -> ctypes.CDLL:
    target = folder / "modelled.so"
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run([*_compiler(), *FLAGS, *SOURCES, "-lm", "-o", str(target)], cwd=ROOT, env=environment, check=True)
    library = ctypes.CDLL(str(target))
    for name in ("tile_chosen", "tile_missing"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def _address(values: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if values is None else values.ctypes.data)


class ModelledKernels:
    """The products of `_core.Kernels`, from a library that `build` made; `dots` multiplications of tiles so far."""

    flip = 0x80

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    @property
    def dots(self) -> int:
        return ctypes.c_int64.in_dll(self._library, "tile_dots").value

    @property
    def faults(self) -> int:
        return ctypes.c_int64.in_dll(self._library, "tile_faults").value

    def gemm_q8(self, x, x_scale, w, w_scale, w_sum, y, **options) -> None:
        self._product(x, x_scale, w, w_scale, y, w_sum=w_sum, **options)

    def gemm_q4(self, x, x_scale, w, w_scale, group_scale, y, **options) -> None:
        group = x.shape[1] // group_scale.shape[1]
        self._product(x, x_scale, w, w_scale, y, group=group, group_scale=group_scale, **options)

    def _product(
        self, x, x_scale, w, w_scale, y, *, w_sum=None, group=0, group_scale=None, group_zero=None, bias=None,
        residual=None, activation="linear", blocks=None,
    ) -> None:  # fmt: skip
        m, k = x.shape
        first, last = blocks or (0, len(w))
        ldr = 0 if residual is None else residual.strides[0] // 4
        self._library.tile_product(
            *map(ctypes.c_int64, (m, k)), _address(x), ctypes.c_int64(x.strides[0]), _address(x_scale), _address(w),
            _address(w_scale), _address(w_sum), ctypes.c_int64(group), _address(group_scale), _address(group_zero),
            _address(bias), _address(residual), ctypes.c_int64(ldr), _address(y), ctypes.c_int64(y.strides[0] // 4),
            activation.encode(), ctypes.c_int64(first), ctypes.c_int64(last),
        )  # fmt: skip
