/* What the CPU and the operating system answer when they are asked; base/cpu.h makes sense of it. */
#ifndef PE_BASE_HARDWARE_H
#define PE_BASE_HARDWARE_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct pe_cpuid {
    uint32_t a, b, c, d;
} pe_cpuid;

/* False where this CPU has no such leaf. */
static inline bool pe_ask_cpuid(uint32_t leaf, uint32_t part, pe_cpuid *answer) {
    return __get_cpuid_count(leaf, part, &answer->a, &answer->b, &answer->c, &answer->d) != 0;
}

/* XCR0: which register files the operating system saves. Only where CPUID has OSXSAVE. */
static inline uint64_t pe_ask_saved(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* Linux: a process has to ask for large register files before it uses them, for all of its threads. A permission
   survives fork and cannot be given back. Documentation/arch/x86/xstate.rst. */
static inline bool pe_ask_permission(int feature, bool request) {
#ifdef __linux__
    enum { GET = 0x1022, REQUEST = 0x1023 };
    uint64_t granted = 0;
    if (request) return syscall(SYS_arch_prctl, REQUEST, feature) == 0;
    return syscall(SYS_arch_prctl, GET, &granted) == 0 && (granted >> feature & 1);
#else
    (void)feature;
    (void)request;
    return false;
#endif
}
#endif

#endif
