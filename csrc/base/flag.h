/* A number that threads wait to see change: they spin, then give the processor away, then sleep.

   On an idle machine a wait ends while it spins. Where other programs want the processors, the thread that is waited
   for may be without one, and gets it the sooner the less the others hold on to theirs. */
#ifndef PE_BASE_FLAG_H
#define PE_BASE_FLAG_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct pe_flag {
    _Alignas(64) atomic_uint value;
    atomic_int sleepers;
} pe_flag;

/* Nanoseconds of a clock that never goes back. */
int64_t pe_now(void);

/* Tells the processor that this thread spins. */
static inline void pe_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static inline unsigned pe_flag_read(pe_flag *flag) {
    return atomic_load_explicit(&flag->value, memory_order_acquire);
}

/* Returns when the value is not `seen`; what the caller wrote before pe_flag_set, the thread that waited sees. Spins
   for `patience` nanoseconds before it sleeps. Answers how long this took, 0 where that is too short to count. */
int64_t pe_flag_wait(pe_flag *flag, unsigned seen, int64_t patience);

void pe_flag_set(pe_flag *flag, unsigned value);

#endif
