/* Crews of one size that calls of several threads share: at most so many at work at once, first come, first served. A
   child after a fork has all of them idle: what its only thread held before, it gives back without effect. */
#ifndef PE_BASE_CREWS_H
#define PE_BASE_CREWS_H

#include "base/crew.h"

typedef struct pe_crews {
    int threads; /* of a crew */
    int places;  /* crews */
    int32_t *cpus; /* see pe_crew */
    pe_crew *crews;
    int *idle; /* [places] numbers of crews that are not at work */
    int n_idle;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct pe_crews_waiter *first;
    struct pe_crews *next; /* of all that there are in the process; for forks */
} pe_crews;

/* `cpus`: ascending; where the threads run, n_cpus 0: where the one does that starts them. */
pe_status pe_crews_create(pe_crews *crews, int threads, int places, const int32_t *cpus, int n_cpus);
void pe_crews_destroy(pe_crews *crews);

/* A crew to run a step with, to be given back; NULL if all were at work for `patience` nanoseconds. `since`: when the
   caller began to wait, of pe_now(): who comes again after such a while keeps the place in the queue. */
pe_crew *pe_crews_take(pe_crews *crews, int64_t patience, int64_t since);
void pe_crews_give(pe_crews *crews, pe_crew *crew);

/* Calls that stand in the queue. */
int pe_crews_waiting(pe_crews *crews);

#endif
