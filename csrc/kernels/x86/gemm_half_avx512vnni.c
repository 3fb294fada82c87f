/* AVX-512: products of float32 rows with bfloat16 and float16 weights. A weight becomes the float that it is; sums and
   their order are those of float32 weights.

   Up to DIRECT rows, 6 at a time, take a panel of 4 blocks as float32 products do, each line converted as it is read:
   memory is the limit, and half as much of it is read.

   More rows would convert a line for each tile, in ports that CPUs with two of 512 bits need for products. STEP columns
   of a panel at a time become floats in a buffer, which all tiles read; at the end of a step their sums wait in another
   one for the next. */
#include "kernels/x86/gemm_f32_avx512.h"

enum {
    DIRECT = 24,
    STEP = 64,  /* columns that become floats at a time */
    CHUNK = 96, /* rows that these serve */
};

/* Columns of a panel, and the sums of rows with it. */
typedef struct panel {
    _Alignas(64) float lines[STEP][BLOCKS][PE_BLOCK];
    _Alignas(64) float sums[CHUNK][BLOCKS][PE_BLOCK];
} panel;

/* 16 weights; `brain`: bfloat16. */
ALWAYS_INLINE __m512 floats_at(const uint16_t *w, const bool brain) {
    const __m256i line = _mm256_loadu_si256((const __m256i *)(const void *)w);
    if (brain) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(line), 16));
    return _mm512_cvtph_ps(line);
}

ALWAYS_INLINE int64_t block_weights(const pe_product *p) {
    return (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD * PE_BLOCK;
}

/* sum[rows][blocks] with one more column. */
ALWAYS_INLINE void add_column(__m512 *sum, const float *x, int64_t ldx, const uint16_t *w, int64_t stride,
                              const int rows, const int blocks, const bool brain) {
    __m512 line[BLOCKS];
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) line[b] = floats_at(w + b * stride, brain);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        const __m512 a = _mm512_set1_ps(x[r * ldx]);
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) sum[r * blocks + b] = _mm512_fmadd_ps(a, line[b], sum[r * blocks + b]);
    }
}

ALWAYS_INLINE void tile_few(const pe_product *p, int64_t row0, int64_t block0, const int rows, const int blocks,
                            const bool brain, pe_ahead next) {
    const int64_t stride = block_weights(p);
    const float *x = (const float *)p->x + row0 * p->ldx;
    const uint16_t *w = (const uint16_t *)p->w + block0 * stride;
    __m512 sum[ROWS * BLOCKS]; /* registers */
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++) sum[i] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + 2 <= p->k; k += 2) { /* two lines of 32 bytes are one to fetch */
        pe_prefetch(&next);
        add_column(sum, x + k, p->ldx, w + k * PE_BLOCK, stride, rows, blocks, brain);
        add_column(sum, x + k + 1, p->ldx, w + (k + 1) * PE_BLOCK, stride, rows, blocks, brain);
    }
    if (k < p->k) add_column(sum, x + k, p->ldx, w + k * PE_BLOCK, stride, rows, blocks, brain);
    __m512 done[ROWS * BLOCKS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++) done[i] = sum[i];
    pe_finish_f32(p, row0, block0, rows, blocks, done);
}

/* Up to 6 rows by a panel. */
ALWAYS_INLINE void few_by_panel(const pe_product *p, int64_t row, int64_t block, int64_t rows, const bool brain,
                                pe_ahead next) {
    switch (rows) {
    case 1: tile_few(p, row, block, 1, BLOCKS, brain, next); break;
    case 2: tile_few(p, row, block, 2, BLOCKS, brain, next); break;
    case 3: tile_few(p, row, block, 3, BLOCKS, brain, next); break;
    case 4: tile_few(p, row, block, 4, BLOCKS, brain, next); break;
    case 5: tile_few(p, row, block, 5, BLOCKS, brain, next); break;
    default: tile_few(p, row, block, 6, BLOCKS, brain, next);
    }
}

/* Up to 6 rows by one block. */
ALWAYS_INLINE void few_by_block(const pe_product *p, int64_t row, int64_t block, int64_t rows, const bool brain) {
    const pe_ahead none = {NULL, 0};
    switch (rows) {
    case 1: tile_few(p, row, block, 1, 1, brain, none); break;
    case 2: tile_few(p, row, block, 2, 1, brain, none); break;
    case 3: tile_few(p, row, block, 3, 1, brain, none); break;
    case 4: tile_few(p, row, block, 4, 1, brain, none); break;
    case 5: tile_few(p, row, block, 5, 1, brain, none); break;
    default: tile_few(p, row, block, 6, 1, brain, none);
    }
}

