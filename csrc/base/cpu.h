/* Which instruction sets this CPU and this operating system offer, and how large its caches are. */
#ifndef PE_BASE_CPU_H
#define PE_BASE_CPU_H

#include <stdbool.h>
#include <stdint.h>

/* Clusters, not single bits: a kernel needs one of them and nothing else. */
typedef struct pe_cpu {
    bool avx2;       /* AVX2, FMA, F16C */
    bool avx512vnni; /* AVX-512 F, BW, DQ, VL and VNNI */
} pe_cpu;

pe_cpu pe_cpu_detect(void);

/* Bytes of a core's second-level cache, and of the third-level cache that cores share; a guess where nobody says. */
typedef struct pe_caches {
    int64_t second, third;
} pe_caches;

pe_caches pe_caches_detect(void);

#endif
