/* AVX-512 VNNI: matrix products on packed weights.

   Up to 8 rows take one block of 16 channels at a time: memory is the limit, it is fastest as a single stream, and each
   line of weights is loaded once for all rows while the block after it is prefetched. So do more rows with the last
   blocks, where these are no whole panel.

   A tile of more rows is 6 of them by 4 blocks: 24 accumulators, 4 lines of weights, one broadcast. Tiles of a panel (4
   blocks) follow each other over the rows, while the panel stays in the second-level cache; meanwhile they prefetch the
   next panel into it, which hides memory behind the arithmetic.

   vpdpbusd multiplies unsigned by signed bytes: rows come flipped (x + 128), and 128 times the sum of a channel's
   weights is subtracted up front. Exact: |sum| <= K * 255 * 127 < 2^31 for K <= 66,000. */
#include "kernels/x86/gemm_f32_avx512.h"

bool pe_sums_s32_q8c__avx512vnni(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums) {
    const __m512i ones = _mm512_set1_epi8(1), lowest = _mm512_set1_epi8(INT8_MIN);
    __mmask64 invalid = 0;
    for (int64_t block = 0; block < blocks; block++) {
        __m512i sum = _mm512_setzero_si512();
        for (int64_t i = 0; i < k / PE_QUAD; i++, w += 64) {
            const __m512i line = _mm512_loadu_si512(w);
            invalid |= _mm512_cmpeq_epi8_mask(line, lowest);
            sum = _mm512_dpbusd_epi32(sum, ones, line);
        }
        _mm512_storeu_si512(sums + block * PE_BLOCK, sum);
    }
    return invalid == 0;
}

/* sum[rows][BLOCKS] of rows [row0, row0 + rows) and a panel of blocks. */
ALWAYS_INLINE void tile_q8(const pe_product *p, int64_t row0, int64_t block0, const int rows, pe_ahead next) {
    const int64_t k_end = p->k, ldx = p->ldx, stride = PE_BLOCK * p->k;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const int8_t *w = (const int8_t *)p->w + block0 * stride;
    __m512i sum[ROWS * BLOCKS]; /* registers: its address must not leave this function */
#pragma GCC unroll 4
    for (int b = 0; b < BLOCKS; b++) {
        const __m512i w_sum = _mm512_loadu_si512(p->w_sum + (block0 + b) * PE_BLOCK);
        const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(w_sum, 7));
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) sum[r * BLOCKS + b] = start;
    }
    for (int64_t k = 0; k < k_end; k += PE_QUAD) {
        __m512i line[BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < BLOCKS; b++) line[b] = _mm512_loadu_si512(w + b * stride + k * PE_BLOCK);
        pe_prefetch(&next);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, x + r * ldx + k, sizeof quad);
            const __m512i a = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++)
                sum[r * BLOCKS + b] = _mm512_dpbusd_epi32(sum[r * BLOCKS + b], a, line[b]);
        }
    }
    __m512i done[ROWS * BLOCKS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * BLOCKS; i++) done[i] = pe_in_register(sum[i]);
    pe_finish_sums(p, row0, block0, rows, BLOCKS, done);
}

/* sum[rows] of rows [row0, row0 + rows) and one block, in `chains` partial sums a row, which are exact in any order.
   One line of weights follows the other in memory, and the block at `next` is fetched meanwhile. */
ALWAYS_INLINE void tile_few(const pe_product *p, int64_t row0, int64_t block, const int rows, const int chains,
                            const uint8_t *next) {
    const int64_t k_end = p->k, ldx = p->ldx;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const int8_t *w = (const int8_t *)p->w + block * PE_BLOCK * k_end;
    const __m512i w_sum = _mm512_loadu_si512(p->w_sum + block * PE_BLOCK);
    const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(w_sum, 7));
    __m512i sum[FEW * 2]; /* registers: its address must not leave this function */
#pragma GCC unroll 16
    for (int i = 0; i < rows * chains; i++) sum[i] = i % chains ? _mm512_setzero_si512() : start;
    int64_t k = 0;
    for (; k + chains * PE_QUAD <= k_end; k += chains * PE_QUAD) {
#pragma GCC unroll 8
        for (int c = 0; c < chains; c++) {
            const int64_t at = k + c * PE_QUAD;
            const __m512i line = _mm512_loadu_si512(w + at * PE_BLOCK);
            _mm_prefetch((const char *)next + at * PE_BLOCK, _MM_HINT_T0);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                int32_t quad;
                memcpy(&quad, x + r * ldx + at, sizeof quad);
                sum[r * chains + c] = _mm512_dpbusd_epi32(sum[r * chains + c], _mm512_set1_epi32(quad), line);
            }
        }
    }
    for (; k < k_end; k += PE_QUAD) {
        const __m512i line = _mm512_loadu_si512(w + k * PE_BLOCK);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, x + r * ldx + k, sizeof quad);
            sum[r * chains] = _mm512_dpbusd_epi32(sum[r * chains], _mm512_set1_epi32(quad), line);
        }
    }
    __m512i done[FEW];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        __m512i total = sum[r * chains];
