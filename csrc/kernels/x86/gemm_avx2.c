/* AVX2: matrix products on packed weights.

   A line of 64 weights is two vectors, channels 0-7 and 8-15. vpmaddubsw multiplies unsigned by signed bytes and adds
   pairs into 16 bits: the signs of the weights move to the row, |w| * (x sign w). All bytes lie in [-127, 127], so
   that a pair is at most 2 * 127 * 127 = 32,258 and nothing saturates. */
#include "kernels/x86/gemm_f32_avx2.h"

enum { ROWS_Q8 = 4, ROWS_F32 = 6 };

bool pe_sums_s32_q8c__avx2(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums) {
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1), lowest = _mm256_set1_epi8(INT8_MIN);
    __m256i invalid = _mm256_setzero_si256();
    for (int64_t block = 0; block < blocks; block++) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int64_t i = 0; i < k / PE_QUAD * 2; i++, w += 32) {
            const __m256i line = _mm256_loadu_si256((const __m256i *)(const void *)w);
            invalid = _mm256_or_si256(invalid, _mm256_cmpeq_epi8(line, lowest));
            const __m256i pairs = _mm256_maddubs_epi16(ones8, line);
            sum[i % 2] = _mm256_add_epi32(sum[i % 2], _mm256_madd_epi16(pairs, ones16));
        }
        for (int half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)(void *)(sums + block * PE_BLOCK + half * 8), sum[half]);
    }
    return _mm256_testz_si256(invalid, invalid);
}

ALWAYS_INLINE void tile_q8(const pe_product *p, int64_t row0, int64_t block, const int rows, const uint8_t *ahead) {
    const int64_t k_end = p->k, ldx = p->ldx;
    const int8_t *x = (const int8_t *)p->x + row0 * ldx;
    const int8_t *w = (const int8_t *)p->w + block * PE_BLOCK * k_end;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[ROWS_Q8 * 2]; /* registers: its address must not leave this function */
#pragma GCC unroll 8
    for (int i = 0; i < rows * 2; i++) sum[i] = _mm256_setzero_si256();
    for (int64_t k = 0; k < k_end; k += PE_QUAD) {
        const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(w + k * PE_BLOCK));
        const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(w + k * PE_BLOCK + 32));
        pe_prefetch(ahead, k / PE_QUAD);
        const __m256i low_abs = _mm256_abs_epi8(low), high_abs = _mm256_abs_epi8(high);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            int32_t quad;
            memcpy(&quad, x + r * ldx + k, sizeof quad);
            const __m256i a = _mm256_set1_epi32(quad);
            const __m256i pairs0 = _mm256_maddubs_epi16(low_abs, _mm256_sign_epi8(a, low));
            const __m256i pairs1 = _mm256_maddubs_epi16(high_abs, _mm256_sign_epi8(a, high));
            sum[r * 2] = _mm256_add_epi32(sum[r * 2], _mm256_madd_epi16(pairs0, ones));
            sum[r * 2 + 1] = _mm256_add_epi32(sum[r * 2 + 1], _mm256_madd_epi16(pairs1, ones));
        }
    }
    __m256 done[ROWS_Q8 * 2];
#pragma GCC unroll 8
    for (int i = 0; i < rows * 2; i++) done[i] = pe_floats_of(sum[i]);
    pe_finish_scaled(p, row0, block, rows, done);
}

ALWAYS_INLINE void tile_f32(const pe_product *p, int64_t row0, int64_t block, const int rows, const uint8_t *ahead) {
    const int64_t k_packed = (p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD;
    const float *x = (const float *)p->x + row0 * p->ldx;
    const float *w = (const float *)p->w + block * PE_BLOCK * k_packed;
    __m256 sum[ROWS_F32 * 2];
#pragma GCC unroll 12
    for (int i = 0; i < rows * 2; i++) sum[i] = _mm256_setzero_ps();
    for (int64_t k = 0; k < p->k; k++) {
        const __m256 low = _mm256_loadu_ps(w + k * PE_BLOCK), high = _mm256_loadu_ps(w + k * PE_BLOCK + 8);
        pe_prefetch(ahead, k);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const __m256 a = _mm256_set1_ps(x[r * p->ldx + k]);
            sum[r * 2] = _mm256_fmadd_ps(a, low, sum[r * 2]);
            sum[r * 2 + 1] = _mm256_fmadd_ps(a, high, sum[r * 2 + 1]);
        }
    }
    pe_finish_f32(p, row0, block, rows, sum);
}

void pe_gemm_f32_q8r_q8c__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * p->k;
    for (int64_t block = block0; block < block1; block++)
        for (int64_t row = 0; row < p->m; row += ROWS_Q8) {
            const uint8_t *ahead = pe_ahead_of(p, row, block, block1, block_bytes);
            switch (p->m - row) {
            case 1: tile_q8(p, row, block, 1, ahead); break;
            case 2: tile_q8(p, row, block, 2, ahead); break;
            case 3: tile_q8(p, row, block, 3, ahead); break;
            default: tile_q8(p, row, block, 4, ahead);
            }
        }
}

void pe_gemm_f32_f32_f32__avx2(const pe_product *p, int64_t block0, int64_t block1) {
    const int64_t block_bytes = PE_BLOCK * ((p->k + PE_QUAD - 1) / PE_QUAD * PE_QUAD) * (int64_t)sizeof(float);
    for (int64_t block = block0; block < block1; block++)
        for (int64_t row = 0; row < p->m; row += ROWS_F32) {
            const uint8_t *ahead = pe_ahead_of(p, row, block, block1, block_bytes);
            switch (p->m - row) {
            case 1: tile_f32(p, row, block, 1, ahead); break;
            case 2: tile_f32(p, row, block, 2, ahead); break;
            case 3: tile_f32(p, row, block, 3, ahead); break;
            case 4: tile_f32(p, row, block, 4, ahead); break;
            case 5: tile_f32(p, row, block, 5, ahead); break;
            default: tile_f32(p, row, block, 6, ahead);
            }
        }
}
