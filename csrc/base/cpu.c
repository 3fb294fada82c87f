#define _GNU_SOURCE
#include "base/cpu.h"

#include <stdatomic.h>

#include "base/hardware.h"

#define GUESS (pe_caches){INT64_C(1) << 20, INT64_C(16) << 20}

#if defined(__x86_64__)

enum {
    TILE_STATE = 18,             /* of XCR0, what has to be asked for; 17 is how tiles are configured */
    AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, /* of leaf 7, d */
    TILE_LEAF = 0x1d,
};

static atomic_bool amx_permitted;

/* Palette 1: eight tiles of 16 rows of 64 bytes. */
static bool has_tiles(void) {
    pe_cpuid id;
    if (!pe_ask_cpuid(TILE_LEAF, 0, &id) || id.a < 1 || !pe_ask_cpuid(TILE_LEAF, 1, &id)) return false;
    return id.a >> 16 == 1024 && (id.b & 0xffff) == 64 && id.b >> 16 == 8 && (id.c & 0xffff) == 16;
}

static pe_support support(bool has, uint64_t saved, uint64_t needed) {
    return !has ? PE_LACKED : (saved & needed) == needed ? PE_OFFERED : PE_REFUSED;
}

pe_cpu pe_cpu_detect(void) {
    pe_cpu cpu = {PE_LACKED, PE_LACKED, PE_LACKED};
    pe_cpuid first, seventh;
    if (!pe_ask_cpuid(1, 0, &first) || !pe_ask_cpuid(7, 0, &seventh)) return cpu;
    const uint64_t saved = first.c & bit_OSXSAVE ? pe_ask_saved() : 0;
    const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL, amx = AMX_TILE | AMX_INT8;
    const bool avx2 = (first.c & bit_FMA) && (first.c & bit_F16C) && (seventh.b & bit_AVX2);
    const bool vnni = avx2 && (seventh.b & avx512) == avx512 && (seventh.c & bit_AVX512VNNI);
    cpu.avx2 = support(avx2, saved, 0x06);
    cpu.avx512vnni = support(vnni, saved, 0xe6);
    cpu.amx = support(vnni && (seventh.d & amx) == amx && has_tiles(), saved, UINT64_C(0x600e6));
    return cpu;
}

/* Leaf 4 of Intel and leaf 0x8000001D of AMD describe a cache by subleaf, in the same words. */
pe_caches pe_caches_detect(void) {
    pe_caches caches = GUESS;
    const uint32_t leaves[] = {4, 0x8000001D};
    for (int i = 0; i < 2; i++) {
        pe_cpuid id;
        for (uint32_t n = 0; n < 16 && pe_ask_cpuid(leaves[i], n, &id) && id.a % 32 != 0; n++) {
            const int64_t ways = (id.b >> 22) + 1, parts = (id.b >> 12) % 1024 + 1, line = id.b % 4096 + 1;
            const int64_t bytes = ways * parts * line * (id.c + INT64_C(1));
            const uint32_t level = id.a >> 5 & 7;
            if (level == 2) caches.second = bytes;
            if (level == 3) caches.third = bytes;
        }
    }
    return caches;
}

bool pe_cpu_permits_amx(void) {
    const bool permitted = pe_ask_permission(TILE_STATE, false) ||
                           (pe_ask_permission(TILE_STATE, true) && pe_ask_permission(TILE_STATE, false));
    if (permitted) atomic_store(&amx_permitted, true);
    return permitted;
}

bool pe_cpu_permitted_amx(void) { return atomic_load_explicit(&amx_permitted, memory_order_relaxed); }

#else

pe_cpu pe_cpu_detect(void) {
    const pe_cpu cpu = {PE_LACKED, PE_LACKED, PE_LACKED};
    return cpu;
}

pe_caches pe_caches_detect(void) { return GUESS; }
bool pe_cpu_permits_amx(void) { return false; }
bool pe_cpu_permitted_amx(void) { return false; }

#endif
