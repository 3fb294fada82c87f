/* AVX-512 VNNI: the product of int8 rows with int4 weights in groups.

   vpdpbusd multiplies unsigned by signed bytes: rows come flipped (x + 128), the unsigned operand, and the weights
   q - z (-15 to 15) are the signed one. So 128 times the sum of a group's weights is subtracted, which is found on the
   way.

   Up to 8 rows, 4 at a time, take one block of 16 channels or two: memory is the limit for one row, it is fastest as a
   single stream; for more rows the arithmetic is, and two blocks share what is read of a row. So do more rows with the
   last blocks, where these are no whole panel.

   More rows take a panel of 4 blocks. STEP columns of it at a time become bytes in a buffer in the first-level cache,
   which every tile of 3 rows by 4 blocks reads. Such a tile holds 12 sums of integers and as many of floats in
   registers, so that nothing is stored at the end of a group; 6 rows by 4 blocks, as int8 products have, would store 24
   vectors there, and be slower. At the end of a step the floats wait in a second buffer for the next one. */
#include "kernels/x86/gemm_q4_avx512.h"

enum {
    LINES = 4,                          /* lines that a loop takes at a time, */
    QUADS = 4,                          /* or quads of bytes: what is left of their loops costs less than it saves */
    ROWS_OF_BLOCK = 4,                  /* rows that are taken together with one block or two, */
    ROWS_OF_TILE = 3,                   /* and with a panel */
    PAIRED = 3,                         /* rows from which on two blocks are faster than one */
    STEP = 256,                         /* columns that become bytes at a time: whole groups of any size */
    CHUNK = 96,                         /* rows that a panel's bytes are made for */
    AHEAD = 10240,                      /* bytes from a line that is read to the one that is fetched */
};

/* Columns of a panel, and what a group of them needs. */
typedef struct panel {
    _Alignas(64) int8_t lines[STEP / PE_QUAD][BLOCKS][PE_BLOCK * PE_QUAD];
    _Alignas(64) int32_t start[STEP / PE_MIN_GROUP][BLOCKS][PE_BLOCK]; /* -128 times the sum of the group's weights */
    _Alignas(64) float scale[STEP / PE_MIN_GROUP][BLOCKS][PE_BLOCK];
} panel;

static inline __m512i quad(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Rows [row0, row0 + rows) and `blocks` blocks, 1 or 2, from `block` on, while as much is fetched from `next` on. One
   block has two chains of sums for a row, of low and of high nibbles. */
ALWAYS_INLINE void tile_few(const pe_product *p, int64_t row0, int64_t block, const int rows, const int blocks,
                            const uint8_t *next) {
    const int64_t ldx = p->ldx, group = p->group, groups = p->k / group, block_bytes = PE_BLOCK * p->k / 2;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const uint8_t *w = (const uint8_t *)p->w + block * block_bytes;
    __m512 total[ROWS_OF_BLOCK * 2]; /* registers, as sum: their addresses must not leave this function */
#pragma GCC unroll 8
    for (int i = 0; i < rows * blocks; i++) total[i] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m512i zero[2], w_sum[2], sum[ROWS_OF_BLOCK * 2];
#pragma GCC unroll 2
        for (int b = 0; b < blocks; b++) {
            zero[b] = zeros_of(p, ((block + b) * groups + g) * PE_BLOCK);
            w_sum[b] = _mm512_setzero_si512();
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows * 2; i++) sum[i] = _mm512_setzero_si512();
        for (int64_t k0 = g * group; k0 < (g + 1) * group; k0 += LINES * LINE) {
#pragma GCC unroll 4
            for (int i = 0; i < LINES; i++) {
                const int64_t k = k0 + i * LINE;
                __m512i low[2], high[2];
#pragma GCC unroll 2
                for (int b = 0; b < blocks; b++) {
                    const int64_t at = b * block_bytes + k * PE_BLOCK / 2;
                    const __m512i line = pe_in_register(_mm512_loadu_si512(w + at));
                    _mm_prefetch((const char *)next + at, _MM_HINT_T0);
                    low[b] = low_weights(line, zero[b]);
                    high[b] = high_weights(line, zero[b]);
                    w_sum[b] = add_weights(w_sum[b], low[b], high[b]);
                }
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    const __m512i first = quad(x + r * ldx + k), second = quad(x + r * ldx + k + PE_QUAD);
#pragma GCC unroll 2
                    for (int b = 0; b < blocks; b++) {
                        const int one = r * 2 + b, other = r * 2 + (blocks == 1 ? 1 : b);
                        sum[one] = _mm512_dpbusd_epi32(sum[one], first, low[b]);
                        sum[other] = _mm512_dpbusd_epi32(sum[other], second, high[b]);
                    }
                }
            }
        }
#pragma GCC unroll 2
        for (int b = 0; b < blocks; b++) {
            const __m512 scale = halves(p->group_scale + ((block + b) * groups + g) * PE_BLOCK);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                __m512i whole = _mm512_sub_epi32(sum[r * 2 + b], w_sum[b]);
                if (blocks == 1) whole = _mm512_add_epi32(whole, sum[r * 2 + 1]);
                __m512 *to = &total[r * blocks + b];
                *to = _mm512_fmadd_ps(pe_floats_of(whole), scale, *to);
            }
        }
    }
