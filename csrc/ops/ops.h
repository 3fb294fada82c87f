/* The operations of a step. Every thread of the team calls the same op; the op splits its work with pe_take, and a
   barrier lies between two ops (the caller's, so that the model shows its phases).

   Rows of activations have two forms. The float32 form is always there; the int8 form, which products with rounded
   weights read, is made by pe_prepare right after a row was written, while it is in the first-level cache. */
#ifndef PE_OPS_OPS_H
#define PE_OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/intmath.h"
#include "base/team.h"
#include "kernels/kernels.h"

typedef enum pe_weight_type { PE_WEIGHT_F32, PE_WEIGHT_Q8, PE_WEIGHT_Q8S, PE_WEIGHT_Q4 } pe_weight_type;

/* A linear layer or an embedding table: W [n, k] packed, and what belongs to its rows. */
typedef struct pe_linear {
    pe_weight_type type;
    int64_t n, k;
    int64_t group;               /* int4 only, as all of these where pe_product says so */
    const void *w;               /* see pe_product */
    const float *scale;          /* [N16] */
    const int32_t *sum;          /* [N16] */
    const uint16_t *group_scale; /* [N/16][groups][16] */
    const uint8_t *group_zero;   /* the same, or NULL */
    const int32_t *line_start;   /* [N/16 + 1], sparse only */
    const uint16_t *line_quad;   /* [lines], sparse only */
    const float *bias;           /* [N16] or NULL */
    const struct pe_linear *next; /* whose weights a step reads after these, or NULL: they are prefetched */
} pe_linear;

/* Columns as they are packed. */
static inline int64_t pe_packed_k(const pe_linear *linear) {
    return pe_round_up(linear->k, linear->type == PE_WEIGHT_Q4 ? linear->group : PE_QUAD);
}

/* Where a block's weights start, from those of block 0. */
static inline int64_t pe_block_offset(const pe_linear *linear, int64_t block) {
    const int64_t weights = block * PE_BLOCK * pe_packed_k(linear);
    switch (linear->type) {
    case PE_WEIGHT_F32: return weights * (int64_t)sizeof(float);
    case PE_WEIGHT_Q8S: return linear->line_start[block] * (int64_t)(PE_BLOCK * PE_QUAD);
    case PE_WEIGHT_Q4: return weights / 2;
    default: return weights;
    }
}

static inline const void *pe_block_at(const pe_linear *linear, int64_t block) {
    return (const uint8_t *)linear->w + pe_block_offset(linear, block);
}

/* The channels from a block on; not of sparse weights. */
static inline pe_linear pe_linear_from(const pe_linear *linear, int64_t block) {
    const int64_t groups = linear->type == PE_WEIGHT_Q4 ? pe_packed_k(linear) / linear->group : 0;
    pe_linear part = *linear;
    part.n -= block * PE_BLOCK;
    part.w = pe_block_at(linear, block);
    if (part.scale) part.scale += block * PE_BLOCK;
    if (part.sum) part.sum += block * PE_BLOCK;
    if (part.group_scale) part.group_scale += block * groups * PE_BLOCK;
    if (part.group_zero) part.group_zero += block * groups * PE_BLOCK;
    if (part.bias) part.bias += block * PE_BLOCK;
    return part;
}

typedef struct pe_norm {
    const float *weight, *bias; /* [width] */
} pe_norm;

/* Rows as a product reads them. */
typedef struct pe_rows {
    float *x;      /* [rows, ld] */
    int64_t ld;
    int8_t *q;     /* [rows, ldq]; NULL where no weights of the model are rounded */
    int64_t ldq;
    float *scale;  /* [rows] */
} pe_rows;

/* The rows from `row` on. */
static inline pe_rows pe_rows_from(const pe_rows *rows, int64_t row) {
    pe_rows part = *rows;
    part.x += row * rows->ld;
    if (part.q) {
        part.q += row * rows->ldq;
        part.scale += row;
    }
    return part;
}

/* Where a row's keys and values go and come from. */
typedef struct pe_row {
    int32_t token;
    int32_t position;             /* of the token in its sequence or segment */
    int32_t n_keys;               /* keys that its self-attention sees */
    int32_t n_memory;             /* keys that its cross-attention sees */
    uint8_t *const *pages;        /* of its sequence or segment */
    uint8_t *const *memory_pages;
} pe_row;

typedef enum pe_kv_type { PE_KV_F32, PE_KV_Q8 } pe_kv_type;

/* How a page is divided: [heads][head_bytes], the heads of all layers one after another. */
typedef struct pe_kv_layout {
    pe_kv_type type;
    int64_t head_dim;
    int64_t head_bytes, page_bytes;
} pe_kv_layout;

pe_kv_layout pe_kv_layout_of(pe_kv_type type, int64_t heads, int64_t head_dim);

/* A layer's heads, and where they lie in a page. */
typedef struct pe_heads {
    int64_t n;
    int64_t first; /* heads of the layers before it */
} pe_heads;

/* Makes the int8 form of rows->x[row], k columns, where rows have one. Not an op: one thread, one row. */
void pe_prepare(const pe_kernels *kernels, const pe_rows *rows, int64_t row, int64_t k);

/* One product: blocks [block0, block1) of a linear layer on rows [row, row + n), whatever its type. What an op adds to
   it (activation, residual, what is read ahead) it sets in `product`; y is that of the layer's first channel. */
