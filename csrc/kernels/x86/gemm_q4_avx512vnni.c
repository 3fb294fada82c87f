/* AVX-512 VNNI: the product of int8 rows with int4 weights in groups.

   vpdpbusd multiplies unsigned by signed bytes: rows come flipped (x + 128), the unsigned operand, and nibbles
   (0 to 15) are the signed one. So 128 times the sum of a group's nibbles is subtracted, which is found on the way.

   Up to 8 rows take one block of 16 channels at a time, as a single stream of memory: each line is cut into nibbles
   once for all rows. So do more rows with the last blocks, where these are no whole panel.

   More rows take a panel of 4 blocks. STEP columns of it at a time become bytes in a buffer in the first-level cache,
   which every tile of 6 rows by 4 blocks reads, as those of int8 weights do. The 24 sums of a tile turn into floats at
   the end of each group, and wait in a second buffer for the steps to come. */
#include "kernels/x86/gemm_avx512.h"

enum {
    STEP = 256,
    CHUNK = 96,  /* rows that a panel's bytes are made for */
    TILE = 3, /* rows of a tile */
    UNROLLED = 4,
    LINE = 2 * PE_QUAD, /* columns of a line of 64 bytes */
};

/* Columns of a panel, and what a group of them needs. */
typedef struct panel {
    _Alignas(64) uint8_t lines[STEP / PE_QUAD][BLOCKS][PE_BLOCK * PE_QUAD];
    _Alignas(64) int32_t start[STEP / PE_SUMMED][BLOCKS][PE_BLOCK]; /* -128 times the sum of the group's q */
    _Alignas(64) float scale[STEP / PE_SUMMED][BLOCKS][PE_BLOCK];
    _Alignas(64) float min[STEP / PE_SUMMED][BLOCKS][PE_BLOCK];
} panel;

void pe_group_sums_s32_q8r__avx512vnni(const int8_t *q, int64_t n, uint8_t flip, int32_t *sums) {
    /* As unsigned bytes, 128 more than the signed ones, whose sum of absolute differences from 0 is their sum. */
    const __m256i flips = _mm256_set1_epi8((char)(flip ^ 0x80)), zero = _mm256_setzero_si256();
    for (int64_t i = 0; i < n / PE_SUMMED; i++) {
        const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(q + i * PE_SUMMED));
        const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(bytes, flips), zero);
        const __m128i a = _mm_add_epi64(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
        sums[i] = _mm_cvtsi128_si32(_mm_add_epi64(a, _mm_unpackhi_epi64(a, a))) - 128 * PE_SUMMED;
    }
}

static inline __m512 halves(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline __m512i low_nibbles(__m512i line) { return _mm512_and_si512(line, _mm512_set1_epi8(15)); }

static inline __m512i high_nibbles(__m512i line) { return low_nibbles(_mm512_srli_epi16(line, 4)); }

/* 128 times the nibbles of a line, added to the sums of their channels. */
static inline __m512i add_nibbles(__m512i sum, __m512i low, __m512i high) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8((char)128), _mm512_add_epi8(low, high));
}

static inline __m512i quad(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The sum of x over the group at column k. */
static inline int32_t x_sum_of(const pe_product *p, int64_t row, int64_t k) {
    const int32_t *sums = p->x_sum + row * (p->ldx / PE_SUMMED) + k / PE_SUMMED;
    const int32_t two = p->group > 32 ? sums[0] + sums[1] : sums[0];
    return p->group > 64 ? two + sums[2] + sums[3] : two;
}

/* acc[rows] of rows [row0, row0 + rows) and one block. One line of weights follows the other in memory, and the block
   at `next` is fetched meanwhile. */
ALWAYS_INLINE void tile_few(const pe_product *p, int64_t row0, int64_t block, const int rows, const bool minima,
                            const uint8_t *next) {
    const int64_t ldx = p->ldx, group = p->group, groups = p->k / group;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const uint8_t *w = (const uint8_t *)p->w + block * PE_BLOCK * p->k / 2;
    const int chains = rows <= 4 ? 2 : 1;
    __m512 acc[FEW]; /* registers: its address must not leave this function */
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) acc[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const int64_t k0 = g * group, at = (block * groups + g) * PE_BLOCK;
        __m512i q_sum = _mm512_setzero_si512(), sum[FEW * 2];
        int32_t x_sum[FEW];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            x_sum[r] = x_sum_of(p, row0 + r, k0);
            sum[r * chains] = minima ? _mm512_setzero_si512() : _mm512_set1_epi32(-8 * x_sum[r]);
            if (chains == 2) sum[r * chains + 1] = _mm512_setzero_si512();
        }
        for (int64_t k = k0; k < k0 + group; k += LINE) {
            const __m512i line = _mm512_loadu_si512(w + k * PE_BLOCK / 2);
            const __m512i low = low_nibbles(line), high = high_nibbles(line);
            _mm_prefetch((const char *)next + k * PE_BLOCK / 2, _MM_HINT_T0);
            q_sum = add_nibbles(q_sum, low, high);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const int8_t *from = x + r * ldx + k;
                sum[r * chains] = _mm512_dpbusd_epi32(sum[r * chains], quad(from), low);
                const int other = r * chains + chains - 1;
                sum[other] = _mm512_dpbusd_epi32(sum[other], quad(from + PE_QUAD), high);
            }
        }
        const __m512 scale = halves(p->group_scale + at), min = minima ? halves(p->group_min + at) : scale;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            __m512i total = _mm512_sub_epi32(sum[r * chains], q_sum);
            if (chains == 2) total = _mm512_add_epi32(total, sum[r * chains + 1]);
            acc[r] = _mm512_fmadd_ps(pe_floats_of(total), scale, acc[r]);
            if (minima) acc[r] = _mm512_fmadd_ps(_mm512_set1_ps((float)x_sum[r]), min, acc[r]);
        }
    }
    __m512 done[FEW];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) done[r] = acc[r];
    pe_finish_scaled(p, row0, block, rows, 1, done);
}

