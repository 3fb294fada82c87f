#define _POSIX_C_SOURCE 200809L
#include "base/team.h"

#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif
#include <sched.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { SPINS = 1000 }; /* some tens of microseconds: longer than a phase's imbalance, shorter than a time slice */

static inline void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

/* Subnormal numbers cost a hundred cycles each and carry nothing here: they are zero inside a region, and the
   caller's mode is restored, since Python shares the first thread. */
static uint64_t enter_flush_to_zero(void) {
    uint64_t before = 0;
#if defined(__x86_64__)
    before = _mm_getcsr();
    _mm_setcsr((unsigned)before | 0x8040); /* results, operands */
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | UINT64_C(1) << 24));
#endif
    return before;
}

static void leave_flush_to_zero(uint64_t before) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

static atomic_bool team_lost; /* this process was forked from one that had started threads */

bool pe_team_lost(void) { return atomic_load(&team_lost); }

#ifdef _OPENMP
static void after_fork_in_child(void) { atomic_store(&team_lost, true); }

static void watch_forks(void) { pthread_atfork(NULL, NULL, after_fork_in_child); }
#endif

/* How many threads a team can really have. */
static int limit(int threads) {
#ifdef _OPENMP
    return pe_team_lost() || threads < 1 ? 1 : threads;
#else
    (void)threads;
    return 1;
#endif
}

static void run_member(pe_team *team, int id, pe_team_function *function, void *context) {
    pe_thread thread = {.team = team, .id = id};
    const uint64_t mode = enter_flush_to_zero();
    function(&thread, context);
    leave_flush_to_zero(mode);
}

void pe_team_run(int threads, pe_team_function *function, void *context) {
    pe_team team = {.threads = limit(threads)};
    if (team.threads == 1) {
        run_member(&team, 0, function, context);
        return;
    }
#ifdef _OPENMP
    static pthread_once_t watching = PTHREAD_ONCE_INIT;
    pthread_once(&watching, watch_forks); /* from here on a fork loses threads */
#pragma omp parallel num_threads(team.threads)
    {
        /* The runtime may grant fewer threads than were asked for. */
#pragma omp single
        team.threads = omp_get_num_threads();
        run_member(&team, omp_get_thread_num(), function, context);
    }
#endif
}

void pe_barrier(pe_thread *thread) {
    pe_team *team = thread->team;
    if (team->threads == 1) {
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        return;
    }
    const unsigned generation = atomic_load_explicit(&team->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->threads - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        atomic_store_explicit(&team->generation, generation + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&team->generation, memory_order_acquire) == generation; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
}
