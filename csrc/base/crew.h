/* Threads that stay: those of a team, apart from the one that calls.

   They are a pool of our own and not OpenMP's (docs/adr/0010): results and lifetimes do not hang on what other
   libraries did with the same runtime, a fork loses nothing, and a thread that waits can sleep. */
#ifndef PE_BASE_CREW_H
#define PE_BASE_CREW_H

#include <pthread.h>

#include "base/governor.h"
#include "base/status.h"
#include "base/team.h"

typedef struct pe_crew {
    int threads;        /* of a team at most, the caller's among them */
    int n_cpus;         /* 0: threads run where the one does that starts them */
    const int32_t *cpus; /* [n_cpus] where they run, else */
    int hired;          /* threads that exist beside the caller's */
    pthread_t *handles; /* [threads - 1] */
    pe_governor governor;

    /* A region: `call` counts them; threads enrol for a moment; it starts with those who did, and ends when all of
       them are done. */
    pe_flag call;
    atomic_ullong enrolment; /* see crew.c */
    pe_flag started, ended;  /* the last region that was */
    atomic_int running;      /* threads of the region that are not done, the caller's aside */
    atomic_llong waited;     /* ns, all its threads at its barriers */
    atomic_bool leaving;     /* the threads are to end */

    pe_team team;
    pe_tasks *tasks; /* [2 * threads] */
    pe_team_function *function;
    void *context;
} pe_crew;

/* PE_MAX_TEAM threads at most; they start when they are first needed. `cpus` stays the caller's. PE_NO_MEMORY. */
pe_status pe_crew_create(pe_crew *crew, int threads, const int32_t *cpus, int n_cpus);
void pe_crew_destroy(pe_crew *crew);

/* In a child after a fork, which took along none of the threads: others start when they are needed. */
void pe_crew_forget(pe_crew *crew);

/* Runs `function` on as many threads as pay, up to crew->threads, the caller's as number 0, and returns when all are
   done. Fewer from then on if the system refuses threads. A thread that is late is waited for longer the more `rows`
   there are to work on. */
void pe_team_run(pe_crew *crew, int64_t rows, pe_team_function *function, void *context);

#endif