/* A function of its own, as tile_of. */
static __attribute__((noinline)) void few_of(const pe_product *p, int64_t row0, int64_t block, int rows,
                                             const uint8_t *next) {
    const bool minima = p->group_min != NULL;
    switch (rows + minima * FEW) {
    case 1: tile_few(p, row0, block, 1, false, next); break;
    case 2: tile_few(p, row0, block, 2, false, next); break;
    case 3: tile_few(p, row0, block, 3, false, next); break;
    case 4: tile_few(p, row0, block, 4, false, next); break;
    case 5: tile_few(p, row0, block, 5, false, next); break;
    case 6: tile_few(p, row0, block, 6, false, next); break;
    case 7: tile_few(p, row0, block, 7, false, next); break;
    case 8: tile_few(p, row0, block, 8, false, next); break;
    case 9: tile_few(p, row0, block, 1, true, next); break;
    case 10: tile_few(p, row0, block, 2, true, next); break;
    case 11: tile_few(p, row0, block, 3, true, next); break;
    case 12: tile_few(p, row0, block, 4, true, next); break;
    case 13: tile_few(p, row0, block, 5, true, next); break;
    case 14: tile_few(p, row0, block, 6, true, next); break;
    case 15: tile_few(p, row0, block, 7, true, next); break;
    default: tile_few(p, row0, block, 8, true, next);
    }
}

/* All rows by one block, in parts of about the same size. */
static void block_q4(const pe_product *p, int64_t block, const uint8_t *next) {
    const int64_t parts = (p->m + FEW - 1) / FEW;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t row = p->m * part / parts;
        few_of(p, row, block, (int)(p->m * (part + 1) / parts - row), next);
    }
}

/* Columns [k0, k0 + columns) of the blocks from block0 on as bytes; those at `next` are fetched meanwhile. */
static void expand(const pe_product *p, int64_t block0, int64_t k0, int64_t columns, const uint8_t *next, panel *to) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, groups = p->k / p->group;
    for (int b = 0; b < BLOCKS; b++) {
        const uint8_t *w = (const uint8_t *)p->w + (block0 + b) * block_bytes + k0 * PE_BLOCK / 2;
        for (int64_t g = 0; g < columns / p->group; g++) {
            const int64_t at = ((block0 + b) * groups + k0 / p->group + g) * PE_BLOCK;
            __m512i q_sum = _mm512_setzero_si512();
            for (int64_t k = g * p->group; k < (g + 1) * p->group; k += LINE) {
                const __m512i line = _mm512_loadu_si512(w + k * PE_BLOCK / 2);
                const __m512i low = low_nibbles(line), high = high_nibbles(line);
                if (next) _mm_prefetch((const char *)next + b * block_bytes + k * PE_BLOCK / 2, _MM_HINT_T0);
                _mm512_store_si512(to->lines[k / PE_QUAD][b], low);
                _mm512_store_si512(to->lines[k / PE_QUAD + 1][b], high);
                q_sum = add_nibbles(q_sum, low, high);
            }
            _mm512_store_si512(to->start[g][b], _mm512_sub_epi32(_mm512_setzero_si512(), q_sum));
            _mm512_store_ps(to->scale[g][b], halves(p->group_scale + at));
            if (p->group_min) _mm512_store_ps(to->min[g][b], halves(p->group_min + at));
        }
    }
}

