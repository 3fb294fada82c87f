/* A team of threads that executes one function together: one parallel region for a whole step.

   Every thread runs the same function from top to bottom. Between two barriers lies a phase; in a phase the
   threads share out numbered tasks with pe_take. Where the threads come from: base/crew.h. */
#ifndef PE_BASE_TEAM_H
#define PE_BASE_TEAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/flag.h"

enum { PE_MAX_TEAM = 256 };

/* How many of its own tasks of a phase are taken; a cache line, so that threads do not fight for it. */
typedef struct pe_tasks {
    _Alignas(64) atomic_llong taken;
} pe_tasks;

typedef struct pe_team {
    int threads;
    pe_tasks *tasks;                 /* [2][threads] of phases with an even and with an odd number */
    _Alignas(64) atomic_int arrived; /* threads that wait at the barrier */
    pe_flag passed;                  /* how many barriers */
} pe_team;

typedef struct pe_thread {
    pe_team *team;
    int id;         /* 0 .. team->threads - 1 */
    int parity;     /* of the phase */
    int helps;      /* it takes tasks of the thread that comes so many places after it */
    int64_t waited; /* ns at barriers; waits that are too short to count, and fetching meanwhile, left out */
    const char *ahead, *ahead_end; /* what it reads next: it fetches some of that while it waits */
} pe_thread;

typedef void pe_team_function(pe_thread *thread, void *context);

/* A team whose first phase begins; `tasks` has room for 2 * threads. */
void pe_team_begin(pe_team *team, int threads, pe_tasks *tasks);

/* Runs `function` as thread `id` of the team; answers how long it waited at barriers, in ns. */
int64_t pe_team_member(pe_team *team, int id, pe_team_function *function, void *context);

/* Waits for the whole team. Ends a phase. */
void pe_barrier(pe_thread *thread);

/* The two halves of a barrier, for work between two phases that is not worth sharing out: the last thread to arrive
   gets true at once, and the others wait until it calls pe_release. */
bool pe_arrive(pe_thread *thread);
void pe_release(pe_thread *thread);

/* Takes one of this phase's `n` tasks that no thread has taken; false when none is left. A thread first takes, in
   ascending order, the tasks of its own range, an equal share of adjacent ones, and then helps the others:

       for (int64_t i; pe_take(thread, n, &i);) ...                                                               */
static inline bool pe_take(pe_thread *thread, int64_t n, int64_t *task) {
    const int threads = thread->team->threads;
    for (; thread->helps < threads; thread->helps++) {
        const int owner = (thread->id + thread->helps) % threads;
        pe_tasks *tasks = thread->team->tasks + thread->parity * threads + owner;
        const int64_t first = n * owner / threads, end = n * (owner + 1) / threads;
        *task = first + atomic_fetch_add_explicit(&tasks->taken, 1, memory_order_relaxed);
        if (*task < end) return true;
    }
    return false;
}

/* The end of the thread's own range of `n` tasks. */
static inline int64_t pe_own_end(const pe_thread *thread, int64_t n) {
    return n * (thread->id + 1) / thread->team->threads;
}

/* A team of one inside a thread: what it runs passes through barriers at once. */
typedef struct pe_solo {
    pe_team team;
    pe_tasks tasks[2];
    pe_thread thread;
} pe_solo;

pe_thread *pe_alone(pe_solo *solo);

#endif
