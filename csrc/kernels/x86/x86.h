/* The x86-64 kernels; contracts in kernels.h. */
#ifndef PE_KERNELS_X86_X86_H
#define PE_KERNELS_X86_X86_H

#include "kernels/kernels.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Where a tile prefetches while it runs over the lines of a block: `distance` lines further on, and behind block1 what
   is read after it. */
static inline const uint8_t *pe_lines_ahead(const pe_product *p, int64_t block, int64_t block1, int64_t distance) {
    const int64_t line = p->line_start[block] + distance, behind = line - p->line_start[block1];
    return behind < 0 || !p->ahead ? (const uint8_t *)p->w + line * 64 : (const uint8_t *)p->ahead + behind * 64;
}

void pe_quantize_q8r_f32__avx2(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q, float *scale);
void pe_norm_f32_f32__avx2(const float *x, int64_t n, const float *weight, const float *bias, float eps, float *y);
void pe_rmsnorm_f32_f32__avx2(const float *x, int64_t n, const float *weight, float eps, float *y);
void pe_turn_f32_f32__avx2(float *x, int64_t dims, const float *cosines, const float *sines);
void pe_hadamard_f32__avx2(float *x, int64_t n);
void pe_gate_f32_f32__avx2(float *x, int64_t n, pe_activation activation);
void pe_soft_cap_f32__avx2(float *x, int64_t n, float cap);
void pe_exp_sum_f32__avx2(const float *x, int64_t n, float *max, float *sum);
int64_t pe_above_f32__avx2(const float *x, int64_t n, float threshold, int32_t *indices);
bool pe_sums_s32_q8c__avx2(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums);
void pe_gemm_f32_q8r_q8c__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q8s__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q4g__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f32__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_bf16__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f16__avx2(const pe_product *p, int64_t block0, int64_t block1);
void pe_store_q8_f32__avx2(const pe_token *t);
void pe_attend_f32_q8__avx2(const pe_attend *a);
void pe_attend_f32_f32__avx2(const pe_attend *a);

void pe_quantize_q8r_f32__avx512vnni(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q,
                                     float *scale);
void pe_norm_f32_f32__avx512vnni(const float *x, int64_t n, const float *weight, const float *bias, float eps,
                                 float *y);
void pe_rmsnorm_f32_f32__avx512vnni(const float *x, int64_t n, const float *weight, float eps, float *y);
void pe_turn_f32_f32__avx512vnni(float *x, int64_t dims, const float *cosines, const float *sines);
void pe_hadamard_f32__avx512vnni(float *x, int64_t n);
void pe_gate_f32_f32__avx512vnni(float *x, int64_t n, pe_activation activation);
void pe_soft_cap_f32__avx512vnni(float *x, int64_t n, float cap);
void pe_exp_sum_f32__avx512vnni(const float *x, int64_t n, float *max, float *sum);
int64_t pe_above_f32__avx512vnni(const float *x, int64_t n, float threshold, int32_t *indices);
bool pe_sums_s32_q8c__avx512vnni(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums);
void pe_gemm_f32_q8r_q8c__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q8s__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q4g__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f32__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_bf16__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f16__avx512vnni(const pe_product *p, int64_t block0, int64_t block1);
void pe_store_q8_f32__avx512vnni(const pe_token *t);
void pe_attend_f32_q8__avx512vnni(const pe_attend *a);
void pe_attend_f32_f32__avx512vnni(const pe_attend *a);

void pe_gemm_f32_q8r_q8c__amx(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q4g__amx(const pe_product *p, int64_t block0, int64_t block1);

#endif
