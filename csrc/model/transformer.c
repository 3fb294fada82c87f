/* The forward pass: what the papers draw, one line an op, a barrier between two. */
#include <string.h>

#include "model/session.h"

/* One residual stream on its way through a stack. */
typedef struct stream {
    const pe_session *session;
    const pe_kernels *kernels;
    pe_weight_type type;
    int64_t width;
    int64_t n;         /* rows */
    const pe_row *row; /* [n] */
} stream;

/* hidden = norm(hidden + W context) */
static void add_and_norm(pe_thread *thread, const stream *s, const pe_linear *output, const pe_rows *from,
                         const pe_norm *norm) {
    const pe_session *session = s->session;
    const pe_rows *hidden = &session->hidden;
    pe_op_linear(thread, s->kernels, output, from, s->n, PE_IDENTITY, hidden->x, hidden->ld, session->sum, hidden->ld);
    pe_barrier(thread);
    pe_op_norm(thread, s->kernels, norm, session->model->config.norm_epsilon, s->type, session->sum, hidden->ld,
               s->width, s->n, hidden);
    pe_barrier(thread);
}

static void self_attention(pe_thread *thread, const stream *s, const pe_kv_layout *layout, int64_t layer,
                           const pe_linear *qkv, const pe_linear *output, const pe_norm *norm) {
    const pe_session *session = s->session;
    const pe_rows *wide = &session->wide, *context = &session->context;
    const float *q = wide->x, *k = q + s->width, *v = k + s->width;
    pe_op_linear(thread, s->kernels, qkv, &session->hidden, s->n, PE_IDENTITY, NULL, 0, wide->x, wide->ld);
    pe_barrier(thread);
    pe_op_kv_append(thread, s->kernels, layout, layer, PE_SELF, s->row, s->n, k, v, wide->ld);
    pe_barrier(thread);
    pe_op_attend(thread, s->kernels, layout, layer, PE_SELF, s->row, s->n, q, wide->ld, s->type, context);
    pe_barrier(thread);
    add_and_norm(thread, s, output, context, norm);
}

static void cross_attention(pe_thread *thread, const stream *s, const pe_kv_layout *layout, int64_t layer,
                            const pe_linear *query, const pe_linear *output, const pe_norm *norm) {
    const pe_session *session = s->session;
    const pe_rows *wide = &session->wide, *context = &session->context;
    pe_op_linear(thread, s->kernels, query, &session->hidden, s->n, PE_IDENTITY, NULL, 0, wide->x, wide->ld);
    pe_barrier(thread);
    pe_op_attend(thread, s->kernels, layout, layer, PE_MEMORY, s->row, s->n, wide->x, wide->ld, s->type, context);
    pe_barrier(thread);
    add_and_norm(thread, s, output, context, norm);
}

static void feed_forward(pe_thread *thread, const stream *s, const pe_linear *up, const pe_linear *down,
                         const pe_norm *norm) {
    const pe_session *session = s->session;
    const pe_rows *wide = &session->wide;
    pe_op_linear(thread, s->kernels, up, &session->hidden, s->n, session->model->config.activation, NULL, 0, wide->x,
                 wide->ld);
    pe_barrier(thread);
    if (s->type == PE_WEIGHT_Q8) {
        pe_op_prepare(thread, s->kernels, s->type, wide, s->n, down->k);
        pe_barrier(thread);
    }
    add_and_norm(thread, s, down, wide, norm);
}

static void encode(pe_thread *thread, const stream *s) {
    const pe_session *session = s->session;
    const pe_model *model = session->model;
    const pe_rows *hidden = &session->hidden, *wide = &session->wide;
    pe_op_embed(thread, s->kernels, &model->source_embed, model->config.embedding_scale, model->positions, s->row,
                s->n, hidden);
    pe_barrier(thread);
    for (int64_t i = 0; i < model->config.encoder.layers; i++) {
        const pe_encoder_layer *layer = &model->encoder[i];
        self_attention(thread, s, &session->encoder_layout, 0, &layer->self_qkv, &layer->self_output,
                       &layer->self_norm);
        feed_forward(thread, s, &layer->ffn_up, &layer->ffn_down, &layer->ffn_norm);
    }
    /* The memory: keys and values of every decoder layer's cross-attention. */
    for (int64_t i = 0; i < model->config.decoder.layers; i++) {
        const float *k = wide->x, *v = k + s->width;
        pe_op_linear(thread, s->kernels, &model->decoder[i].cross_kv, hidden, s->n, PE_IDENTITY, NULL, 0, wide->x,
                     wide->ld);
        pe_barrier(thread);
        pe_op_kv_append(thread, s->kernels, &session->cache.layout, i, PE_MEMORY, s->row, s->n, k, v, wide->ld);
        pe_barrier(thread);
    }
}

static void decode(pe_thread *thread, const stream *s) {
    const pe_session *session = s->session;
    const pe_model *model = session->model;
    const pe_kv_layout *layout = &session->cache.layout;
    pe_op_embed(thread, s->kernels, &model->target_embed, model->config.embedding_scale, model->positions, s->row,
                s->n, &session->hidden);
    pe_barrier(thread);
    for (int64_t i = 0; i < model->config.decoder.layers; i++) {
        const pe_decoder_layer *layer = &model->decoder[i];
        self_attention(thread, s, layout, i, &layer->self_qkv, &layer->self_output, &layer->self_norm);
        cross_attention(thread, s, layout, i, &layer->cross_q, &layer->cross_output, &layer->cross_norm);
        feed_forward(thread, s, &layer->ffn_up, &layer->ffn_down, &layer->ffn_norm);
    }
}

static void copy_shared_pages(pe_thread *thread, const pe_session *session) {
    for (int64_t i; pe_take(thread, session->n_copies, &i);)
        memcpy(session->copies[i].to, session->copies[i].from, (size_t)session->cache.layout.page_bytes);
    pe_barrier(thread);
}

static void answer_logits(pe_thread *thread, const stream *s, const pe_plan *plan) {
    const pe_session *session = s->session;
    const pe_rows *hidden = &session->hidden, *asked = &session->context;
    for (int64_t i; pe_take(thread, plan->logits.n_rows, &i);) {
        memcpy(asked->x + i * asked->ld, hidden->x + plan->logit_rows[i] * hidden->ld,
               (size_t)s->width * sizeof(float));
        pe_prepare(s->kernels, s->type, asked, i, s->width);
    }
    pe_barrier(thread);
    pe_op_logits(thread, s->kernels, &session->model->output, asked, &plan->logits, &session->logits);
    pe_barrier(thread);
    pe_op_logits_merge(thread, session->model->output.n, &plan->logits, &session->logits);
}

void pe_transformer_step(pe_thread *thread, void *context) {
    const pe_step *step = context;
    const pe_session *session = step->session;
    const pe_plan *plan = step->plan;
    const pe_model *model = session->model;
    stream s = {session, &model->kernels, model->weights, model->config.width, 0, NULL};
    if (session->n_copies > 0) copy_shared_pages(thread, session);
    if (plan->n_source_tokens > 0) {
        s.n = plan->n_source_tokens;
        s.row = session->source_rows;
        encode(thread, &s);
    }
    if (plan->n_rows > 0) {
        s.n = plan->n_rows;
        s.row = session->rows;
        decode(thread, &s);
        if (plan->logits.n_rows > 0) answer_logits(thread, &s, plan);
    }
}