void pe_multiply(const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows, int64_t row, int64_t n,
                 pe_product *product, int64_t block0, int64_t block1);

/* rows->x[r] = table[token] * scale + positions[position], prepared. positions: [max_positions, width]. */
void pe_op_embed(pe_thread *thread, const pe_kernels *kernels, const pe_linear *table, float scale,
                 const float *positions, const pe_row *row, int64_t n_rows, const pe_rows *rows);

/* y = activate(W x + b) + residual. ldy is at least n rounded up to 16, and so is the residual's row length. */
void pe_op_linear(pe_thread *thread, const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows,
                  int64_t n_rows, pe_activation activation, const float *residual, int64_t ldr, float *y, int64_t ldy);

/* rows->x[r] = norm(x[r]), prepared. */
void pe_op_norm(pe_thread *thread, const pe_kernels *kernels, const pe_norm *norm, float eps, const float *x,
                int64_t ldx, int64_t width, int64_t n_rows, const pe_rows *rows);

/* Prepares k columns of rows that a product has written. */
void pe_op_prepare(pe_thread *thread, const pe_kernels *kernels, const pe_rows *rows, int64_t n_rows, int64_t k);

/* Which pages an attention concerns. */
typedef enum pe_side { PE_SELF, PE_MEMORY } pe_side;

/* Stores k[r], v[r] [heads * head_dim] at the row's position of one layer: of its own pages, or, for rows of a
   segment that was encoded, of the memory's. */
void pe_op_kv_append(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, pe_heads heads,
                     pe_side side, const pe_row *row, int64_t n_rows, const float *k, const float *v, int64_t ld);

/* Where an attention's queries lie, and its keys and values if they are yet to be stored. */
typedef struct pe_attention {
    pe_side side;
    const float *q;     /* [rows, ld] */
    const float *k, *v; /* [rows, ld]; NULL if pe_op_kv_append has stored them */
    int64_t ld;
    bool split_heads;   /* a task is one head, not one row: for few rows. The caller prepares the rows then */
} pe_attention;

/* rows->x[r] = attention of q[r] over the row's keys, all heads, prepared. Storing keys and values on the way needs
   rows of as many sequences, since a row reads those of the rows before it. */
void pe_op_attend(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, pe_heads heads,
                  const pe_attention *attention, const pe_row *row, int64_t n_rows, const pe_rows *rows);

/* What the last product is asked for, a row, and where the answers go. */
typedef struct pe_logits_request {
    int64_t n_rows;
    int64_t top_k;                   /* candidates a row */
    const int32_t *exclude_offsets;  /* [n_rows + 1] */
    const int32_t *exclude_ids;      /* ascending and unique within a row */
    double *log_normalizer;          /* [n_rows] log of the sum of e^logit over the vocabulary */
    int32_t *top_ids;                /* [n_rows, top_k] largest logits first, ties: lower id first; -1 where too few */
    float *top_logits;               /* [n_rows, top_k] */
    float *excluded_logits;          /* [exclude_offsets[n_rows]] */
    float *logits;                   /* [n_rows, vocabulary] or NULL */
} pe_logits_request;

/* Working memory of pe_op_logits. */
typedef struct pe_logits_scratch {
    float *tile;          /* [threads][PE_LOGIT_ROWS][PE_LOGIT_CHUNK] */
    float *max, *sum;     /* [rows][chunks] of each chunk of the vocabulary */
    float *values;        /* [threads][rows][top_k] best so far, descending */
    int32_t *ids;         /* [threads][rows][top_k] */
    int32_t *counts;      /* [threads][rows] */
    int32_t *indices;     /* [threads][PE_LOGIT_CHUNK] */
} pe_logits_scratch;

enum {
    PE_LOGIT_CHUNK = 1024, /* columns between two merges of the normalizer: fixed, so that its sum is */
    PE_LOGIT_ROWS = 48,
};

/* The last product, its normalizer and its candidates in one pass; the logits never leave the cache. Two phases: the
   caller puts a barrier between pe_op_logits and pe_op_logits_merge. */
void pe_op_logits(pe_thread *thread, const pe_kernels *kernels, const pe_linear *output, const pe_rows *rows,
                  const pe_logits_request *request, const pe_logits_scratch *scratch);
void pe_op_logits_merge(pe_thread *thread, int64_t vocabulary, const pe_logits_request *request,
                        const pe_logits_scratch *scratch);

/* The ids that a row may take, and where their logits lie in it. */
typedef struct pe_list {
    int32_t *ids;   /* [n] ascending */
    int32_t *slots; /* [n] */
    int64_t n;      /* 0: no list, the row may take any id */
} pe_list;

/* Working memory of pe_op_logits_listed. */
typedef struct pe_listed_scratch {
    float *logits;         /* [rows, ld] by slot, as pe_op_linear has written them */
    int64_t ld;
    const pe_list **lists; /* [rows] */
    float *gathered;       /* [threads][PE_LOGIT_CHUNK] */
    int32_t *indices;      /* [threads][PE_LOGIT_CHUNK] */
} pe_listed_scratch;

/* What pe_op_logits and its merge answer, with each row's list in place of the vocabulary; an excluded id that is not
   on the list has a logit of minus infinity. Sums go over chunks of the list, whatever lies in other slots. */
void pe_op_logits_listed(pe_thread *thread, const pe_kernels *kernels, const pe_logits_request *request,
                         const pe_listed_scratch *scratch);

#endif
