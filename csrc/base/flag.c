#define _GNU_SOURCE
#include "base/flag.h"

#include <limits.h>
#include <sched.h>
#include <time.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    SPINS = 128,           /* about a microsecond: not worth a look at the clock */
    SPINS_A_LOOK = 32,
    YIELD_AFTER = 30000,   /* ns: longer than a phase's imbalance */
};

int64_t pe_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Until somebody wakes the sleepers; may return at any time. */
static void sleep_at(pe_flag *flag, unsigned seen) {
#ifdef __linux__
    syscall(SYS_futex, &flag->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
#else
    (void)flag, (void)seen;
    nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
#endif
}

static void wake_all(pe_flag *flag) {
#ifdef __linux__
    syscall(SYS_futex, &flag->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void)flag;
#endif
}

int64_t pe_flag_wait(pe_flag *flag, unsigned seen, int64_t patience) {
    for (int i = 0; i < SPINS; i++) {
        if (pe_flag_read(flag) != seen) return 0;
        pe_relax();
    }
    const int64_t start = pe_now();
    int64_t waited = 0;
    while (pe_flag_read(flag) == seen) {
        if (waited >= patience) {
            /* In this order, as pe_flag_set reads in the other: one of the two sees what the other wrote. */
            atomic_fetch_add(&flag->sleepers, 1);
            if (atomic_load(&flag->value) == seen) sleep_at(flag, seen);
            atomic_fetch_sub(&flag->sleepers, 1);
        } else if (waited >= YIELD_AFTER) {
            sched_yield();
        } else {
            for (int i = 0; i < SPINS_A_LOOK; i++) pe_relax();
        }
        waited = pe_now() - start;
    }
    return waited;
}

void pe_flag_set(pe_flag *flag, unsigned value) {
    atomic_store(&flag->value, value);
    if (atomic_load(&flag->sleepers) > 0) wake_all(flag);
}
