/* A team of threads that executes one function together: one parallel region for a whole step.

   Every thread runs the same function from top to bottom. Between two barriers lies a phase; in a phase the
   threads share out numbered tasks with pe_take. OpenMP supplies the threads and appears in team.c only. */
#ifndef PE_BASE_TEAM_H
#define PE_BASE_TEAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct pe_team {
    int threads;
    _Alignas(64) atomic_int arrived;     /* threads that wait at the barrier */
    _Alignas(64) atomic_uint generation; /* barriers passed */
    _Alignas(64) atomic_llong next;      /* the next task of this phase */
} pe_team;

typedef struct pe_thread {
    pe_team *team;
    int id; /* 0 .. team->threads - 1 */
} pe_thread;

typedef void pe_team_function(pe_thread *thread, void *context);

/* Runs `function` on up to `threads` threads and returns when all are done. */
void pe_team_run(int threads, pe_team_function *function, void *context);

/* Waits for the whole team: spins briefly, then yields the processor. The tasks of the next phase start at 0. */
void pe_barrier(pe_thread *thread);

/* Takes the next of this phase's `n` tasks that no thread has taken; false when none is left:

       for (int64_t i; pe_take(thread, n, &i);) ...                                                               */
static inline bool pe_take(pe_thread *thread, int64_t n, int64_t *task) {
    *task = atomic_fetch_add_explicit(&thread->team->next, 1, memory_order_relaxed);
    return *task < n;
}

/* Whether this process was forked from one that had used a team. The OpenMP runtime's threads do not survive a fork,
   and waiting for them would hang: such a child has teams of one. */
bool pe_team_lost(void);

#endif
