#include "base/team.h"

#include "base/cpu.h"
#include "base/tiles.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum {
    PATIENCE = 60000, /* ns at a barrier before a thread sleeps: more than waking one takes */
    LINES_A_LOOK = 4, /* of cache that a waiting thread fetches before it looks again */
};

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

/* What kernels leave in AMX's registers would cost each switch of threads, and a caller may rely on how it had
   configured them. */
static void run_member(pe_thread *thread, pe_team_function *function, void *context) {
#ifdef PE_AMX
    if (pe_cpu_permitted_amx()) {
        pe_tile_config before;
        PE_TILE_CONFIGURED(&before);
        function(thread, context);
        PE_TILE_CONFIGURE(&before);
        return;
    }
#endif
    function(thread, context);
}

void pe_team_begin(pe_team *team, int threads, pe_tasks *tasks) {
    team->threads = threads;
    team->tasks = tasks;
    atomic_init(&team->arrived, 0);
    for (int i = 0; i < 2 * threads; i++) atomic_init(&tasks[i].taken, 0);
}

int64_t pe_team_member(pe_team *team, int id, pe_team_function *function, void *context) {
    pe_thread thread = {.team = team, .id = id};
    const uint64_t mode = enter_flush_to_zero();
    run_member(&thread, function, context);
    leave_flush_to_zero(mode);
    return thread.waited;
}

pe_thread *pe_alone(pe_solo *solo) {
    pe_team_begin(&solo->team, 1, solo->tasks);
    solo->thread = (pe_thread){.team = &solo->team};
    return &solo->thread;
}

/* Memory would else be idle while a thread waits. */
static void fetch_ahead(pe_thread *thread, unsigned passed) {
    while (thread->ahead < thread->ahead_end && pe_flag_read(&thread->team->passed) == passed) {
        for (int i = 0; i < LINES_A_LOOK; i++, thread->ahead += 64) __builtin_prefetch(thread->ahead, 0, 2);
    }
}

bool pe_arrive(pe_thread *thread) {
    pe_team *team = thread->team;
    thread->parity ^= 1;
    thread->helps = 0;
    /* Of the next phase; nobody has looked at them since the barrier before the last one. */
    atomic_store_explicit(&team->tasks[thread->parity * team->threads + thread->id].taken, 0, memory_order_relaxed);
    if (team->threads == 1) return true;
    const unsigned passed = atomic_load_explicit(&team->passed.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == team->threads - 1) return true;
    fetch_ahead(thread, passed);
    thread->waited += pe_flag_wait(&team->passed, passed, PATIENCE);
    return false;
}

void pe_release(pe_thread *thread) {
    pe_team *team = thread->team;
    if (team->threads == 1) return;
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    pe_flag_set(&team->passed, atomic_load_explicit(&team->passed.value, memory_order_relaxed) + 1);
}

void pe_barrier(pe_thread *thread) {
    if (pe_arrive(thread)) pe_release(thread);
}