#pragma GCC unroll 2
    for (int b = 0; b < blocks; b++) {
        __m512 done[ROWS_OF_BLOCK];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) done[r] = total[r * blocks + b];
        pe_finish_scaled(p, row0, block + b, rows, 1, done);
    }
}

/* tile_few of any kind. A function of its own: tiles keep to registers only where little surrounds them. */
static __attribute__((noinline)) void few_of(const pe_product *p, int64_t row0, int64_t block, int rows, int blocks,
                                             const uint8_t *next) {
    switch (rows + (blocks == 2 ? 4 : 0)) {
    case 1: tile_few(p, row0, block, 1, 1, next); break;
    case 2: tile_few(p, row0, block, 2, 1, next); break;
    case 3: tile_few(p, row0, block, 3, 1, next); break;
    case 4: tile_few(p, row0, block, 4, 1, next); break;
    case 5: tile_few(p, row0, block, 1, 2, next); break;
    case 6: tile_few(p, row0, block, 2, 2, next); break;
    case 7: tile_few(p, row0, block, 3, 2, next); break;
    default: tile_few(p, row0, block, 4, 2, next);
    }
}

/* All rows by blocks [block, block1), 1 or 2 at a time and rows in parts of about the same size. */
static void few_rows(const pe_product *p, int64_t block, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, parts = (p->m + ROWS_OF_BLOCK - 1) / ROWS_OF_BLOCK;
    const uint8_t *end = (const uint8_t *)p->w + block1 * block_bytes;
    for (int blocks; block < block1; block += blocks) {
        blocks = p->m >= PAIRED && block + 1 < block1 ? 2 : 1;
        const int64_t left = (block1 - block) * block_bytes;
        const uint8_t *next = p->ahead && left <= AHEAD ? (const uint8_t *)p->ahead + AHEAD - left : end - left + AHEAD;
        for (int64_t part = 0; part < parts; part++) {
            const int64_t row = p->m * part / parts;
            few_of(p, row, block, (int)(p->m * (part + 1) / parts - row), blocks, next);
        }
    }
}

/* Columns [k0, k0 + columns) of the blocks from block0 on as bytes; the weights at `next` and the scales of the columns
   that follow are fetched meanwhile. */
