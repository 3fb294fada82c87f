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

typedef enum pe_weight_type {
    PE_WEIGHT_F32,
    PE_WEIGHT_BF16,
    PE_WEIGHT_F16,
    PE_WEIGHT_Q8,
    PE_WEIGHT_Q8S,
    PE_WEIGHT_Q4,
} pe_weight_type;

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

/* Whether its products read rows in int8. */
static inline bool pe_reads_int8(const pe_linear *linear) { return linear->type >= PE_WEIGHT_Q8; }

/* Columns as they are packed. */
static inline int64_t pe_packed_k(const pe_linear *linear) {
    return pe_round_up(linear->k, linear->type == PE_WEIGHT_Q4 ? linear->group : PE_QUAD);
}

/* Where a block's weights start, from those of block 0. */
static inline int64_t pe_block_offset(const pe_linear *linear, int64_t block) {
    const int64_t weights = block * PE_BLOCK * pe_packed_k(linear);
    switch (linear->type) {
    case PE_WEIGHT_F32: return weights * (int64_t)sizeof(float);
    case PE_WEIGHT_BF16:
    case PE_WEIGHT_F16: return weights * (int64_t)sizeof(uint16_t);
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

typedef enum pe_norm_kind { PE_LAYER_NORM, PE_RMS_NORM } pe_norm_kind;

typedef struct pe_norm {
    const float *weight, *bias; /* [width]; weight NULL: no norm; a root mean square has no bias */
} pe_norm;

/* Rows as a product reads them. */
typedef struct pe_rows {
    float *x;      /* [rows, ld] */
    int64_t ld;
    int8_t *q;     /* [rows, ldq]; NULL where no weights of the model are rounded */
    int64_t ldq;
    float *scale;  /* [rows] */
    bool hadamard; /* they are multiplied by a Hadamard matrix, as the weights that they meet are */
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

/* A token's place: what it is, and where its keys and values go and come from. */
typedef struct pe_row {
    int32_t token;
    int32_t position; /* of the token in its sequence or segment */
    int32_t type;
    int32_t n_keys;   /* keys that its self-attention sees, windows aside */
    int32_t n_memory; /* keys that its cross-attention sees */
    int32_t rope_set; /* which it takes of ropes that have several */
    int32_t stride;   /* from the pages of a group to those of the next */
    uint8_t *const *pages; /* [groups][stride] of its sequence or segment */
    uint8_t *const *memory_pages;
} pe_row;

typedef enum pe_kv_type { PE_KV_F32, PE_KV_Q8 } pe_kv_type;

/* Bytes of a page that one key-value head takes. */
int64_t pe_head_bytes(pe_kv_type type, int64_t width);

/* Windows as different as these; PE_ALL: no window. */
enum { PE_MAX_GROUPS = 8, PE_ALL = INT32_MAX };

typedef struct pe_page_group {
    int64_t page_bytes;
    int32_t before; /* keys before a row's own that it still sees: pages before those are given back */
} pe_page_group;

/* The heads of an attention, and where they lie in a page. */
typedef struct pe_heads {
    int64_t n, kv, width;  /* n / kv query heads read each key-value head */
    int64_t offset;        /* bytes from a page's start to the first key-value head */
    int group;             /* of pages; 0 for memories and segments */
    int32_t before, after; /* keys that are seen beside the own one; PE_ALL: all */
    int rope;              /* of pe_ropes, or -1 */
    float scale, soft_cap; /* soft_cap 0: none */
    bool hadamard;         /* queries and keys are multiplied by a Hadamard matrix; the scale makes up for its size */
    const float *q_norm, *k_norm; /* [width] weights of an RMS norm of each head, or NULL */
    float epsilon;                /* of these */
} pe_heads;

/* Added to the scores of a query at i for the key at j, of all self-attentions of a stack. */
typedef struct pe_biases {
    const float *relative; /* [heads][2 reach + 33] at distances -reach - 16 .. reach + 16, or NULL */
    int64_t reach;
    const float *slopes; /* [heads] times j - i, or NULL */
} pe_biases;

/* Rotary positions. A row has its cosines and sines of all ropes: `turns` floats, those of rope i from offset[i] on,
   dims[i] / 2 cosines and as many sines. Ropes whose frequencies depend on a sequence's length have several sets of
   them, all of these as many, and a row says which one it takes. */
enum { PE_MAX_ROPES = 8 };
typedef struct pe_ropes {
    int n;
    const float *frequencies[PE_MAX_ROPES]; /* [sets, dims / 2] */
    int sets[PE_MAX_ROPES];
    int64_t dims[PE_MAX_ROPES], offset[PE_MAX_ROPES];
    float factor[PE_MAX_ROPES];
    int64_t turns;
} pe_ropes;

/* How many sets rows choose from. */
static inline int pe_rope_sets(const pe_ropes *ropes) {
    int sets = 1;
    for (int i = 0; i < ropes->n; i++)
        if (ropes->sets[i] > 1) sets = sets > 1 && sets < ropes->sets[i] ? sets : ropes->sets[i];
    return sets;
}

/* Which norms make what is read next of the residual stream. NULL: it is read as it is, or there is none beside. */
typedef struct pe_nexts {
    const pe_norm *in, *beside;
    bool later; /* another sublayer adds to the stream first: nothing is read yet */
} pe_nexts;

typedef struct pe_embedding {
    pe_linear table, project; /* [vocab, K], [width, K]; project.n 0: K is the width */
    const float *positions;   /* [max_positions, K], or NULL */
    const float *types;       /* [n_types, K], or NULL */
    int64_t n_types;
    pe_norm norm;             /* [K], weight NULL: none */
    float scale;
    bool hadamard;            /* rows of the table are multiplied by a Hadamard matrix, which gives the vectors */
} pe_embedding;

/* Multiplies k columns of rows->x[row] by a Hadamard matrix and makes their int8 form, each where rows have it. Not an
   op: one thread, one row, once. */
void pe_prepare(const pe_kernels *kernels, const pe_rows *rows, int64_t row, int64_t k);

/* y = norm(x), which may be the same. Not an op. */
void pe_norm_row(const pe_kernels *kernels, pe_norm_kind kind, float epsilon, int64_t width, const pe_norm *norm,
                 const float *x, float *y);

/* x [K] = norm(the row's vector of the table * scale + its position + its type). Not an op. */
void pe_embed_row(const pe_kernels *kernels, pe_norm_kind kind, float epsilon, const pe_embedding *embedding,
                  const pe_row *row, float *x);

/* One product: blocks [block0, block1) of a linear layer on rows [row, row + n), whatever its type. What an op adds to
   it (activation, residual, what is read ahead) it sets in `product`; y is that of the layer's first channel. */
void pe_multiply(const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows, int64_t row, int64_t n,
                 pe_product *product, int64_t block0, int64_t block1);

/* The residual stream and what sublayers read of it. */
typedef struct pe_stream_rows {
    float *x;            /* [rows, in.ld] */
    pe_rows in, beside;  /* beside.x NULL: there is none */
    pe_norm_kind kind;
    float epsilon;
    int64_t width;
} pe_stream_rows;

/* The rows' embeddings, prepared: what a projection reads. */
void pe_op_embed_narrow(pe_thread *thread, const pe_kernels *kernels, pe_norm_kind kind, float epsilon,
                        const pe_embedding *embedding, const pe_row *row, int64_t n_rows, const pe_rows *y);

/* The rows' embeddings, or, with `projected`, what is there already, as the stream, and what is read next of it. */
void pe_op_embed(pe_thread *thread, const pe_kernels *kernels, const pe_embedding *embedding, const pe_row *row,
                 int64_t n_rows, bool projected, pe_nexts nexts, const pe_stream_rows *stream);

/* Cosines and sines of the rows' positions: turns [rows, ropes->turns]. */
void pe_op_angles(pe_thread *thread, const pe_ropes *ropes, const pe_row *row, int64_t n_rows, float *turns);

/* y = activate(W x + b) + residual. ldy is at least n rounded up to 16, and so is the residual's row length. */
void pe_op_linear(pe_thread *thread, const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows,
                  int64_t n_rows, pe_activation activation, const float *residual, int64_t ldr, float *y, int64_t ldy);

/* What is read next of the stream, prepared; first, where `after` has a weight, x += after(y). y: [rows, ldy]. */
void pe_op_norm(pe_thread *thread, const pe_kernels *kernels, const pe_norm *after, const float *y, int64_t ldy,
                pe_nexts nexts, const pe_stream_rows *stream, int64_t n_rows);

/* rows->x[r] = activate(gate) * up of blocks of 16 columns in turn, n columns, prepared. */
void pe_op_gate(pe_thread *thread, const pe_kernels *kernels, pe_activation activation, int64_t n, const pe_rows *rows,
                int64_t n_rows);

/* Prepares k columns of rows that a product has written. */
void pe_op_prepare(pe_thread *thread, const pe_kernels *kernels, const pe_rows *rows, int64_t n_rows, int64_t k);

/* Which pages an attention concerns. */
typedef enum pe_side { PE_SELF, PE_MEMORY } pe_side;

/* An attention over rows: what it reads and where that lies. */
typedef struct pe_attend_job {
    pe_kv_type kv;
    pe_side side;
    const pe_heads *heads;
    const pe_biases *biases;   /* or NULL */
    const pe_ropes *ropes;
    const float *turns;        /* [rows, ropes->turns] */
    float *q, *k, *v;          /* [rows, ld]; queries and keys are normed and turned in place. q NULL: only stored */
    int64_t ld;
    bool store;                /* keys and values are stored by pe_op_attend, a row's before it reads them */
    bool split_heads;          /* threads share out heads, too: for few rows, which the caller prepares */
} pe_attend_job;

/* Norms and turns queries and keys, and stores keys and values at the row's position: of its own pages, or, for rows of
   a segment that was encoded, of the memory's. */
void pe_op_store(pe_thread *thread, const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row,
                 int64_t n_rows);

/* rows->x[r] = attention of q[r] over the row's keys, all heads, prepared. Adjacent rows that share pages (of a prompt,
   of a segment, of the beams over a memory) go through them together, which changes no byte. Storing keys and values on
   the way needs rows of as many sequences, since a row reads those of the rows before it. */
void pe_op_attend(pe_thread *thread, const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row,
                  int64_t n_rows, const pe_rows *rows);

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
    float soft_cap;                  /* of all logits; 0: none */
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
