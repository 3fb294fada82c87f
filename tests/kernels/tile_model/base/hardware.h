/* csrc/base/hardware.h with answers that a test has chosen. */
#ifndef PE_BASE_HARDWARE_H
#define PE_BASE_HARDWARE_H

#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct pe_cpuid {
    uint32_t a, b, c, d;
} pe_cpuid;

bool pe_ask_cpuid(uint32_t leaf, uint32_t part, pe_cpuid *answer);
uint64_t pe_ask_saved(void);
bool pe_ask_permission(int feature, bool request);

#endif
