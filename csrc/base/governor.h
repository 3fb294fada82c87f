/* How many threads pay: fewer where other programs want the processors, too.

   A team goes as fast as its slowest thread. Beside a busy program one of them is always without a processor, and the
   others wait for a time slice at every barrier; one thread alone would be done sooner. Results do not depend on the
   number of threads, so that a crew may change it from step to step.

   What a team saves is measured: of the time of its steps, `worked` is what all threads together did not wait. A
   thread alone would have taken that long, so a team is worth its threads while worked / elapsed is well above one.
   Where it is not, half of the threads go on; after a pause, which grows with every failure, more are tried again. */
#ifndef PE_BASE_GOVERNOR_H
#define PE_BASE_GOVERNOR_H

#include <stdint.h>

typedef struct pe_governor {
    int threads; /* asked for */
    int level;   /* that go on */
    int poor;    /* windows in a row that were */
    int64_t elapsed, worked; /* ns, of the window's steps */
    int64_t missed;          /* ns that steps waited for threads that did not come */
    int64_t retry, pause;    /* when more threads are tried again; how long that takes */
    int64_t proven;          /* when a good window ends the trial; 0: there is none */
} pe_governor;

void pe_governor_begin(pe_governor *governor, int threads);

/* Threads of the step that begins `now`, in ns. */
int pe_governor_choose(pe_governor *governor, int64_t now);

/* A step of `threads` threads, which `elapsed` ns and in which these waited `waited` ns in all, has ended `now`. */
void pe_governor_learn(pe_governor *governor, int64_t now, int threads, int64_t elapsed, int64_t waited);

#endif
