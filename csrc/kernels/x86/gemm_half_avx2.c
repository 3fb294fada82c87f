/* AVX2: products of float32 rows with bfloat16 and float16 weights. A weight becomes the float that it is; sums and
   their order are those of float32 weights.

   Each line is converted as it is read: beside the loads of the rows that costs no time. 6 rows take one block of 16
   channels; fewer take several, whose chains of sums overlap. */
#include "kernels/x86/gemm_f32_avx2.h"

enum { ROWS = 6, SUMS = 12 }; /* registers */

/* 8 weights; `brain`: bfloat16. */
ALWAYS_INLINE __m256 floats_at(const uint16_t *w, const bool brain) {
    const __m128i line = _mm_loadu_si128((const __m128i *)(const void *)w);
    if (brain) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(line), 16));
    return _mm256_cvtph_ps(line);
}

ALWAYS_INLINE int64_t block_weights(const pe_product *p) {
    return (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD * PE_BLOCK;
}

/* sum[blocks][rows][2] with one more column. */
ALWAYS_INLINE void add_column(__m256 *sum, const float *x, int64_t ldx, const uint16_t *w, int64_t stride,
                              const int rows, const int blocks, const bool brain) {
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) {
        const __m256 low = floats_at(w + b * stride, brain), high = floats_at(w + b * stride + 8, brain);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m256 a = _mm256_set1_ps(x[r * ldx]);
            const int at = (b * rows + r) * 2;
            sum[at] = _mm256_fmadd_ps(a, low, sum[at]);
            sum[at + 1] = _mm256_fmadd_ps(a, high, sum[at + 1]);
        }
    }
}

/* Rows [row0, row0 + rows) by `blocks` blocks; as many bytes are fetched from `ahead` on, where there is something. */
ALWAYS_INLINE void tile(const pe_product *p, int64_t row0, int64_t block, const int rows, const int blocks,
                        const bool brain, const uint8_t *ahead) {
    const int64_t stride = block_weights(p);
    const float *x = (const float *)p->x + row0 * p->ldx;
    const uint16_t *w = (const uint16_t *)p->w + block * stride;
    __m256 sum[SUMS];
#pragma GCC unroll 12
    for (int i = 0; i < blocks * rows * 2; i++) sum[i] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + 2 <= p->k; k += 2) { /* two lines of 32 bytes are one to fetch */
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) pe_prefetch(ahead, k / 2 * blocks + b);
        add_column(sum, x + k, p->ldx, w + k * PE_BLOCK, stride, rows, blocks, brain);
        add_column(sum, x + k + 1, p->ldx, w + (k + 1) * PE_BLOCK, stride, rows, blocks, brain);
    }
    if (k < p->k) add_column(sum, x + k, p->ldx, w + k * PE_BLOCK, stride, rows, blocks, brain);
    __m256 done[SUMS];
#pragma GCC unroll 12
    for (int i = 0; i < blocks * rows * 2; i++) done[i] = sum[i];
    for (int b = 0; b < blocks; b++) pe_finish_f32(p, row0, block + b, rows, done + b * rows * 2);
}

/* Blocks that a tile of so many rows takes together. */
static int blocks_of(int64_t rows, int64_t blocks) {
    const int most = rows == 1 ? 4 : rows <= 3 ? 2 : 1;
    return blocks >= most ? most : 1;
}

/* Up to 6 rows by 1, 2 or 4 blocks. */
ALWAYS_INLINE void tile_of(const pe_product *p, int64_t row, int64_t block, int64_t rows, int blocks,
                           const bool brain, const uint8_t *ahead) {
    if (blocks > 1) switch (rows) {
        case 1: tile(p, row, block, 1, 4, brain, ahead); return;
        case 2: tile(p, row, block, 2, 2, brain, ahead); return;
        default: tile(p, row, block, 3, 2, brain, ahead); return;
        }
    switch (rows) {
    case 1: tile(p, row, block, 1, 1, brain, ahead); break;
    case 2: tile(p, row, block, 2, 1, brain, ahead); break;
    case 3: tile(p, row, block, 3, 1, brain, ahead); break;
    case 4: tile(p, row, block, 4, 1, brain, ahead); break;
    case 5: tile(p, row, block, 5, 1, brain, ahead); break;
    default: tile(p, row, block, 6, 1, brain, ahead);
    }
}

ALWAYS_INLINE void gemm_half(const pe_product *p, int64_t block0, int64_t block1, const bool brain) {
    const int64_t block_bytes = block_weights(p) * (int64_t)sizeof(uint16_t);
    for (int64_t block = block0, blocks; block < block1; block += blocks) {
        blocks = blocks_of(p->m, block1 - block);
        const bool last = block + blocks >= block1;
        const uint8_t *ahead = last ? p->ahead : (const uint8_t *)p->w + (block + blocks) * block_bytes;
        for (int64_t row = 0; row < p->m; row += ROWS)
            tile_of(p, row, block, p->m - row, (int)blocks, brain, row == 0 ? ahead : NULL);
    }
}

void pe_gemm_f32_f32_bf16__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, true);
}

void pe_gemm_f32_f32_f16__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, false);
}
