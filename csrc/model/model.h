/* A Transformer's shape and weights: an encoder, a decoder, or both. Families differ by what stands here, never by
   code. The structs point into memory that Python owns and keeps alive; after loading nothing here changes. */
#ifndef PE_MODEL_MODEL_H
#define PE_MODEL_MODEL_H

#include "ops/ops.h"

/* Where norms stand; see the picture in model/transformer.c. */
typedef enum pe_placement { PE_POST, PE_PRE, PE_PARALLEL } pe_placement;

/* What comes out of a sublayer and how it goes on. */
typedef struct pe_sublayer {
    pe_linear output;     /* [width, K] */
    pe_norm norm;         /* its own: before it, or behind the sum */
    pe_norm after;        /* of its output, before that is added; weight NULL: none */
    pe_nexts nexts;       /* which norms make what is read next: pe_model_link */
} pe_sublayer;

/* `self`, `kv`: heads.n and heads.kv times heads.width. */
typedef struct pe_attention {
    pe_sublayer sub;
    pe_heads heads;
    pe_linear input;  /* [self + 2 kv, width] queries, keys, values; of a cross-attention [self, width] queries */
    pe_linear memory; /* of a cross-attention [2 kv, width] keys, values of what the encoder has made */
} pe_attention;

typedef struct pe_feed_forward {
    pe_sublayer sub;
    pe_linear up; /* [ffn, width]; gated [2 ffn16, width], blocks of 16 channels of gate and up in turn */
    pe_activation activation;
    bool gated;
} pe_feed_forward;

typedef struct pe_layer {
    pe_attention self, cross; /* cross.input.n 0: there is none */
    pe_feed_forward ffn;
} pe_layer;

typedef struct pe_stack {
    int64_t n, max_positions; /* n 0: no such stack */
    int64_t vocab;
    pe_layer *layers;
    pe_placement placement;
    pe_norm_kind norm_kind;
    float epsilon;
    pe_embedding embedding;
    pe_norm final;      /* behind the last layer; weight NULL: none */
    pe_nexts nexts;     /* behind the embedding */
    pe_biases biases;   /* of all self-attentions */
} pe_stack;

/* Which of a segment's rows a head reads: each by itself, one of them, or their mean. */
typedef enum pe_pool { PE_POOL_NONE, PE_POOL_FIRST, PE_POOL_LAST, PE_POOL_MEAN } pe_pool;

/* What is made of the encoder's states: pool, dense, activation, norm, out. */
typedef struct pe_head {
    pe_pool pool;
    pe_linear dense; /* [K, width]; n 0: none, and K is the width */
    pe_activation activation;
    pe_norm norm;    /* [K], of the encoder's kind; weight NULL: none */
    pe_linear out;   /* [outputs, K]; n 0: none */
} pe_head;

typedef struct pe_model {
    pe_kernels kernels;
    bool hadamard;  /* rows are multiplied by a Hadamard matrix before each product; never of an encoder */
    bool int8_rows; /* some weights are rounded: their products read rows in int8 */
    pe_kv_type kv;
    int64_t width;
    pe_stack encoder, decoder;
    pe_ropes ropes;
    pe_linear output; /* [decoder.vocab, embedding width] and its bias; n 0: no decoder, no output */
    float logit_soft_cap; /* 0: none */
    int64_t n_heads;
    pe_head *heads; /* of the encoder */

    /* Self-attentions of the decoder whose windows are alike share the pages of a group; pe_model_link. */
    int n_groups;
    pe_page_group groups[PE_MAX_GROUPS];
    int64_t memory_bytes;  /* of a page of a memory: keys and values of all cross-attentions */
    int64_t encoder_bytes; /* of a page of a segment, which holds one layer at a time */
} pe_model;

/* The arrays of layers and heads, zeroed; `n` of both stacks and n_heads are set. */
pe_status pe_model_allocate(pe_model *model);
void pe_model_free(pe_model *model);

/* Once all is in its place: notes at each linear layer which one a step reads after it, at each sublayer which norms
   follow, and at each attention where its heads lie in a page. PE_BAD_ARGUMENT: more than PE_MAX_GROUPS windows. */
pe_status pe_model_link(pe_model *model);

#endif
