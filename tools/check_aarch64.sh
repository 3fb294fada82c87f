#!/usr/bin/env bash
# The core on aarch64, where it has the scalar reference only: cross-compiled, run under emulation, and held against
# this machine's reference, which must give the same bytes. Needs aarch64-linux-gnu-gcc and qemu-aarch64 (Debian:
# gcc-aarch64-linux-gnu, qemu-user).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t sources < <(find csrc tests/csrc -name '*.c' -not -path 'csrc/kernels/x86/*')

build() { # build COMPILER FLAG...: the check program with the scalar reference and everything above it
    local compiler=$1
    shift
    "$compiler" -std=c11 -O2 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -Icsrc -Itests/csrc "$@" \
        "${sources[@]}" -lm -o "$work/$compiler"
}

build aarch64-linux-gnu-gcc -pthread
qemu-aarch64 -L /usr/aarch64-linux-gnu "$work/aarch64-linux-gnu-gcc" ref | tee "$work/aarch64"

# Here the overlays of other instruction sets are left out too, and nothing calls them.
build gcc -static -Wl,--unresolved-symbols=ignore-all
"$work/gcc" ref > "$work/here"
diff "$work/here" "$work/aarch64"
echo "aarch64 gives the bytes of $(uname -m)"
