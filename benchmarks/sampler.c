/* Looks, many times a second, at which functions a thread is in. sampling.py compiles it into a library and loads it;
   the engine knows nothing of it. The clock is that of the wall: a thread that waits is seen waiting. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

enum { DEPTH = 16 };

typedef struct sample {
    uint64_t mark;
    uint64_t frames[DEPTH]; /* addresses, the innermost function's first; 0 behind the last */
} sample;

volatile uint64_t mark; /* what the caller says that it is doing */
uint64_t taken;         /* samples */

static sample *samples;
static uint64_t room;
static timer_t timer;

typedef struct walk {
    uint64_t *frames;
    int n;
} walk;

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *argument) {
    walk *w = argument;
    int exact = 0; /* the address is that of an instruction, not of the one that a call returns to */
    const uintptr_t address = _Unwind_GetIPInfo(context, &exact);
    if (w->n == DEPTH || !address) return _URC_END_OF_STACK;
    w->frames[w->n++] = address - !exact;
    return _URC_NO_REASON;
}

static void look(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    if (taken == room) return;
    walk w = {samples[taken].frames, 0};
    samples[taken].mark = mark;
    _Unwind_Backtrace(visit, &w);
    taken++;
}

/* Looks at the calling thread every `period` nanoseconds, until `found`, of n zeroed samples, is full; 0 if it does. */
int begin(sample *found, uint64_t n, int64_t period) {
    samples = found;
    room = n;
    taken = 0;
    struct sigaction action = {.sa_sigaction = look, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGPROF, &action, NULL) != 0) return -1;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return -1;
    const struct timespec every = {period / 1000000000, period % 1000000000};
    return timer_settime(timer, 0, &(struct itimerspec){every, every}, NULL);
}

void end(void) { timer_delete(timer); }
