#include "kernels/x86/x86.h"

#if defined(__x86_64__)

void pe_kernels_overlay_avx2(pe_kernels *table) {
    table->flip = 0;
    table->quantize = pe_quantize_q8r_f32__avx2;
    table->channel_sums = pe_sums_s32_q8c__avx2;
    table->gemm_q8 = pe_gemm_f32_q8r_q8c__avx2;
    table->gemm_q8s = pe_gemm_f32_q8r_q8s__avx2;
    table->gemm_q4 = pe_gemm_f32_q8r_q4g__avx2;
    table->gemm_f32 = pe_gemm_f32_f32_f32__avx2;
    table->gemm_bf16 = pe_gemm_f32_f32_bf16__avx2;
    table->gemm_f16 = pe_gemm_f32_f32_f16__avx2;
    table->norm = pe_norm_f32_f32__avx2;
    table->rmsnorm = pe_rmsnorm_f32_f32__avx2;
    table->turn = pe_turn_f32_f32__avx2;
    table->hadamard = pe_hadamard_f32__avx2;
    table->gate = pe_gate_f32_f32__avx2;
    table->soft_cap = pe_soft_cap_f32__avx2;
    table->store_q8 = pe_store_q8_f32__avx2;
    table->attend_q8 = pe_attend_f32_q8__avx2;
    table->attend_f32 = pe_attend_f32_f32__avx2;
    table->exp_sum = pe_exp_sum_f32__avx2;
    table->above = pe_above_f32__avx2;
}

void pe_kernels_overlay_avx512vnni(pe_kernels *table) {
    table->flip = 0x80;
    table->quantize = pe_quantize_q8r_f32__avx512vnni;
    table->channel_sums = pe_sums_s32_q8c__avx512vnni;
    table->gemm_q8 = pe_gemm_f32_q8r_q8c__avx512vnni;
    table->gemm_q8s = pe_gemm_f32_q8r_q8s__avx512vnni;
    table->gemm_q4 = pe_gemm_f32_q8r_q4g__avx512vnni;
    table->gemm_f32 = pe_gemm_f32_f32_f32__avx512vnni;
    table->gemm_bf16 = pe_gemm_f32_f32_bf16__avx512vnni;
    table->gemm_f16 = pe_gemm_f32_f32_f16__avx512vnni;
    table->norm = pe_norm_f32_f32__avx512vnni;
    table->rmsnorm = pe_rmsnorm_f32_f32__avx512vnni;
    table->turn = pe_turn_f32_f32__avx512vnni;
    table->hadamard = pe_hadamard_f32__avx512vnni;
    table->gate = pe_gate_f32_f32__avx512vnni;
    table->soft_cap = pe_soft_cap_f32__avx512vnni;
    table->store_q8 = pe_store_q8_f32__avx512vnni;
    table->attend_q8 = pe_attend_f32_q8__avx512vnni;
    table->attend_f32 = pe_attend_f32_f32__avx512vnni;
    table->exp_sum = pe_exp_sum_f32__avx512vnni;
    table->above = pe_above_f32__avx512vnni;
}

#endif
