/* The scalar reference kernels; contracts in kernels.h. */
#ifndef PE_KERNELS_REF_REF_H
#define PE_KERNELS_REF_REF_H

#include "kernels/kernels.h"

/* A product's value behind its scale and bias. */
static inline float pe_finish(const pe_product *p, int64_t row, int64_t channel, float value) {
    value = pe_activate(p->activation, value);
    return p->residual ? value + p->residual[row * p->ldr + channel] : value;
}

void pe_quantize_q8r_f32__ref(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q, float *scale);
void pe_norm_f32_f32__ref(const float *x, int64_t n, const float *weight, const float *bias, float eps, float *y);
void pe_rmsnorm_f32_f32__ref(const float *x, int64_t n, const float *weight, float eps, float *y);
void pe_turn_f32_f32__ref(float *x, int64_t dims, const float *cosines, const float *sines);
void pe_hadamard_f32__ref(float *x, int64_t n);
void pe_gate_f32_f32__ref(float *x, int64_t n, pe_activation activation);
void pe_soft_cap_f32__ref(float *x, int64_t n, float cap);
void pe_exp_sum_f32__ref(const float *x, int64_t n, float *max, float *sum);
int64_t pe_above_f32__ref(const float *x, int64_t n, float threshold, int32_t *indices);
bool pe_sums_s32_q8c__ref(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums);
void pe_gemm_f32_q8r_q8c__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q8s__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_q8r_q4g__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f32__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_bf16__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_gemm_f32_f32_f16__ref(const pe_product *p, int64_t block0, int64_t block1);
void pe_store_q8_f32__ref(const pe_token *t);
void pe_attend_f32_q8__ref(const pe_attend *a);
void pe_attend_f32_f32__ref(const pe_attend *a);

#endif
