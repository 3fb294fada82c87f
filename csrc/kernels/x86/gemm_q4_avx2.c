/* AVX2: the product of int8 rows with int4 weights in groups.

   A line of 64 bytes is two vectors, channels 0-7 and 8-15, of which each gives two operands, its low and its high
   nibbles. vpmaddubsw multiplies these, unsigned, by the signed bytes of a row and adds pairs into 16 bits. Over 32
   columns a lane collects 8 pairs of at most 2 * 15 * 128 = 3,840, together at most 30,720: nothing saturates before
   they are widened, once for all 32. The zero point z of a group takes z times the sum of its x away, which is found
   once for all the blocks of a call. */
#include "kernels/x86/gemm_avx2.h"

enum {
    ROWS = 3,
    COLUMNS = 32, /* between two widenings */
    SUMS = 8192,  /* of groups of x that are held: of ROWS rows of 65,536 columns at least */
};

/* sums[rows][groups] of x. */
static void sum_groups(const pe_product *p, int64_t row0, int64_t rows, int32_t *sums) {
    /* As unsigned bytes, 128 more than the signed ones, whose sum of absolute differences from 0 is their sum. */
    const __m256i flips = _mm256_set1_epi8((char)128), zero = _mm256_setzero_si256();
    for (int64_t r = 0; r < rows; r++) {
        const int8_t *x = (const int8_t *)p->x + (row0 + r) * p->ldx;
        for (int64_t k = 0; k < p->k; k += p->group) {
            __m256i eights = zero;
            for (int64_t i = k; i < k + p->group; i += COLUMNS) {
                const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
                eights = _mm256_add_epi64(eights, _mm256_sad_epu8(_mm256_xor_si256(bytes, flips), zero));
            }
            const __m128i a = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
            *sums++ = _mm_cvtsi128_si32(_mm_add_epi64(a, _mm_unpackhi_epi64(a, a))) - 128 * (int32_t)p->group;
        }
    }
}

static inline __m256 halves(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
}

/* The zero points of 8 channels' groups. */
static inline __m256i zeros_of(const pe_product *p, int64_t at) {
    if (!p->group_zero) return _mm256_set1_epi32(8);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p->group_zero + at)));
}

/* sum[rows][2] += q x over COLUMNS columns, from `x` and four lines at `w` on. */
ALWAYS_INLINE void add_columns(const int8_t *x, int64_t ldx, const uint8_t *w, const int rows, __m256i sum[ROWS * 2],
                               const uint8_t *ahead, int64_t first_line) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) pairs[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int line = 0; line < COLUMNS / (2 * PE_QUAD); line++) {
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

/* x_sum: [rows][groups] */
ALWAYS_INLINE void tile_q4(const pe_product *p, int64_t row0, int64_t block, const int rows, const int32_t *x_sum,
                           const uint8_t *ahead) {
    const int64_t ldx = p->ldx, groups = p->k / p->group;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const uint8_t *w = (const uint8_t *)p->w + block * PE_BLOCK * p->k / 2;
    __m256 acc[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) acc[i] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const int64_t at = (block * groups + g) * PE_BLOCK;
        __m256i sum[ROWS * 2];
#pragma GCC unroll 6
        for (int i = 0; i < rows * 2; i++) {
            const __m256i offset = _mm256_set1_epi32(-x_sum[i / 2 * groups + g]);
            sum[i] = _mm256_mullo_epi32(offset, zeros_of(p, at + i % 2 * 8));
        }
        for (int64_t k = g * p->group; k < (g + 1) * p->group; k += COLUMNS)
            add_columns(x + k, ldx, w + k * PE_BLOCK / 2, rows, sum, ahead, k / (2 * PE_QUAD));
        const __m256 scale[2] = {halves(p->group_scale + at), halves(p->group_scale + at + 8)};
#pragma GCC unroll 6
        for (int i = 0; i < rows * 2; i++) acc[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i]), scale[i % 2], acc[i]);
    }
    __m256 done[ROWS * 2];
#pragma GCC unroll 6
    for (int i = 0; i < rows * 2; i++) done[i] = acc[i];
    pe_finish_scaled(p, row0, block, rows, done);
}

/* tile_q4 of 1 to 3 rows. A function of its own: tiles keep to registers only where little surrounds them. */
static __attribute__((noinline)) void tile_of(const pe_product *p, int64_t row0, int64_t block, int64_t rows,
                                              const int32_t *x_sum, const uint8_t *ahead) {
    switch (rows) {
    case 1: tile_q4(p, row0, block, 1, x_sum, ahead); break;
    case 2: tile_q4(p, row0, block, 2, x_sum, ahead); break;
    default: tile_q4(p, row0, block, 3, x_sum, ahead);
    }
}

void pe_gemm_f32_q8r_q4g__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, groups = p->k / p->group, most = SUMS / groups / ROWS * ROWS;
    int32_t sums[SUMS];
    for (int64_t part = 0, end; part < p->m; part = end) {
        end = p->m - part > most ? part + most : p->m;
        sum_groups(p, part, end - part, sums);
        for (int64_t block = block0; block < block1; block++)
            for (int64_t row = part; row < end; row += ROWS) {
                const uint8_t *ahead = pe_ahead_of(p, row, block, block1, block_bytes);
                tile_of(p, row, block, end - row, sums + (row - part) * groups, ahead);
            }
    }
}
