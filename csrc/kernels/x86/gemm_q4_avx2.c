/* AVX2: the product of int8 rows with int4 weights in groups.

   A line of 64 bytes is two vectors, channels 0-7 and 8-15, of which each gives two operands, its low and its high
   nibbles. vpmaddubsw multiplies these, unsigned, by the signed bytes of a row and adds pairs into 16 bits. Over 32
   columns a lane collects 8 pairs of at most 2 * 15 * 128 = 3,840, together at most 30,720: nothing saturates before
   they are widened, once for all 32. */
#include "kernels/x86/gemm_avx2.h"

enum { ROWS = 3 };

void pe_group_sums_s32_q8r__avx2(const int8_t *q, int64_t n, uint8_t flip, int32_t *sums) {
    /* As unsigned bytes, 128 more than the signed ones, whose sum of absolute differences from 0 is their sum. */
    const __m256i flips = _mm256_set1_epi8((char)(flip ^ 0x80)), zero = _mm256_setzero_si256();
    for (int64_t i = 0; i < n / PE_SUMMED; i++) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(q + i * PE_SUMMED));
        const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(bytes, flips), zero);
        const __m128i a = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
        sums[i] = _mm_cvtsi128_si32(_mm_add_epi64(a, _mm_unpackhi_epi64(a, a))) - 128 * PE_SUMMED;
    }
}

static inline __m256 halves(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* sum[rows][2] += q x over 32 columns, from `x` and four lines at `w` on. */
ALWAYS_INLINE void add_columns(const int8_t *x, int64_t ldx, const uint8_t *w, const int rows, __m256i sum[ROWS * 2],
                               const uint8_t *ahead, int64_t first_line) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) pairs[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int line = 0; line < PE_SUMMED / (2 * PE_QUAD); line++) {
        pe_prefetch(ahead, first_line + line);
        const __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)(w + line * 64));
        const __m256i second = _mm256_loadu_si256((const __m256i *)(const void *)(w + line * 64 + 32));
#pragma GCC unroll 2
        for (int high = 0; high < 2; high++) {
            const __m256i q0 = _mm256_and_si256(high ? _mm256_srli_epi16(first, 4) : first, nibble);
            const __m256i q1 = _mm256_and_si256(high ? _mm256_srli_epi16(second, 4) : second, nibble);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) {
                int32_t quad;
                memcpy(&quad, x + r * ldx + (2 * line + high) * PE_QUAD, sizeof quad);
                const __m256i a = _mm256_set1_epi32(quad);
                pairs[r * 2] = _mm256_add_epi16(pairs[r * 2], _mm256_maddubs_epi16(q0, a));
                pairs[r * 2 + 1] = _mm256_add_epi16(pairs[r * 2 + 1], _mm256_maddubs_epi16(q1, a));
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs[i], ones));
}

ALWAYS_INLINE void tile_q4(const pe_product *p, int64_t row0, int64_t block, const int rows, const uint8_t *ahead) {
    const int64_t ldx = p->ldx, groups = p->k / p->group;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const uint8_t *w = (const uint8_t *)p->w + block * PE_BLOCK * p->k / 2;
    __m256 acc[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) acc[i] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        int32_t x_sum[ROWS] = {0};
        __m256i sum[ROWS * 2];
        for (int r = 0; r < rows; r++)
            for (int64_t i = g * p->group / PE_SUMMED; i < (g + 1) * p->group / PE_SUMMED; i++)
                x_sum[r] += p->x_sum[(row0 + r) * (ldx / PE_SUMMED) + i];
#pragma GCC unroll 6
        for (int i = 0; i < rows * 2; i++)
            sum[i] = p->group_min ? _mm256_setzero_si256() : _mm256_set1_epi32(-8 * x_sum[i / 2]);
        for (int64_t k = g * p->group; k < (g + 1) * p->group; k += PE_SUMMED)
            add_columns(x + k, ldx, w + k * PE_BLOCK / 2, rows, sum, ahead, k / (2 * PE_QUAD));
        const int64_t at = (block * groups + g) * PE_BLOCK;
        const __m256 scale[2] = {halves(p->group_scale + at), halves(p->group_scale + at + 8)};
#pragma GCC unroll 6
        for (int i = 0; i < rows * 2; i++) acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i]), scale[i % 2], acc[i]);
        if (p->group_min) {
            const __m256 min[2] = {halves(p->group_min + at), halves(p->group_min + at + 8)};
#pragma GCC unroll 6
            for (int i = 0; i < rows * 2; i++)
                acc[i] = _mm256_fmadd_ps(_mm256_set1_ps((float)x_sum[i / 2]), min[i % 2], acc[i]);
        }
    }
    __m256 done[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) done[i] = acc[i];
    pe_finish_scaled(p, row0, block, rows, done);
}

void pe_gemm_f32_q8r_q4g__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2;
    for (int64_t block = block0; block < block1; block++)
        for (int64_t row = 0; row < p->m; row += ROWS) {
            const uint8_t *ahead = pe_ahead_of(p, row, block, block1, block_bytes);
            switch (p->m - row) {
            case 1: tile_q4(p, row, block, 1, ahead); break;
            case 2: tile_q4(p, row, block, 2, ahead); break;
            default: tile_q4(p, row, block, 3, ahead);
            }
        }
}
