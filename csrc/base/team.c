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
    if (pe_team_lost() || threads < 1) return 1;
    return threads < PE_MAX_TEAM ? threads : PE_MAX_TEAM;
#else
    (void)threads;
    return 1;
#endif
}

static void clear_tasks(pe_team *team) {
    for (int i = 0; i < 2 * team->threads; i++) atomic_init(&team->tasks[i].taken, 0);
}

static void run_member(pe_team *team, int id, pe_team_function *function, void *context) {
    pe_thread thread = {.team = team, .id = id};
    const uint64_t mode = enter_flush_to_zero();
    function(&thread, context);
    leave_flush_to_zero(mode);
}

void pe_team_run(int threads, pe_team_function *function, void *context) {
    pe_tasks tasks[2 * PE_MAX_TEAM];
    pe_team team = {.threads = limit(threads), .tasks = tasks};
    if (team.threads == 1) {
        clear_tasks(&team);
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
        {
            team.threads = omp_get_num_threads();
            clear_tasks(&team);
        }
        run_member(&team, omp_get_thread_num(), function, context);
    }
#endif
}

pe_thread *pe_alone(pe_solo *solo) {
    solo->team = (pe_team){.threads = 1, .tasks = solo->tasks};
    solo->thread = (pe_thread){.team = &solo->team};
    clear_tasks(&solo->team);
    return &solo->thread;
}

bool pe_arrive(pe_thread *thread) {
    pe_team *team = thread->team;
    thread->parity ^= 1;
    thread->helps = 0;
    /* Of the next phase; nobody has looked at them since the barrier before the last one. */
    atomic_store_explicit(&team->tasks[thread->parity * team->threads + thread->id].taken, 0, memory_order_relaxed);
    if (team->threads == 1) return true;
    const unsigned generation = atomic_load_explicit(&team->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->threads - 1) return true;
    for (int spins = 0; atomic_load_explicit(&team->generation, memory_order_acquire) == generation; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
    return false;
}

void pe_release(pe_thread *thread) {
    pe_team *team = thread->team;
    if (team->threads == 1) return;
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&team->generation, 1, memory_order_release);
}

void pe_barrier(pe_thread *thread) {
    if (pe_arrive(thread)) pe_release(thread);
}
