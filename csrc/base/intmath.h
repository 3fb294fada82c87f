/* Integer helpers: limits, rounding up, and products of sizes that come from a file or a caller. */
#ifndef PE_BASE_INTMATH_H
#define PE_BASE_INTMATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline int64_t pe_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t pe_max(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int64_t pe_clamp(int64_t n, int64_t low, int64_t high) { return pe_min(pe_max(n, low), high); }

/* The smallest multiple of `step` (a power of two) that is at least `n`; n >= 0. */
static inline int64_t pe_round_up(int64_t n, int64_t step) { return (n + step - 1) & ~(step - 1); }

static inline int64_t pe_ceil_div(int64_t n, int64_t d) { return (n + d - 1) / d; }

/* *out = a * b; false if that does not fit. */
static inline bool pe_mul_ok(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }

#endif