#pragma GCC unroll 8
        for (int c = 1; c < chains; c++) total = _mm512_add_epi32(total, sum[r * chains + c]);
        done[r] = pe_in_register(total);
    }
    pe_finish_sums(p, row0, block, rows, 1, done);
}

/* All rows by one block, in groups of about the same size. */
static void block_q8(const pe_product *p, int64_t block, const uint8_t *next) {
    const int64_t groups = (p->m + FEW - 1) / FEW;
    for (int64_t group = 0; group < groups; group++) {
        const int64_t row = p->m * group / groups;
        switch (p->m * (group + 1) / groups - row) {
        case 1: tile_few(p, row, block, 1, 8, next); break;
        case 2: tile_few(p, row, block, 2, 8, next); break;
        case 3: tile_few(p, row, block, 3, 4, next); break;
        case 4: tile_few(p, row, block, 4, 4, next); break;
        case 5: tile_few(p, row, block, 5, 2, next); break;
        case 6: tile_few(p, row, block, 6, 2, next); break;
        case 7: tile_few(p, row, block, 7, 2, next); break;
        default: tile_few(p, row, block, 8, 2, next);
        }
    }
}

ALWAYS_INLINE void tile_f32(const pe_product *p, int64_t row0, int64_t block0, const int rows, const int blocks,
                            pe_ahead next) {
    const int64_t k_packed = (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD;
    const float *x = (const float *)p->x + row0 * p->ldx;
    const float *w = (const float *)p->w + block0 * PE_BLOCK * k_packed;
    __m512 sum[ROWS * BLOCKS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++) sum[i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < p->k; k++) {
        __m512 line[BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) line[b] = _mm512_loadu_ps(w + b * PE_BLOCK * k_packed + k * PE_BLOCK);
        pe_prefetch(&next);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m512 a = _mm512_set1_ps(x[r * p->ldx + k]);
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++)
                sum[r * blocks + b] = _mm512_fmadd_ps(a, line[b], sum[r * blocks + b]);
        }
    }
    pe_finish_f32(p, row0, block0, rows, blocks, sum);
}

void pe_gemm_f32_q8r_q8c__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t tiles = (p->m + ROWS - 1) / ROWS, block_bytes = PE_BLOCK * p->k;
    int64_t block = block0;
    for (; p->m > FEW && block + BLOCKS <= block1; block += BLOCKS)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t row = tile * ROWS;
            const pe_ahead next = pe_panel_ahead(p, block, block1, block_bytes, tile, tiles);
            switch (p->m - row) {
            case 1: tile_q8(p, row, block, 1, next); break;
            case 2: tile_q8(p, row, block, 2, next); break;
            case 3: tile_q8(p, row, block, 3, next); break;
            case 4: tile_q8(p, row, block, 4, next); break;
            case 5: tile_q8(p, row, block, 5, next); break;
            default: tile_q8(p, row, block, 6, next);
            }
        }
    for (; block < block1; block++) {
        const uint8_t *w = (const uint8_t *)p->w + block * block_bytes;
        block_q8(p, block, block + 1 < block1 ? w + block_bytes : p->ahead ? p->ahead : w);
    }
}

void pe_gemm_f32_f32_f32__avx512vnni(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t tiles = (p->m + ROWS - 1) / ROWS, k_packed = (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD;
    const int64_t block_bytes = PE_BLOCK * k_packed * (int64_t)sizeof(float);
    for (int64_t block = block0, blocks; block < block1; block += blocks) {
        blocks = block1 - block >= BLOCKS ? BLOCKS : 1;
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t row = tile * ROWS, rows = p->m - row;
            const pe_ahead next = pe_panel_ahead(p, block, block1, block_bytes, tile, tiles);
            if (blocks == BLOCKS) switch (rows) {
                case 1: tile_f32(p, row, block, 1, 4, next); break;
                case 2: tile_f32(p, row, block, 2, 4, next); break;
                case 3: tile_f32(p, row, block, 3, 4, next); break;
                case 4: tile_f32(p, row, block, 4, 4, next); break;
                case 5: tile_f32(p, row, block, 5, 4, next); break;
                default: tile_f32(p, row, block, 6, 4, next);
                }
            else
                for (int64_t r = row; r < row + rows && r < row + ROWS; r++)
                    tile_f32(p, r, block, 1, 1, (pe_ahead){NULL, 0});
        }
    }
}
