/* AVX-512 VNNI: products with block-sparse int8 weights.

   A line belongs to one block only, so a tile is many rows of one block: each line is loaded once and meets the four
   columns, a quad, of every row that it names. With 24 rows that is 25 loads for 24 multiplications, more than the
   load ports allow at the rate of the multipliers. So where a tile of rows meets enough lines its quads are packed
   first, those of all rows side by side; then a third of them come four by a load, and shuffles spread them.

   Lines follow each other in memory, over the borders of blocks too; those AHEAD of the tile are prefetched. The tile
   of rows stays in a near cache while a group of blocks passes. Signs as in gemm_avx512vnni.c. */
#include "kernels/x86/gemm_avx512.h"

enum { MOST = 24, HALF = 12, GROUP = 64, AHEAD = 128 };

/* Quads that are packed at a time, columns that fit in the packed rows, and lines a column from which packing pays. */
enum { STEP = 16, PACKED_K = 4096, PAYS = 1 };

/* A tile's sums to Y. While nothing but ReLU follows the scales they need not leave the registers. */
ALWAYS_INLINE void finish(const pe_product *p, int64_t row0, int64_t block, const int rows, const __m512i *sum) {
    const int64_t channel = block * PE_BLOCK, ldy = p->ldy;
    if (p->residual || (p->activation != PE_IDENTITY && p->activation != PE_RELU)) {
        __m512 kept[MOST];
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++) kept[r] = _mm512_cvtepi32_ps(sum[r]);
        pe_finish_scaled(p, row0, block, rows, 1, kept);
        return;
    }
    const __m512 w_scale = _mm512_loadu_ps(p->w_scale + channel), zero = _mm512_setzero_ps();
    const __m512 bias = p->bias ? _mm512_loadu_ps(p->bias + channel) : zero;
    __m512 value[MOST];
#pragma GCC unroll 24
    for (int r = 0; r < rows; r++) {
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(p->x_scale[row0 + r]), w_scale);
        value[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r]), scale, bias);
    }
    if (p->activation == PE_RELU) {
#pragma GCC unroll 24
        for (int r = 0; r < rows; r++) value[r] = _mm512_max_ps(zero, value[r]);
    }
    float *y = p->y + row0 * ldy + channel;
#pragma GCC unroll 24
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(y + r * ldy, value[r]);
}

/* Rows [row0, row0 + rows) by one block, in `chains` partial sums a row, which are exact in any order. Lines from
   `next` on are prefetched meanwhile, if it is not NULL. */
ALWAYS_INLINE void tile(const pe_product *p, int64_t row0, int64_t block, const int rows, const int chains,
                        const uint8_t *next) {
    const int64_t first = p->line_start[block], end = p->line_start[block + 1], ldx = p->ldx;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx, *w = p->w;
    const uint16_t *quads = p->line_quad;
    const __m512i w_sum = _mm512_loadu_si512(p->w_sum + block * PE_BLOCK);
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(w_sum, 7));
    __m512i sum[MOST]; /* registers: its address must not leave this function */
#pragma GCC unroll 24
    for (int i = 0; i < rows * chains; i++) sum[i] = i % chains ? _mm512_setzero_si512() : start;
    int64_t line = first;
    for (; line + chains <= end; line += chains) {
#pragma GCC unroll 4
        for (int c = 0; c < chains; c++) {
            const __m512i weights = _mm512_loadu_si512(w + (line + c) * 64);
            const int8_t *at = x + (int64_t)quads[line + c] * PE_QUAD;
            if (next) _mm_prefetch((const char *)next + (line + c - first) * 64, _MM_HINT_T0);
#pragma GCC unroll 24
            for (int r = 0; r < rows; r++) {
                int32_t quad;
                memcpy(&quad, at + r % 2 * ldx, sizeof quad);
                if (r % 2) {
                    at += 2 * ldx;
                    __asm__("" : "+r"(at)); /* or GCC keeps a distance for every row, in vector registers */
                }
                sum[r * chains + c] = _mm512_dpbusd_epi32(sum[r * chains + c], _mm512_set1_epi32(quad), weights);
            }
        }
    }
    for (; chains > 1 && line < end; line++) {
        const __m512i weights = _mm512_loadu_si512(w + line * 64);
        const int8_t *at = x + (int64_t)quads[line] * PE_QUAD;
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, at + r * ldx, sizeof quad);
            sum[r * chains] = _mm512_dpbusd_epi32(sum[r * chains], _mm512_set1_epi32(quad), weights);
        }
    }
    __m512i done[MOST];