/* acc[rows][BLOCKS] of rows [row0, row0 + rows), advanced by the columns of `from`, which start at k0. */
ALWAYS_INLINE void tile_q4(const pe_product *p, int64_t row0, int64_t k0, int64_t columns, const panel *from,
                           const int rows, const bool minima, float (*acc)[BLOCKS][PE_BLOCK]) {
    const int64_t ldx = p->ldx, group = p->group;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx + k0;
    __m512 total[TILE * BLOCKS]; /* registers, as sum: their addresses must not leave this function */
#pragma GCC unroll 12
    for (int i = 0; i < rows * BLOCKS; i++) total[i] = _mm512_load_ps(acc[i / BLOCKS][i % BLOCKS]);
    const uint8_t(*lines)[BLOCKS][PE_BLOCK * PE_QUAD] = from->lines;
    for (int64_t g = 0; g < columns / group; g++) {
        __m512i sum[TILE * BLOCKS];
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            const __m512i offset = _mm512_set1_epi32(minima ? 0 : 8 * x_sum_of(p, row0 + r, k0 + g * group));
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++)
                sum[r * BLOCKS + b] = _mm512_sub_epi32(_mm512_load_si512(from->start[g][b]), offset);
        }
        for (int64_t k = 0; k < group; k += UNROLLED * PE_QUAD, lines += UNROLLED, x += UNROLLED * PE_QUAD) {
#pragma GCC unroll 4
            for (int i = 0; i < UNROLLED; i++) {
                __m512i line[BLOCKS];
#pragma GCC unroll 4
                for (int b = 0; b < BLOCKS; b++) { line[b] = _mm512_load_si512(lines[i][b]); __asm__("" : "+v"(line[b])); }
#pragma GCC unroll 3
                for (int r = 0; r < rows; r++) {
                    const __m512i a = quad(x + r * ldx + i * PE_QUAD);
#pragma GCC unroll 4
                    for (int b = 0; b < BLOCKS; b++)
                        sum[r * BLOCKS + b] = _mm512_dpbusd_epi32(sum[r * BLOCKS + b], a, line[b]);
                }
            }
        }
#pragma GCC unroll 4
        for (int b = 0; b < BLOCKS; b++) {
            const __m512 scale = _mm512_load_ps(from->scale[g][b]);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) {
                const __m512 whole = pe_floats_of(sum[r * BLOCKS + b]);
                total[r * BLOCKS + b] = _mm512_fmadd_ps(whole, scale, total[r * BLOCKS + b]);
            }
        }
        if (!minima) continue;
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            const __m512 x_sum = _mm512_set1_ps((float)x_sum_of(p, row0 + r, k0 + g * group));
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++)
                total[r * BLOCKS + b] = _mm512_fmadd_ps(x_sum, _mm512_load_ps(from->min[g][b]), total[r * BLOCKS + b]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows * BLOCKS; i++) _mm512_store_ps(acc[i / BLOCKS][i % BLOCKS], total[i]);
}

/* A function of its own: the compiler keeps the tile in registers only where little surrounds it. */
static __attribute__((noinline)) void tile_of(const pe_product *p, int64_t row0, int64_t k0, int64_t columns,
                                              const panel *from, int rows, float (*acc)[BLOCKS][PE_BLOCK]) {
    const bool minima = p->group_min != NULL;
    switch (rows + minima * TILE) {
    case 1: tile_q4(p, row0, k0, columns, from, 1, false, acc); break;
    case 2: tile_q4(p, row0, k0, columns, from, 2, false, acc); break;
    case 3: tile_q4(p, row0, k0, columns, from, 3, false, acc); break;
    case 4: tile_q4(p, row0, k0, columns, from, 1, true, acc); break;
    case 5: tile_q4(p, row0, k0, columns, from, 2, true, acc); break;
    default: tile_q4(p, row0, k0, columns, from, 3, true, acc);
    }
}

/* Rows [row0, row1) by a panel; the weights at `next` are read after it. */
static void panel_q4(const pe_product *p, int64_t row0, int64_t row1, int64_t block0, const uint8_t *next) {
    _Alignas(64) float acc[CHUNK][BLOCKS][PE_BLOCK];
    panel expanded;
    memset(acc, 0, sizeof acc[0] * (size_t)(row1 - row0));
    for (int64_t k = 0; k < p->k; k += STEP) {
        const int64_t columns = p->k - k < STEP ? p->k - k : STEP;
        const uint8_t *following = (const uint8_t *)p->w + (block0 * p->k + k + STEP) * PE_BLOCK / 2;
        expand(p, block0, k, columns, k + STEP < p->k ? following : next, &expanded);
        for (int64_t row = row0; row < row1; row += TILE) {
            float(*sums)[BLOCKS][PE_BLOCK] = acc + (row - row0);
            const int rows = row1 - row < TILE ? (int)(row1 - row) : TILE;
            tile_of(p, row, k, columns, &expanded, rows, sums);
            if (k + columns == p->k)
                pe_finish_scaled(p, row, block0, rows, BLOCKS, (const __m512 *)(const void *)sums);
        }
    }
}

void pe_gemm_f32_q8r_q4g__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, chunks = (p->m + CHUNK - 1) / CHUNK;
    const uint8_t *w = p->w;
    int64_t block = block0;
    for (; p->m > FEW && block + BLOCKS <= block1; block += BLOCKS)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const int64_t after = chunk + 1 < chunks ? block : block + BLOCKS;
            const uint8_t *next = after < block1 ? w + after * block_bytes : p->ahead;
            panel_q4(p, p->m * chunk / chunks, p->m * (chunk + 1) / chunks, block, next);
        }
    for (; block < block1; block++) {
        const uint8_t *own = w + block * block_bytes;
        block_q4(p, block, block + 1 < block1 ? own + block_bytes : p->ahead ? p->ahead : own);
    }
}
