#include "kernels/x86/x86.h"

void pe_kernels_overlay_amx(pe_kernels *table) {
    table->gemm_q8 = pe_gemm_f32_q8r_q8c__amx;
    table->gemm_q4 = pe_gemm_f32_q8r_q4g__amx;
}