/* Columns [k0, k0 + columns) of a panel as floats; as much is fetched from `next` on, where there is something. */
ALWAYS_INLINE void expand(const pe_product *p, int64_t block0, int64_t k0, int64_t columns, const bool brain,
                          const uint8_t *next, panel *to) {
    const int64_t stride = block_weights(p);
    for (int b = 0; b < BLOCKS; b++) {
        const uint16_t *w = (const uint16_t *)p->w + (block0 + b) * stride + k0 * PE_BLOCK;
        for (int64_t k = 0; k < columns; k++) {
            if (next && k % 2 == 0) _mm_prefetch((const char *)next + (b * stride + k * PE_BLOCK) * 2, _MM_HINT_T1);
            _mm512_store_ps(to->lines[k][b], floats_at(w + k * PE_BLOCK, brain));
        }
    }
}

/* sums[rows][BLOCKS] of rows from x on, advanced by columns. */
ALWAYS_INLINE void tile_many(const float *x, int64_t ldx, int64_t columns, const panel *from, const int rows,
                             float (*sums)[BLOCKS][PE_BLOCK]) {
    __m512 sum[ROWS * BLOCKS]; /* registers */
#pragma GCC unroll 24
    for (int i = 0; i < rows * BLOCKS; i++) sum[i] = _mm512_load_ps(sums[i / BLOCKS][i % BLOCKS]);
    for (int64_t k = 0; k < columns; k++) {
        __m512 line[BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < BLOCKS; b++) line[b] = _mm512_load_ps(from->lines[k][b]);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m512 a = _mm512_set1_ps(x[r * ldx + k]);
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++)
                sum[r * BLOCKS + b] = _mm512_fmadd_ps(a, line[b], sum[r * BLOCKS + b]);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < rows * BLOCKS; i++) _mm512_store_ps(sums[i / BLOCKS][i % BLOCKS], sum[i]);
}

static __attribute__((noinline)) void many_of(const float *x, int64_t ldx, int64_t columns, const panel *from,
                                              int rows, float (*sums)[BLOCKS][PE_BLOCK]) {
    switch (rows) {
    case 1: tile_many(x, ldx, columns, from, 1, sums); break;
    case 2: tile_many(x, ldx, columns, from, 2, sums); break;
    case 3: tile_many(x, ldx, columns, from, 3, sums); break;
    case 4: tile_many(x, ldx, columns, from, 4, sums); break;
    case 5: tile_many(x, ldx, columns, from, 5, sums); break;
    default: tile_many(x, ldx, columns, from, 6, sums);
    }
}

/* Rows [row0, row1) by a panel; the weights at `next` are read after it. */
ALWAYS_INLINE void many_by_panel(const pe_product *p, int64_t row0, int64_t row1, int64_t block0, const bool brain,
                                 const uint8_t *next) {
    panel all;
    memset(all.sums, 0, sizeof all.sums[0] * (size_t)(row1 - row0));
    for (int64_t k = 0; k < p->k; k += STEP) {
        const int64_t columns = p->k - k < STEP ? p->k - k : STEP;
        expand(p, block0, k, columns, brain, next ? next + k * 32 : NULL, &all);
        for (int64_t row = row0; row < row1; row += ROWS) {
            const int rows = row1 - row < ROWS ? (int)(row1 - row) : ROWS;
            float(*sums)[BLOCKS][PE_BLOCK] = all.sums + (row - row0);
            many_of((const float *)p->x + row * p->ldx + k, p->ldx, columns, &all, rows, sums);
            if (k + columns == p->k)
                pe_finish_f32(p, row, block0, rows, BLOCKS, (const __m512 *)(const void *)sums);
        }
    }
}

ALWAYS_INLINE void gemm_half(const pe_product *p, int64_t block0, int64_t block1, const bool brain) {
    const int64_t tiles = (p->m + ROWS - 1) / ROWS, chunks = (p->m + CHUNK - 1) / CHUNK;
    const int64_t block_bytes = block_weights(p) * (int64_t)sizeof(uint16_t);
    int64_t block = block0;
    for (; block + BLOCKS <= block1; block += BLOCKS) {
        if (p->m > DIRECT) {
            const bool last = block + BLOCKS >= block1;
            const uint8_t *after = last ? p->ahead : (const uint8_t *)p->w + (block + BLOCKS) * block_bytes;
            for (int64_t chunk = 0; chunk < chunks; chunk++)
                many_by_panel(p, p->m * chunk / chunks, p->m * (chunk + 1) / chunks, block, brain,
                              chunk + 1 == chunks ? after : NULL);
        } else {
            for (int64_t tile = 0; tile < tiles; tile++)
                few_by_panel(p, tile * ROWS, block, p->m - tile * ROWS, brain,
                             pe_panel_ahead(p, block, block1, block_bytes, tile, tiles));
        }
    }
    for (; block < block1; block++)
        for (int64_t row = 0; row < p->m; row += ROWS) few_by_block(p, row, block, p->m - row, brain);
}

void pe_gemm_f32_f32_bf16__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, true);
}

void pe_gemm_f32_f32_f16__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    gemm_half(p, block0, block1, false);
}
