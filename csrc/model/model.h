/* A Transformer's shape and weights: an encoder and a decoder, normalised after each sublayer (Vaswani et al., 2017).
   The structs point into memory that Python owns and keeps alive; after loading nothing here changes. */
#ifndef PE_MODEL_MODEL_H
#define PE_MODEL_MODEL_H

#include "ops/ops.h"

typedef struct pe_stack {
    int64_t layers, head_width;
} pe_stack;

typedef struct pe_config {
    int64_t width;
    pe_stack encoder, decoder;
    int64_t source_vocab, target_vocab;
    int64_t max_positions;
    pe_activation activation;
    float embedding_scale;
    float norm_epsilon;
} pe_config;

/* `self`, `cross`: heads * head_width of the attention; `ffn`: of the layer. */
typedef struct pe_encoder_layer {
    pe_heads self_heads;
    pe_linear self_qkv;    /* [3 self, width] queries, keys, values */
    pe_linear self_output; /* [width, self] */
    pe_norm self_norm;
    pe_linear ffn_up;   /* [ffn, width] */
    pe_linear ffn_down; /* [width, ffn] */
    pe_norm ffn_norm;
} pe_encoder_layer;

typedef struct pe_decoder_layer {
    pe_heads self_heads, cross_heads;
    pe_linear self_qkv;
    pe_linear self_output;
    pe_norm self_norm;
    pe_linear cross_q;      /* [cross, width] */
    pe_linear cross_kv;     /* [2 cross, width] keys, values of the memory */
    pe_linear cross_output; /* [width, cross] */
    pe_norm cross_norm;
    pe_linear ffn_up;
    pe_linear ffn_down;
    pe_norm ffn_norm;
} pe_decoder_layer;

typedef struct pe_model {
    pe_config config;
    pe_kernels kernels;
    bool int8_rows; /* some weights are rounded: their products read rows in int8 */
    pe_kv_type kv;
    const float *source_positions, *target_positions; /* [max_positions, width] */
    pe_linear source_embed;  /* [source_vocab, width] */
    pe_linear target_embed;  /* [target_vocab, width] */
    pe_linear output;        /* [target_vocab, width] and its bias */
    pe_encoder_layer *encoder; /* [config.encoder.layers] */
    pe_decoder_layer *decoder; /* [config.decoder.layers] */
} pe_model;

/* The layer arrays; zeroed. */
pe_status pe_model_allocate(pe_model *model);
void pe_model_free(pe_model *model);

/* Notes at each linear layer which one a step reads after it; once the weights are in place. */
void pe_model_link(pe_model *model);

#endif
