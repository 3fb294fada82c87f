#include "kernels/ref/ref.h"

void pe_kernels_overlay_ref(pe_kernels *table) {
    table->flip = 0;
    table->quantize = pe_quantize_q8r_f32__ref;
    table->channel_sums = pe_sums_s32_q8c__ref;
    table->gemm_q8 = pe_gemm_f32_q8r_q8c__ref;
    table->gemm_q8s = pe_gemm_f32_q8r_q8s__ref;
    table->gemm_q4 = pe_gemm_f32_q8r_q4g__ref;
    table->gemm_f32 = pe_gemm_f32_f32_f32__ref;
    table->gemm_bf16 = pe_gemm_f32_f32_bf16__ref;
    table->gemm_f16 = pe_gemm_f32_f32_f16__ref;
    table->norm = pe_norm_f32_f32__ref;
    table->rmsnorm = pe_rmsnorm_f32_f32__ref;
    table->turn = pe_turn_f32_f32__ref;
    table->hadamard = pe_hadamard_f32__ref;
    table->gate = pe_gate_f32_f32__ref;
    table->soft_cap = pe_soft_cap_f32__ref;
    table->store_q8 = pe_store_q8_f32__ref;
    table->attend_q8 = pe_attend_f32_q8__ref;
    table->attend_f32 = pe_attend_f32_f32__ref;
    table->exp_sum = pe_exp_sum_f32__ref;
    table->above = pe_above_f32__ref;
}