static void expand(const pe_product *p, int64_t block0, int64_t k0, int64_t columns, const uint8_t *next, panel *to) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, groups = p->k / p->group;
    const int64_t step_scales = STEP / p->group * PE_BLOCK;
    const uint8_t *w = (const uint8_t *)p->w + block0 * block_bytes + k0 * PE_BLOCK / 2;
    for (int b = 0; b < BLOCKS; b++) {
        for (int64_t g = 0; g < columns / p->group; g++) {
            const int64_t at = ((block0 + b) * groups + k0 / p->group + g) * PE_BLOCK;
            const int64_t packed = b * block_bytes + g * p->group * PE_BLOCK / 2;
            _mm_prefetch((const char *)(p->group_scale + at + step_scales), _MM_HINT_T1);
            if (p->group_zero) _mm_prefetch((const char *)(p->group_zero + at + step_scales), _MM_HINT_T1);
            expand_group(p, at, w + packed, next ? next + packed : NULL, to->lines[g * p->group / PE_QUAD][b],
                         sizeof to->lines[0], to->start[g][b], to->scale[g][b]);
        }
    }
}

/* acc[rows][BLOCKS] of rows [row0, row0 + rows), advanced by the columns of `from`, which start at k0. */
ALWAYS_INLINE void tile_q4(const pe_product *p, int64_t row0, int64_t k0, int64_t columns, const panel *from,
                           const int rows, float (*acc)[BLOCKS][PE_BLOCK]) {
    const int64_t ldx = p->ldx, group = p->group;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx + k0;
    const int8_t(*lines)[BLOCKS][PE_BLOCK * PE_QUAD] = from->lines;
    __m512 total[ROWS_OF_TILE * BLOCKS]; /* registers, as sum: their addresses must not leave this function */
#pragma GCC unroll 12
    for (int i = 0; i < rows * BLOCKS; i++) total[i] = _mm512_load_ps(acc[i / BLOCKS][i % BLOCKS]);
    for (int64_t g = 0; g < columns / group; g++) {
        __m512i sum[ROWS_OF_TILE * BLOCKS];
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++) sum[r * BLOCKS + b] = _mm512_load_si512(from->start[g][b]);
        }
        for (int64_t k = 0; k < group; k += QUADS * PE_QUAD, lines += QUADS, x += QUADS * PE_QUAD) {
#pragma GCC unroll 4
            for (int i = 0; i < QUADS; i++) {
                __m512i line[BLOCKS];
#pragma GCC unroll 4
                for (int b = 0; b < BLOCKS; b++) line[b] = pe_in_register(_mm512_load_si512(lines[i][b]));
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
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows * BLOCKS; i++) _mm512_store_ps(acc[i / BLOCKS][i % BLOCKS], total[i]);
}

/* tile_q4 of any kind; a function of its own, as few_of. */
static __attribute__((noinline)) void tile_of(const pe_product *p, int64_t row0, int64_t k0, int64_t columns,
                                              const panel *from, int rows, float (*acc)[BLOCKS][PE_BLOCK]) {
    switch (rows) {
    case 1: tile_q4(p, row0, k0, columns, from, 1, acc); break;
    case 2: tile_q4(p, row0, k0, columns, from, 2, acc); break;
    default: tile_q4(p, row0, k0, columns, from, 3, acc);
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
        for (int64_t row = row0; row < row1; row += ROWS_OF_TILE) {
            const int rows = row1 - row < ROWS_OF_TILE ? (int)(row1 - row) : ROWS_OF_TILE;
            float(*sums)[BLOCKS][PE_BLOCK] = acc + (row - row0);
            tile_of(p, row, k, columns, &expanded, rows, sums);
            if (k + columns == p->k)
                pe_finish_scaled(p, row, block0, rows, BLOCKS, (const __m512 *)(const void *)sums);
        }
    }
}

void pe_gemm_f32_q8r_q4g__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k / 2, chunks = (p->m + CHUNK - 1) / CHUNK;
    int64_t block = block0;
    for (; p->m > FEW && block + BLOCKS <= block1; block += BLOCKS)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const int64_t after = chunk + 1 < chunks ? block : block + BLOCKS;
            const uint8_t *next = after < block1 ? (const uint8_t *)p->w + after * block_bytes : p->ahead;
            panel_q4(p, p->m * chunk / chunks, p->m * (chunk + 1) / chunks, block, next);
        }
    few_rows(p, block, block1);
}
