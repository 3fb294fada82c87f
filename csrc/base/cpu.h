/* Which instruction sets this CPU and this operating system offer. */
#ifndef PE_BASE_CPU_H
#define PE_BASE_CPU_H

#include <stdbool.h>

/* Clusters, not single bits: a kernel needs one of them and nothing else. */
typedef struct pe_cpu {
    bool avx2;       /* AVX2, FMA, F16C */
    bool avx512vnni; /* AVX-512 F, BW, DQ, VL and VNNI */
} pe_cpu;

pe_cpu pe_cpu_detect(void);

#endif
