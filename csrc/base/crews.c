#define _POSIX_C_SOURCE 200809L
#include "base/crews.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"

/* One that waits, on its own stack; whoever gives a crew back hands it to the first. */
typedef struct pe_crews_waiter {
    pe_crew *given;
    int64_t since;
    struct pe_crews_waiter *next;
} waiter;

/* All that there are. A fork takes one thread along: in the child every crew is idle, and nobody waits. */
static pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
static pe_crews *all;

static void make_locks(pe_crews *crews) {
    pthread_mutex_init(&crews->mutex, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&crews->changed, &clock);
    pthread_condattr_destroy(&clock);
}

static void all_idle(pe_crews *crews) {
    crews->n_idle = crews->places;
    for (int i = 0; i < crews->places; i++) crews->idle[i] = crews->places - 1 - i;
    crews->first = NULL;
}

static void before_fork(void) { pthread_mutex_lock(&all_mutex); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&all_mutex); }

static void after_fork_in_child(void) {
    pthread_mutex_init(&all_mutex, NULL);
    for (pe_crews *crews = all; crews; crews = crews->next) {
        make_locks(crews);
        all_idle(crews);
        for (int i = 0; i < crews->places; i++) pe_crew_forget(&crews->crews[i]);
    }
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

static void enlist(pe_crews *crews) {
    static pthread_once_t watching = PTHREAD_ONCE_INIT;
    pthread_once(&watching, watch_forks);
    pthread_mutex_lock(&all_mutex);
    crews->next = all;
    all = crews;
    pthread_mutex_unlock(&all_mutex);
}

static void strike(pe_crews *crews) {
    pthread_mutex_lock(&all_mutex);
    for (pe_crews **at = &all; *at; at = &(*at)->next)
        if (*at == crews) {
            *at = crews->next;
            break;
        }
    pthread_mutex_unlock(&all_mutex);
}

pe_status pe_crews_create(pe_crews *crews, int threads, int places, const int32_t *cpus, int n_cpus) {
    *crews = (pe_crews){.threads = threads};
    make_locks(crews);
    crews->cpus = malloc((size_t)(n_cpus + 1) * sizeof *cpus);
    if (crews->cpus && n_cpus > 0) memcpy(crews->cpus, cpus, (size_t)n_cpus * sizeof *cpus);
    crews->crews = pe_aligned_alloc((size_t)places * sizeof *crews->crews);
    crews->idle = malloc((size_t)places * sizeof *crews->idle);
    pe_status status = crews->crews && crews->idle && crews->cpus ? PE_OK : PE_NO_MEMORY;
    for (int i = 0; i < places && status == PE_OK; i++) {
        status = pe_crew_create(&crews->crews[i], threads, crews->cpus, n_cpus);
        crews->places += status == PE_OK;
    }
    if (status == PE_OK) {
        all_idle(crews);
        enlist(crews);
    } else {
        pe_crews_destroy(crews);
    }
    return status;
}

void pe_crews_destroy(pe_crews *crews) {
    strike(crews);
    for (int i = 0; i < crews->places; i++) pe_crew_destroy(&crews->crews[i]);
    pe_aligned_free(crews->crews);
    free(crews->idle);
    free(crews->cpus);
    *crews = (pe_crews){0};
}

static struct timespec after(int64_t nanoseconds) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    nanoseconds += t.tv_nsec;
    t.tv_sec += nanoseconds / 1000000000;
    t.tv_nsec = nanoseconds % 1000000000;
    return t;
}

/* Behind all who have waited as long or longer. */
static void queue(pe_crews *crews, waiter *me) {
    waiter **at = &crews->first;
    while (*at && (*at)->since <= me->since) at = &(*at)->next;
    me->next = *at;
    *at = me;
}

static void leave_queue(pe_crews *crews, waiter *me) {
    waiter **at = &crews->first;
    while (*at != me) at = &(*at)->next;
    *at = me->next;
}

pe_crew *pe_crews_take(pe_crews *crews, int64_t patience, int64_t since) {
    waiter me = {.since = since};
    pthread_mutex_lock(&crews->mutex);
    if (crews->n_idle > 0) { /* then nobody waits */
        me.given = &crews->crews[crews->idle[--crews->n_idle]];
    } else if (patience > 0) {
        const struct timespec end = after(patience);
        queue(crews, &me);
        while (!me.given && pthread_cond_timedwait(&crews->changed, &crews->mutex, &end) == 0) continue;
        if (!me.given) leave_queue(crews, &me);
    }
    pthread_mutex_unlock(&crews->mutex);
    return me.given;
}

static bool is_idle(const pe_crews *crews, const pe_crew *crew) {
    for (int i = 0; i < crews->n_idle; i++)
        if (&crews->crews[crews->idle[i]] == crew) return true;
    return false;
}

void pe_crews_give(pe_crews *crews, pe_crew *crew) {
    pthread_mutex_lock(&crews->mutex);
    waiter *first = crews->first;
    if (is_idle(crews, crew)) {
        /* a fork has been in between */
    } else if (first) {
        crews->first = first->next;
        first->given = crew;
        pthread_cond_broadcast(&crews->changed);
    } else {
        crews->idle[crews->n_idle++] = (int)(crew - crews->crews);
    }
    pthread_mutex_unlock(&crews->mutex);
}

int pe_crews_waiting(pe_crews *crews) {
    int count = 0;
    pthread_mutex_lock(&crews->mutex);
    for (waiter *each = crews->first; each; each = each->next) count++;
    pthread_mutex_unlock(&crews->mutex);
    return count;
}
