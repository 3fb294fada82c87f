/* Beam search after a step: which continuations end, which go on, and what becomes of the sequences. Transformers
   5.23.0's `_beam_search`, for every sentence as if it were alone; pyengine/decoding/beam.py says more. */
#ifndef PE_SEARCH_BEAM_H
#define PE_SEARCH_BEAM_H

#include <stdbool.h>
#include <stdint.h>

typedef enum pe_early_stopping { PE_STOP_LIKELY, PE_STOP_EARLY, PE_STOP_NEVER } pe_early_stopping;

typedef struct pe_beam_search {
    int64_t beams;              /* B */
    const int32_t *end;         /* [n_end] end tokens */
    int64_t n_end;
    double never;               /* sum of what does not exist: below all that does, but finite */
    pe_early_stopping early_stopping;
    bool flattering;            /* "never", and a longer hypothesis scores better: judge a beam by its longest form */
    double length_penalty;      /* a score is a sum over length**length_penalty */

    /* Of slot s, at s times the shape given. */
    double *scores;             /* [B] sums of log-probabilities of the running beams, best first */
    int32_t *last;              /* [B] the last token of each beam */
    int32_t *sequences;         /* [B] */
    int32_t *length;            /* tokens of a beam */
    const int32_t *prompt;      /* how many of these were given */
    const int32_t *maximum;     /* tokens of a hypothesis at most */
    bool *ended;                /* [B] which hypotheses there are, best first */
    double *ended_scores;       /* [B] of those */
    int32_t *ended_lengths;     /* [B] 0 where there is none */
    int32_t *const *histories;  /* tokens from the start token on: [B][capacity] of the running beams, then of those */
    const int64_t *capacity;

    bool *used;                 /* [n_used] sequence ids in use */
    int64_t n_used;

    /* Working memory. */
    double *totals;             /* [B * width] */
    double *running;            /* [(1 + n_end) B] */
    int32_t *order, *chosen;    /* [(1 + n_end) B] each */
    int32_t *held;              /* [B] */
} pe_beam_search;

/* A row's candidates: a row for each beam, or one that all share where the sentence is new. */
typedef struct pe_candidates {
    int64_t width;
    const int32_t *ids;   /* [rows, width] */
    const double *values; /* [rows, width] log-probabilities after the processors */
    bool shared;
} pe_candidates;

/* What happens to sequences, filled sentence by sentence: room for B entries a sentence each. */
typedef struct pe_beam_changes {
    int32_t *forks; /* [n_forks][2] parent, child */
    int64_t n_forks;
    int32_t *freed; /* [n_freed]; they may be read in the next step's forks, and are in use until the caller says */
    int64_t n_freed;
} pe_beam_changes;

/* Goes on with the sentence in `slot`, or returns true: it is done, and its beams are left as they were. Ties: the
   lower beam, then the candidate that comes first. There must be room for one more token in the slot's history. */
bool pe_beam_advance(const pe_beam_search *search, int64_t slot, const pe_candidates *candidates,
                     pe_beam_changes *changes);

#endif
