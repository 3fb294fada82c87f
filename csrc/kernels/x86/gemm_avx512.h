/* AVX-512: what the matrix products share. */
#ifndef PE_KERNELS_X86_GEMM_AVX512_H
#define PE_KERNELS_X86_GEMM_AVX512_H

#include "kernels/x86/vec_avx512.h"
#include "kernels/x86/x86.h"

/* A tile is at most ROWS rows by a panel of BLOCKS blocks, or up to FEW rows by one block. */
enum { ROWS = 6, BLOCKS = 4, FEW = 8 };

/* `v`, in a register where this stands: GCC 12 else reads an operand again from memory for each of its uses, and keeps
   the sums of large tiles there, all through a loop, because the conversion that follows it could read them there. */
ALWAYS_INLINE __m512i pe_in_register(__m512i v) {
    __asm__("" : "+v"(v));
    return v;
}

/* The floats of a sum that a loop collected. */
ALWAYS_INLINE __m512 pe_floats_of(__m512i sum) { return _mm512_cvtepi32_ps(pe_in_register(sum)); }

/* What a tile prefetches while it runs: `lines` of 64 bytes from `from` on in each step of its loop. */
typedef struct pe_ahead {
    const uint8_t *from;
    int lines;
} pe_ahead;

/* The share of tile `tile` of `tiles` of one panel, in the bytes of the panel that is read after it. A panel has BLOCKS
   lines a step of the loop; the first tiles share them out. */
static inline pe_ahead pe_panel_ahead(const pe_product *p, int64_t block, int64_t block1, int64_t block_bytes,
                                      int64_t tile, int64_t tiles) {
    const uint8_t *following = (const uint8_t *)p->w + (block + BLOCKS) * block_bytes;
    const uint8_t *next = block + 2 * BLOCKS <= block1 ? following : p->ahead;
    const int lines = tiles >= BLOCKS ? 1 : tiles >= 2 ? 2 : BLOCKS;
    if (!next || tile * lines >= BLOCKS) return (pe_ahead){NULL, 0};
    return (pe_ahead){next + tile * lines * block_bytes, lines};
}

ALWAYS_INLINE void pe_prefetch(pe_ahead *next) {
    for (int i = 0; i < next->lines; i++, next->from += 64) _mm_prefetch((const char *)next->from, _MM_HINT_T1);
}

/* One look at the kind for all blocks, whose long chains overlap. */
ALWAYS_INLINE void pe_activate_blocks(pe_activation kind, __m512 value[BLOCKS], const int blocks) {
    if (kind == PE_SILU) {
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) value[b] = pe_activate16(PE_SILU, value[b]);
    } else if (kind == PE_RELU) {
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) value[b] = pe_activate16(PE_RELU, value[b]);
    } else {
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) value[b] = pe_activate16(kind, value[b]);
    }
}

/* sum[rows][blocks] of int8 rows and `blocks` (constant) blocks of channels, integers or floats, to be scaled. */
ALWAYS_INLINE void pe_finish_blocks(const pe_product *p, int64_t row0, int64_t block0, int rows, const int blocks,
                                    const __m512i *whole, const __m512 *sum) {
    const int64_t channel = block0 * PE_BLOCK;
    __m512 w_scale[BLOCKS], bias[BLOCKS];
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) {
        w_scale[b] = _mm512_loadu_ps(p->w_scale + channel + b * PE_BLOCK);
        bias[b] = p->bias ? _mm512_loadu_ps(p->bias + channel + b * PE_BLOCK) : _mm512_setzero_ps();
    }
    for (int r = 0; r < rows; r++) {
        const __m512 x_scale = _mm512_set1_ps(p->x_scale[row0 + r]);
        __m512 value[BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) {
            const int i = r * blocks + b;
            const __m512 each = whole ? _mm512_cvtepi32_ps(whole[i]) : sum[i];
            value[b] = _mm512_fmadd_ps(each, _mm512_mul_ps(x_scale, w_scale[b]), bias[b]);
        }
        float *y = p->y + (row0 + r) * p->ldy + channel;
        if (p->activation != PE_IDENTITY) pe_activate_blocks(p->activation, value, blocks);
        if (p->residual) {
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++) {
                const float *residual = p->residual + (row0 + r) * p->ldr + channel + b * PE_BLOCK;
                value[b] = _mm512_add_ps(value[b], _mm512_loadu_ps(residual));
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) _mm512_storeu_ps(y + b * PE_BLOCK, value[b]);
    }
}

/* The end of a product, for 4 blocks, 2 or 1: of integers, and of floats. */
static __attribute__((noinline, unused)) void pe_finish_sums(const pe_product *p, int64_t row0, int64_t block0,
                                                             int rows, int blocks, const __m512i *sum) {
    switch (blocks) {
    case 4: pe_finish_blocks(p, row0, block0, rows, 4, sum, NULL); break;
    case 2: pe_finish_blocks(p, row0, block0, rows, 2, sum, NULL); break;
    default: pe_finish_blocks(p, row0, block0, rows, 1, sum, NULL);
    }
}

static __attribute__((noinline, unused)) void pe_finish_scaled(const pe_product *p, int64_t row0, int64_t block0,
                                                               int rows, int blocks, const __m512 *sum) {
    if (blocks == BLOCKS)
        pe_finish_blocks(p, row0, block0, rows, BLOCKS, NULL, sum);
    else
        pe_finish_blocks(p, row0, block0, rows, 1, NULL, sum);
}

#endif
