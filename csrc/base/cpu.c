#include "base/cpu.h"

#define GUESS (pe_caches){INT64_C(1) << 20, INT64_C(16) << 20}

#if defined(__x86_64__)
#include <cpuid.h>

/* XCR0: which register files the operating system saves. A CPUID bit alone is not enough. */
static uint64_t read_xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

pe_cpu pe_cpu_detect(void) {
    pe_cpu cpu = {false, false};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return cpu;
    const bool fma_and_halves = (c & bit_FMA) && (c & bit_F16C);
    if (!(c & bit_OSXSAVE)) return cpu;
    const uint64_t xcr0 = read_xcr0();
    const bool ymm = (xcr0 & 0x06) == 0x06;
    const bool zmm = (xcr0 & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    cpu.avx2 = ymm && fma_and_halves && (b & bit_AVX2);
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    cpu.avx512vnni = cpu.avx2 && zmm && (b & avx512) == avx512 && (c & bit_AVX512VNNI);
    return cpu;
}

/* Leaf 4 of Intel and leaf 0x8000001D of AMD describe a cache by subleaf, in the same words. */
pe_caches pe_caches_detect(void) {
    pe_caches caches = GUESS;
    const uint32_t leaves[] = {4, 0x8000001D};
    for (int i = 0; i < 2; i++) {
        uint32_t a, b, c, d;
        for (uint32_t n = 0; n < 16 && __get_cpuid_count(leaves[i], n, &a, &b, &c, &d) && a % 32 != 0; n++) {
            const int64_t ways = (b >> 22) + 1, parts = (b >> 12) % 1024 + 1, line = b % 4096 + 1;
            const int64_t bytes = ways * parts * line * (c + INT64_C(1));
            const uint32_t level = a >> 5 & 7;
            if (level == 2) caches.second = bytes;
            if (level == 3) caches.third = bytes;
        }
    }
    return caches;
}

#else

pe_cpu pe_cpu_detect(void) {
    const pe_cpu cpu = {false, false};
    return cpu;
}

pe_caches pe_caches_detect(void) { return GUESS; }

#endif