#pragma GCC unroll 24
    for (int r = 0; r < rows; r++) {
        done[r] = sum[r * chains];
#pragma GCC unroll 4
        for (int c = 1; c < chains; c++) done[r] = _mm512_add_epi32(done[r], sum[r * chains + c]);
        done[r] = pe_in_register(done[r]);
    }
    finish(p, row0, block, rows, done);
}

ALWAYS_INLINE void store_quads(int32_t *to, __m512i four) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(four));
    _mm_storeu_si128((__m128i *)(void *)(to + 4 * MOST), _mm512_extracti32x4_epi32(four, 1));
    _mm_storeu_si128((__m128i *)(void *)(to + 8 * MOST), _mm512_extracti32x4_epi32(four, 2));
    _mm_storeu_si128((__m128i *)(void *)(to + 12 * MOST), _mm512_extracti32x4_epi32(four, 3));
}

/* Rows [row0, row0 + MOST) to packed[k / 4 rounded up to STEP][MOST]. */
static void pack_rows(const pe_product *p, int64_t row0, int32_t *packed) {
    const int64_t quads = p->k / PE_QUAD;
    for (int64_t quad = 0; quad < quads; quad += STEP) {
        const __mmask16 used = (__mmask16)(quads - quad < STEP ? (1u << (quads - quad)) - 1 : 0xFFFF);
        for (int64_t r = 0; r < MOST; r += 4) {
            const int8_t *x = (const int8_t *)p->x + (row0 + r) * p->ldx + quad * PE_QUAD;
            const __m512i a = _mm512_maskz_loadu_epi32(used, x);
            const __m512i b = _mm512_maskz_loadu_epi32(used, x + p->ldx);
            const __m512i c = _mm512_maskz_loadu_epi32(used, x + 2 * p->ldx);
            const __m512i d = _mm512_maskz_loadu_epi32(used, x + 3 * p->ldx);
            const __m512i ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
            const __m512i cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
            int32_t *to = packed + quad * MOST + r;
            store_quads(to, _mm512_unpacklo_epi64(ab_low, cd_low));
            store_quads(to + MOST, _mm512_unpackhi_epi64(ab_low, cd_low));
            store_quads(to + 2 * MOST, _mm512_unpacklo_epi64(ab_high, cd_high));
            store_quads(to + 3 * MOST, _mm512_unpackhi_epi64(ab_high, cd_high));
        }
    }
}

/* As `tile`, of MOST rows that are packed. */
ALWAYS_INLINE void tile_packed(const pe_product *p, int64_t row0, int64_t block, const int32_t *packed,
                               const uint8_t *next) {
    const int64_t first = p->line_start[block], end = p->line_start[block + 1];
    const int8_t *w = p->w;
    const uint16_t *quads = p->line_quad;
    const __m512i w_sum = _mm512_loadu_si512(p->w_sum + block * PE_BLOCK);
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(w_sum, 7));
    __m512i sum[MOST]; /* registers: its address must not leave this function */
