/* Which token is drawn from the scores of a row: those that the filters keep, in transformers' order, and one of them
   by a number that depends on nothing but a seed, a sample and a position. All sums have one order, so that the same
   number takes the same token in any batch and on every instruction set. */
#ifndef PE_SEARCH_DRAW_H
#define PE_SEARCH_DRAW_H

#include <stdint.h>

/* Filters, each over what the one before it keeps; at least one token stays. */
typedef struct pe_filters {
    double temperature; /* more than 0; scores are divided by it */
    int64_t top_k;      /* the best so many; 0: all */
    double top_p;       /* the best that have this probability together; 1: all */
    double min_p;       /* those at least as probable as this share of the best one; 0: all */
    double typical_p;   /* those nearest to the entropy that have this probability together; 1: all */
} pe_filters;

typedef struct pe_choice {
    double score;  /* over temperature, less the best one */
    double weight; /* e**score */
    int32_t place;
    float key;     /* of typical_p: how near to the entropy, negative */
} pe_choice;

/* The tokens of values [n] that may be drawn, minus infinity and NaN never, and beside infinity nothing else: how many
   there are, in the order in which
   `pe_draw` goes through them, with the sum of their weights. Of equal ones the first is the better one. There must be
   room for n. */
int64_t pe_keep(const pe_filters *filters, const double *values, int64_t n, pe_choice *kept, double *total);

/* The place of the token that a number in [0, 1) falls on; `n` at least 1. */
int32_t pe_draw(const pe_choice *kept, int64_t n, double total, double number);

/* Moves the `k` best of n choices to the front, best first: how many there are. */
int64_t pe_best(pe_choice *kept, int64_t n, int64_t k);

/* A number in [0, 1) with 53 bits: Philox 4x32-10 (Salmon and others, Parallel random numbers, 2011) with the key
   `seed` and the counter {position, sample, 0, 0}. */
double pe_uniform(uint64_t seed, uint32_t sample, uint32_t position);

#endif
