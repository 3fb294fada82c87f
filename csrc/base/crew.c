#define _GNU_SOURCE
#include "base/crew.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "base/arena.h"

enum { STACK_BYTES = 1 << 20 };

/* Nanoseconds. */
static const int64_t LATEST = 250000;          /* that a region waits for its threads: waking one takes a fifth, */
static const int64_t LATEST_A_ROW = 4000;      /* but on an idle machine milliseconds at times */
static const int64_t IDLE_PATIENCE = 1500000;  /* between two steps, and often between two calls */
static const int64_t START_PATIENCE = 300000;
static const int64_t END_PATIENCE = 60000;

/* The enrolment of a region is one word, so that it closes at once for all:

       63 .. 32  the region
       31        closed
       30 .. 16  threads that may enrol
       15 ..  0  threads that have                                                                                  */
static const unsigned long long CLOSED = 1ULL << 31;

static unsigned long long opened(unsigned region, int wanted) {
    return (unsigned long long)region << 32 | (unsigned long long)wanted << 16;
}

static int enrolled(unsigned long long enrolment) { return (int)(enrolment & 0xffff); }
static int wanted(unsigned long long enrolment) { return (int)(enrolment >> 16 & 0x7fff); }

/* The thread's number in the region; 0 if that starts without it. */
static int enrol(pe_crew *crew, unsigned region) {
    unsigned long long seen = atomic_load_explicit(&crew->enrolment, memory_order_acquire);
    do {
        if (seen >> 32 != region || seen & CLOSED || enrolled(seen) == wanted(seen)) return 0;
    } while (!atomic_compare_exchange_weak_explicit(&crew->enrolment, &seen, seen + 1, memory_order_acq_rel,
                                                    memory_order_acquire));
    return enrolled(seen) + 1;
}

static void take_part(pe_crew *crew, unsigned region, int id) {
    for (unsigned started; (started = pe_flag_read(&crew->started)) != region;)
        pe_flag_wait(&crew->started, started, START_PATIENCE);
    atomic_fetch_add(&crew->waited, pe_team_member(&crew->team, id, crew->function, crew->context));
    if (atomic_fetch_sub(&crew->running, 1) == 1) pe_flag_set(&crew->ended, region);
}

/* As far as the system allows it: a set of CPUs may have become smaller since. */
static void settle(const pe_crew *crew) {
#ifdef __linux__
    if (crew->n_cpus == 0) return;
    const size_t size = CPU_ALLOC_SIZE(crew->cpus[crew->n_cpus - 1] + 1);
    cpu_set_t *set = CPU_ALLOC(crew->cpus[crew->n_cpus - 1] + 1);
    if (!set) return;
    CPU_ZERO_S(size, set);
    for (int i = 0; i < crew->n_cpus; i++) CPU_SET_S(crew->cpus[i], size, set);
    sched_setaffinity(0, size, set);
    CPU_FREE(set);
#else
    (void)crew;
#endif
}

static void *serve(void *argument) {
    pe_crew *crew = argument;
    settle(crew);
    unsigned region = pe_flag_read(&crew->call); /* may be under way: this thread was started for it */
    while (!atomic_load(&crew->leaving)) {
        const int id = enrol(crew, region);
        if (id > 0) take_part(crew, region, id);
        pe_flag_wait(&crew->call, region, IDLE_PATIENCE);
        region = pe_flag_read(&crew->call);
    }
    return NULL;
}

/* Signals are for the threads that Python knows, but for those that a fault of this thread's own raises. */
static void hire(pe_crew *crew, int threads) {
    if (threads <= crew->hired + 1) return;
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    sigdelset(&blocked, SIGTRAP);
    sigdelset(&blocked, SIGSYS);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    while (crew->hired + 1 < threads) {
        if (pthread_create(&crew->handles[crew->hired], &attributes, serve, crew) != 0) {
            crew->threads = crew->hired + 1;
            pe_governor_begin(&crew->governor, crew->threads);
            break;
        }
        crew->hired++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static int least(int a, int b) { return a < b ? a : b; }

pe_status pe_crew_create(pe_crew *crew, int threads, const int32_t *cpus, int n_cpus) {
    *crew = (pe_crew){.threads = threads < 1 ? 1 : least(threads, PE_MAX_TEAM), .n_cpus = n_cpus, .cpus = cpus};
    pe_governor_begin(&crew->governor, crew->threads);
    crew->tasks = pe_aligned_alloc(2 * (size_t)crew->threads * sizeof *crew->tasks);
    crew->handles = malloc((size_t)crew->threads * sizeof *crew->handles);
    if (crew->tasks && crew->handles) return PE_OK;
    pe_crew_destroy(crew);
    return PE_NO_MEMORY;
}

void pe_crew_destroy(pe_crew *crew) {
    if (crew->hired > 0) {
        atomic_store(&crew->leaving, true);
        pe_flag_set(&crew->call, pe_flag_read(&crew->call) + 1);
        for (int i = 0; i < crew->hired; i++) pthread_join(crew->handles[i], NULL);
    }
    pe_aligned_free(crew->tasks);
    free(crew->handles);
    *crew = (pe_crew){0};
}

void pe_crew_forget(pe_crew *crew) {
    pe_crew fresh = {.threads = crew->threads, .n_cpus = crew->n_cpus, .cpus = crew->cpus,
                     .handles = crew->handles, .tasks = crew->tasks};
    pe_governor_begin(&fresh.governor, fresh.threads);
    *crew = fresh;
}

/* Calls `asked` threads to a region and starts it with those who come in time: how many they are. */
static int start(pe_crew *crew, unsigned region, int asked, int64_t now, int64_t latest) {
    atomic_store_explicit(&crew->enrolment, opened(region, asked), memory_order_release);
    pe_flag_set(&crew->call, region);
    while (enrolled(atomic_load_explicit(&crew->enrolment, memory_order_relaxed)) < asked) {
        for (int i = 0; i < 32; i++) pe_relax();
        const int64_t waited = pe_now() - now;
        if (waited > latest) break;
        if (waited > LATEST) sched_yield(); /* it may need this processor */
    }
    const int came = enrolled(atomic_fetch_or(&crew->enrolment, CLOSED));
    pe_team_begin(&crew->team, 1 + came, crew->tasks);
    atomic_store(&crew->waited, pe_now() - now);
    atomic_store(&crew->running, came);
    pe_flag_set(&crew->started, region);
    return came;
}

void pe_team_run(pe_crew *crew, int64_t rows, pe_team_function *function, void *context) {
    int64_t now = 0;
    if (crew->threads > 1) {
        now = pe_now();
        hire(crew, pe_governor_choose(&crew->governor, now));
    }
    const int threads = least(crew->governor.level, crew->hired + 1);
    if (threads == 1) {
        pe_team_begin(&crew->team, 1, crew->tasks);
        pe_team_member(&crew->team, 0, function, context);
        return;
    }
    crew->function = function;
    crew->context = context;
    const unsigned region = pe_flag_read(&crew->call) + 1;
    const int64_t latest = rows * LATEST_A_ROW > LATEST ? rows * LATEST_A_ROW : LATEST;
    const int came = start(crew, region, threads - 1, now, latest);
    int64_t waited = pe_team_member(&crew->team, 0, function, context);
    for (unsigned ended; came > 0 && (ended = pe_flag_read(&crew->ended)) != region;)
        waited += pe_flag_wait(&crew->ended, ended, END_PATIENCE);
    const int64_t end = pe_now();
    pe_governor_learn(&crew->governor, end, 1 + came, end - now, waited + atomic_load(&crew->waited));
}