#pragma GCC unroll 24
    for (int r = 0; r < MOST; r++) sum[r] = start;
    for (int64_t line = first; line < end; line++) {
        const __m512i weights = _mm512_loadu_si512(w + line * 64);
        const int32_t *x = packed + (int64_t)quads[line] * MOST;
        if (next) _mm_prefetch((const char *)next + (line - first) * 64, _MM_HINT_T0);
#pragma GCC unroll 2
        for (int r = 0; r < MOST; r += MOST / 2) {
#pragma GCC unroll 8
            for (int i = r; i < r + 8; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], _mm512_set1_epi32(x[i]), weights);
            const __m512i four = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(x + r + 8)));
            sum[r + 8] = _mm512_dpbusd_epi32(sum[r + 8], _mm512_shuffle_epi32(four, 0x00), weights);
            sum[r + 9] = _mm512_dpbusd_epi32(sum[r + 9], _mm512_shuffle_epi32(four, 0x55), weights);
            sum[r + 10] = _mm512_dpbusd_epi32(sum[r + 10], _mm512_shuffle_epi32(four, 0xAA), weights);
            sum[r + 11] = _mm512_dpbusd_epi32(sum[r + 11], _mm512_shuffle_epi32(four, 0xFF), weights);
        }
    }
    __m512i done[MOST];
#pragma GCC unroll 24
    for (int r = 0; r < MOST; r++) done[r] = pe_in_register(sum[r]);
    finish(p, row0, block, MOST, done);
}

/* Rows [0, MOST * tiles) by blocks [block0, block1) of those that end before `last`. */
static void packed_tiles(const pe_product *p, int64_t tiles, int64_t block0, int64_t block1, int64_t last) {
    _Alignas(64) int32_t packed[PACKED_K / PE_QUAD * MOST];
    for (int64_t row = 0; row < tiles * MOST; row += MOST) {
        pack_rows(p, row, packed);
        for (int64_t block = block0; block < block1; block++) {
            if (row == 0)
                tile_packed(p, row, block, packed, pe_lines_ahead(p, block, last, AHEAD));
            else
                tile_packed(p, row, block, packed, NULL);
        }
    }
}

/* Rows by blocks [block0, block1) of those that end before `last`. */
ALWAYS_INLINE void tiles(const pe_product *p, int64_t row, int64_t block0, int64_t block1, int64_t last,
                         const int rows, const int chains, const bool prefetch) {
    for (int64_t block = block0; block < block1; block++)
        tile(p, row, block, rows, chains, prefetch ? pe_lines_ahead(p, block, last, AHEAD) : NULL);
}

/* High tiles but the first find the lines in a cache, and have no load to spare. */
static void tiles_of(const pe_product *p, int64_t row, int64_t block0, int64_t block1, int64_t last, int64_t rows) {
    switch (row > 0 && rows > HALF ? -rows : rows) {
    case 1: tiles(p, row, block0, block1, last, 1, 4, true); break;
    case 2: tiles(p, row, block0, block1, last, 2, 4, true); break;
    case 3: tiles(p, row, block0, block1, last, 3, 2, true); break;
    case 4: tiles(p, row, block0, block1, last, 4, 2, true); break;
    case 5: tiles(p, row, block0, block1, last, 5, 2, true); break;
    case 6: tiles(p, row, block0, block1, last, 6, 2, true); break;
    case 7: tiles(p, row, block0, block1, last, 7, 1, true); break;
    case 8: tiles(p, row, block0, block1, last, 8, 1, true); break;
    case 9: tiles(p, row, block0, block1, last, 9, 1, true); break;
    case 10: tiles(p, row, block0, block1, last, 10, 1, true); break;
    case 11: tiles(p, row, block0, block1, last, 11, 1, true); break;
    case 12: tiles(p, row, block0, block1, last, 12, 1, true); break;
    case 24: tiles(p, row, block0, block1, last, 24, 1, true); break;
    default: tiles(p, row, block0, block1, last, 24, 1, false);
    }
}

void pe_gemm_f32_q8r_q8s__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    for (int64_t group = block0, end; group < block1; group = end) {
        end = block1 - group > GROUP ? group + GROUP : block1;
        const bool pays = p->line_start[end] - p->line_start[group] >= PAYS * p->k && p->k <= PACKED_K;
        const int64_t packed = pays ? p->m / MOST : 0;
        if (packed) packed_tiles(p, packed, group, end, block1);
        for (int64_t row = packed * MOST, rows; row < p->m; row += rows) {
            const int64_t left = p->m - row;
            rows = left >= MOST ? MOST : left > HALF ? (left + 1) / 2 : left;
            tiles_of(p, row, group, end, block1, rows);
        }
    }
}
