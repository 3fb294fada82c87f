/* AVX2: products with block-sparse int8 weights. The arithmetic is that of gemm_avx2.c; a line says which four columns
   of the rows it multiplies. */
#include "kernels/x86/gemm_avx2.h"

enum { ROWS = 4, AHEAD = 64 /* lines from the one that is used to the one that is prefetched */ };

ALWAYS_INLINE void tile(const pe_product *p, int64_t row0, int64_t block, const int rows, const uint8_t *next) {
    const int64_t first = p->line_start[block], end = p->line_start[block + 1], ldx = p->ldx;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx, *w = p->w;
    const uint16_t *quads = p->line_quad;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[ROWS * 2]; /* registers: its address must not leave this function */
#pragma GCC unroll 8
    for (int i = 0; i < rows * 2; i++) sum[i] = _mm256_setzero_si256();
    for (int64_t line = first; line < end; line++) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(w + line * 64));
        const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(w + line * 64 + 32));
        _mm_prefetch((const char *)next + (line - first) * 64, _MM_HINT_T0);
        const __m256i low_abs = _mm256_abs_epi8(low), high_abs = _mm256_abs_epi8(high);
        const int8_t *at = x + (int64_t)quads[line] * PE_QUAD;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, at + r * ldx, sizeof quad);
            const __m256i a = _mm256_set1_epi32(quad);
            const __m256i pairs0 = _mm256_maddubs_epi16(low_abs, _mm256_sign_epi8(a, low));
            const __m256i pairs1 = _mm256_maddubs_epi16(high_abs, _mm256_sign_epi8(a, high));
            sum[r * 2] = _mm256_add_epi32(sum[r * 2], _mm256_madd_epi16(pairs0, ones));
            sum[r * 2 + 1] = _mm256_add_epi32(sum[r * 2 + 1], _mm256_madd_epi16(pairs1, ones));
        }
    }
    __m256 done[ROWS * 2];
#pragma GCC unroll 8
    for (int i = 0; i < rows * 2; i++) done[i] = pe_floats_of(sum[i]);
    pe_finish_scaled(p, row0, block, rows, done);
}

void pe_gemm_f32_q8r_q8s__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    for (int64_t block = block0; block < block1; block++) {
        const uint8_t *next = pe_lines_ahead(p, block, block1, AHEAD);
        for (int64_t row = 0; row < p->m; row += ROWS) {
            switch (p->m - row) {
            case 1: tile(p, row, block, 1, next); break;
            case 2: tile(p, row, block, 2, next); break;
            case 3: tile(p, row, block, 3, next); break;
            default: tile(p, row, block, 4, next);
            }
        }
    }
}
