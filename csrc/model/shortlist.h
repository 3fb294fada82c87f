/* The output layer of a session whose memories may each take only the ids of a list.

   The product runs over the union of the lists of the live memories: their rows of the output layer, gathered into
   slots. A slot counts the lists that hold its id. One that no list holds any more keeps its id and its weights until
   the slot is needed, so that what most sentences may take is gathered once; a new list takes free slots lowest
   first, so that the product stays short:

       slot    0    1    2    3    4    5          rows.n = 5: the product reads slots 0 to 4
       id     17    4  902  300   23    -
       lists   3    1    0    2    1    0          902 is ready, should it come again; else its slot is the next taken

   A logit does not depend on its slot: sums run over K in a fixed order. */
#ifndef PE_MODEL_SHORTLIST_H
#define PE_MODEL_SHORTLIST_H

#include "base/arena.h"
#include "ops/ops.h"

/* What there is of each slot, in one arena. */
typedef struct pe_slots {
    pe_arena arena;
    int64_t capacity; /* a multiple of PE_BLOCK */
    uint8_t *w;       /* [capacity / 16][lines][16][4 bytes]: 4 weights of int8, 8 of int4, 1 of float32 */
    float *scale, *bias;
    int32_t *sum;
    uint16_t *group_scale; /* [capacity / 16][groups][16] */
    uint8_t *group_zero;   /* the same */
    int32_t *ids;     /* [capacity] -1: none yet */
    int32_t *holders; /* [capacity] lists */
    int32_t *fresh;   /* [n_fresh] ascending: slots that the next step gathers */
} pe_slots;

typedef struct pe_shortlist {
    const pe_linear *output;
    pe_linear rows;      /* the union, as pe_op_linear reads it */
    pe_slots slots;
    int64_t held;        /* slots that some list holds */
    int64_t bound;       /* see pe_shortlist_bound */
    int64_t lowest_free; /* no slot below it is free */
    int64_t n_fresh;
    int32_t *slot_of;    /* [vocabulary] -1: none */
    int64_t n_lists;
    pe_list *lists;      /* [n_lists] of the memories */
    pe_list *coming;     /* [n_coming] memory for lists that are to be added */
    int64_t n_coming;
} pe_shortlist;

/* Takes no memory until the first list comes. */
void pe_shortlist_create(pe_shortlist *shortlist, const pe_linear *output, int64_t n_memories);
void pe_shortlist_destroy(pe_shortlist *shortlist);

/* Takes all memory that adding `n` lists needs: list i has ids [offsets[i], offsets[i + 1]), at least one, ascending
   and in range. */
pe_status pe_shortlist_reserve(pe_shortlist *shortlist, int64_t n, const int32_t *offsets, const int32_t *ids);

/* Slots that the union may have once those lists are added, at most. */
int64_t pe_shortlist_bound(const pe_shortlist *shortlist);

/* Gives a memory that has none the i-th of the lists that memory was taken for. */
void pe_shortlist_add(pe_shortlist *shortlist, int64_t memory, int64_t i, const int32_t *ids);

/* Takes a memory's list away, if it has one. */
void pe_shortlist_drop(pe_shortlist *shortlist, int64_t memory);

/* The list of a memory; n is 0 if it has none. */
const pe_list *pe_shortlist_of(const pe_shortlist *shortlist, int64_t memory);

/* Run by every thread of the team, in a phase of its own: gathers the fresh slots. The caller then sets n_fresh to 0,
   when the step is over. */
void pe_shortlist_gather(pe_thread *thread, const pe_shortlist *shortlist);

#endif
