#include "base/governor.h"

#include <stdbool.h>

#define MS INT64_C(1000000)

enum {
    LEAST_PERCENT = 65, /* of its threads' time that a team must have worked; 95 and more where nothing is in the way */
    POOR_WINDOWS = 2,   /* in a row: one may be a hiccup */
};

static const int64_t WINDOW = 2 * MS; /* of steps: shorter than a time slice, longer than a hiccup */
static const int64_t SHORTEST_PAUSE = 10 * MS, LONG_PAUSE = 640 * MS, LONGEST_PAUSE = 4000 * MS;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* After a window of `spent` ns in vain: of long steps, each a window, trials are rarer. */
static int64_t longer(int64_t pause, int64_t spent) {
    return least(most(8 * pause, SHORTEST_PAUSE), least(most(LONG_PAUSE, 64 * spent), LONGEST_PAUSE));
}

void pe_governor_begin(pe_governor *g, int threads) { *g = (pe_governor){.threads = threads, .level = threads}; }

int pe_governor_choose(pe_governor *g, int64_t now) {
    if (g->level < g->threads && now >= g->retry) {
        g->level = g->level * 2 < g->threads ? g->level * 2 : g->threads;
        g->elapsed = g->worked = g->missed = 0;
        g->proven = now + g->pause / 4;
        g->retry = now + g->pause;
    }
    return g->level;
}

/* A window that is full has been good, or poor. */
static void judge(pe_governor *g, int64_t now, bool poor) {
    const int64_t spent = most(g->elapsed, g->missed);
    g->elapsed = g->worked = g->missed = 0;
    g->poor = poor ? g->poor + 1 : 0;
    if (poor && (g->proven > 0 || g->poor == POOR_WINDOWS)) {
        g->poor = 0;
        g->level /= 2;
        g->pause = longer(g->pause, spent);
        g->retry = now + g->pause;
        g->proven = 0;
    } else if (g->proven > 0 && now >= g->proven) {
        g->proven = g->pause = 0;
        g->retry = now;
    }
}

void pe_governor_learn(pe_governor *g, int64_t now, int threads, int64_t elapsed, int64_t waited) {
    if (g->level == 1) return;
    if (threads < g->level) { /* says nothing of a team; but waiting for it in vain must end */
        g->missed += waited;
        if (g->missed >= WINDOW) judge(g, now, true);
        return;
    }
    g->elapsed += elapsed;
    g->worked += threads * elapsed - waited;
    if (g->elapsed >= WINDOW) judge(g, now, g->worked * 100 < g->elapsed * LEAST_PERCENT * threads);
}
