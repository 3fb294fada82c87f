/* Which instruction sets this CPU and this operating system offer, and how large its caches are. */
#ifndef PE_BASE_CPU_H
#define PE_BASE_CPU_H

#include <stdbool.h>
#include <stdint.h>

typedef enum pe_support {
    PE_LACKED,  /* by the CPU */
    PE_REFUSED, /* by the operating system */
    PE_OFFERED,
} pe_support;

/* Clusters, not single bits: a kernel needs one of them and nothing else. */
typedef struct pe_cpu {
    pe_support avx2;       /* AVX2, FMA, F16C */
    pe_support avx512vnni; /* AVX-512 F, BW, DQ, VL and VNNI */
    pe_support amx;        /* AMX for int8 on top of these; what is offered must be permitted, too */
} pe_cpu;

pe_cpu pe_cpu_detect(void);

/* Bytes of a core's second-level cache, and of the third-level cache that cores share; a guess where nobody says. */
typedef struct pe_caches {
    int64_t second, third;
} pe_caches;

pe_caches pe_caches_detect(void);

/* Asks the operating system for AMX's registers, for the whole process and for good; whether it gives them. Only where
   amx is offered: a sandbox may end a process that asks. */
bool pe_cpu_permits_amx(void);

/* Whether it was asked and gave them. */
bool pe_cpu_permitted_amx(void);

#endif
