/* The forward pass: what the papers draw, one line an op, a barrier between two. */
#include <string.h>

#include "base/intmath.h"
#include "model/session.h"

enum {
    FEW_ROWS = 4,    /* a thread: a phase over the rows is not worth sharing out below */
    GROUP_ROWS = 96, /* rows whose activations stay in the second-level cache */
    LEAST_ROWS = 32, /* of a group */
};

/* Rows on their way through a stack, and the working memory that they have to themselves. */
typedef struct stream {
    const pe_session *session;
    const pe_kernels *kernels;
    int64_t width;
    int64_t n;         /* rows */
    int64_t longest;   /* most rows of one segment or sequence */
    const pe_row *row; /* [n] */
    pe_rows hidden;    /* see pe_session */
    pe_rows context;
    pe_rows wide;
    float *sum;
} stream;

/* Ends a phase. The next one goes over the rows: whom this returns takes part in it, and leave_rows ends it. With few
   rows one thread does it all, the last to come here, so that it starts at once. */
static pe_thread *enter_rows(pe_thread *thread, const stream *s, pe_solo *solo) {
    if (s->n < FEW_ROWS * thread->team->threads) return pe_arrive(thread) ? pe_alone(solo) : NULL;
    pe_barrier(thread);
    return thread;
}

static void leave_rows(pe_thread *thread, const pe_thread *entered) {
    if (entered == thread)
        pe_barrier(thread);
    else if (entered)
        pe_release(thread);
}

static void prepare(pe_thread *thread, const stream *s, const pe_rows *rows, int64_t k) {
    pe_solo solo;
    pe_thread *entered = enter_rows(thread, s, &solo);
    if (entered) pe_op_prepare(entered, s->kernels, rows, s->n, k);
    leave_rows(thread, entered);
}

/* Shows an observer the rows that a linear layer is about to read: complete since the last barrier, and left as they
   are until thread 0 comes to the next one. */
static void observe(const pe_thread *thread, const stream *s, const pe_linear *linear, const pe_rows *rows, int64_t n) {
    const pe_session *session = s->session;
    if (session->observer && thread->id == 0) session->observer(session->observed_for, linear, rows->x, n, rows->ld);
}

static void multiply(pe_thread *thread, const stream *s, const pe_linear *linear, const pe_rows *rows,
                     pe_activation activation, const float *residual, int64_t ldr, float *y, int64_t ldy) {
    observe(thread, s, linear, rows, s->n);
    pe_op_linear(thread, s->kernels, linear, rows, s->n, activation, residual, ldr, y, ldy);
}

/* hidden = norm(hidden + W context) */
static void add_and_norm(pe_thread *thread, const stream *s, const pe_linear *output, const pe_rows *from,
                         const pe_norm *norm) {
    const pe_rows *hidden = &s->hidden;
    multiply(thread, s, output, from, PE_IDENTITY, hidden->x, hidden->ld, s->sum, hidden->ld);
    pe_solo solo;
    pe_thread *entered = enter_rows(thread, s, &solo);
    if (entered)
        pe_op_norm(entered, s->kernels, norm, s->session->model->config.norm_epsilon, s->sum, hidden->ld, s->width,
                   s->n, hidden);
    leave_rows(thread, entered);
}

/* context = attention, prepared */
static void attend(pe_thread *thread, const stream *s, const pe_kv_layout *layout, pe_heads heads,
                   pe_attention *attention) {
    attention->split_heads = s->n < FEW_ROWS * thread->team->threads;
    pe_op_attend(thread, s->kernels, layout, heads, attention, s->row, s->n, &s->context);
    if (attention->split_heads)
        prepare(thread, s, &s->context, heads.n * layout->head_dim);
    else
        pe_barrier(thread);
}

static void self_attention(pe_thread *thread, const stream *s, const pe_kv_layout *layout, pe_heads heads,
                           const pe_linear *qkv, const pe_linear *output, const pe_norm *norm) {
    const pe_rows *wide = &s->wide;
    const int64_t width = heads.n * layout->head_dim;
    const float *q = wide->x, *k = q + width, *v = k + width;
    multiply(thread, s, qkv, &s->hidden, PE_IDENTITY, NULL, 0, wide->x, wide->ld);
    pe_barrier(thread);
    pe_attention attention = {.side = PE_SELF, .q = q, .k = k, .v = v, .ld = wide->ld};
    if (s->longest > 1) {
        pe_op_kv_append(thread, s->kernels, layout, heads, PE_SELF, s->row, s->n, k, v, wide->ld);
        pe_barrier(thread);
        attention.k = attention.v = NULL;
    }
    attend(thread, s, layout, heads, &attention);
    add_and_norm(thread, s, output, &s->context, norm);
}

static void cross_attention(pe_thread *thread, const stream *s, const pe_kv_layout *layout, pe_heads heads,
                            const pe_linear *query, const pe_linear *output, const pe_norm *norm) {
    const pe_rows *wide = &s->wide;
    multiply(thread, s, query, &s->hidden, PE_IDENTITY, NULL, 0, wide->x, wide->ld);
    pe_barrier(thread);
    pe_attention attention = {.side = PE_MEMORY, .q = wide->x, .ld = wide->ld};
    attend(thread, s, layout, heads, &attention);
    add_and_norm(thread, s, output, &s->context, norm);
}

static void feed_forward(pe_thread *thread, const stream *s, const pe_linear *up, const pe_linear *down,
                         const pe_norm *norm) {
    const pe_rows *wide = &s->wide;
    multiply(thread, s, up, &s->hidden, s->session->model->config.activation, NULL, 0, wide->x, wide->ld);
    if (wide->q)
        prepare(thread, s, wide, down->k);
    else
        pe_barrier(thread);
    add_and_norm(thread, s, down, wide, norm);
}

static void encode(pe_thread *thread, const stream *s) {
    const pe_session *session = s->session;
    const pe_model *model = session->model;
    const pe_rows *wide = &s->wide;
    pe_op_embed(thread, s->kernels, &model->source_embed, model->config.embedding_scale, model->source_positions,
                s->row, s->n, &s->hidden);
    pe_barrier(thread);
    for (int64_t i = 0; i < model->config.encoder.layers; i++) {
        const pe_encoder_layer *layer = &model->encoder[i];
        self_attention(thread, s, &session->encoder_layout, layer->self_heads, &layer->self_qkv,
                       &layer->self_output, &layer->self_norm);
        feed_forward(thread, s, &layer->ffn_up, &layer->ffn_down, &layer->ffn_norm);
    }
    /* The memory: keys and values of every decoder layer's cross-attention. */
    for (int64_t i = 0; i < model->config.decoder.layers; i++) {
        const pe_heads heads = model->decoder[i].cross_heads;
        const float *k = wide->x, *v = k + heads.n * session->cache.layout.head_dim;
        multiply(thread, s, &model->decoder[i].cross_kv, &s->hidden, PE_IDENTITY, NULL, 0, wide->x, wide->ld);
        pe_barrier(thread);
        pe_op_kv_append(thread, s->kernels, &session->cache.layout, heads, PE_MEMORY, s->row, s->n, k, v, wide->ld);
        pe_barrier(thread);
    }
}

static void decode(pe_thread *thread, const stream *s) {
    const pe_session *session = s->session;
    const pe_model *model = session->model;
    const pe_kv_layout *layout = &session->cache.layout;
    pe_op_embed(thread, s->kernels, &model->target_embed, model->config.embedding_scale, model->target_positions,
                s->row, s->n, &s->hidden);
    pe_barrier(thread);
    for (int64_t i = 0; i < model->config.decoder.layers; i++) {
        const pe_decoder_layer *layer = &model->decoder[i];
        self_attention(thread, s, layout, layer->self_heads, &layer->self_qkv, &layer->self_output,
                       &layer->self_norm);
        cross_attention(thread, s, layout, layer->cross_heads, &layer->cross_q, &layer->cross_output,
                        &layer->cross_norm);
        feed_forward(thread, s, &layer->ffn_up, &layer->ffn_down, &layer->ffn_norm);
    }
}

static stream rows_of(const stream *all, int64_t first, int64_t end) {
    stream part = *all;
    part.n = end - first;
    part.row += first;
    part.hidden = pe_rows_from(&all->hidden, first);
    part.context = pe_rows_from(&all->context, first);
    part.wide = pe_rows_from(&all->wide, first);
    part.sum += first * all->hidden.ld;
    return part;
}

/* The first row at or after `row` that starts a segment or sequence. */
static int64_t start_at(const stream *s, int64_t row) {
    while (row > 0 && row < s->n && s->row[row].pages == s->row[row - 1].pages) row++;
    return row;
}

/* Sends the rows through a stack, all threads together, layer by layer; or, where there are rows enough, in groups
   that one thread each takes through all the layers: no barriers, and the rows stay in its cache. Not where an observer
   is to see all rows of a layer at once. */
static void run(pe_thread *thread, const stream *all, void stack(pe_thread *, const stream *)) {
    const int threads = thread->team->threads;
    if (all->n < threads * LEAST_ROWS || all->longest > GROUP_ROWS || all->session->observer) {
        stack(thread, all);
        return;
    }
    const int64_t groups = threads * pe_ceil_div(all->n, threads * GROUP_ROWS);
    for (int64_t group; pe_take(thread, groups, &group);) {
        const int64_t first = all->n * group / groups, end = all->n * (group + 1) / groups;
        const stream part = rows_of(all, start_at(all, first), start_at(all, end));
        pe_solo solo;
        stack(pe_alone(&solo), &part);
    }
    pe_barrier(thread);
}

static void copy_shared_pages(pe_thread *thread, const pe_session *session) {
    for (int64_t i; pe_take(thread, session->n_copies, &i);)
        memcpy(session->copies[i].to, session->copies[i].from, (size_t)session->cache.layout.page_bytes);
    pe_barrier(thread);
}

static void answer_logits(pe_thread *thread, const stream *s, const pe_plan *plan) {
    const pe_session *session = s->session;
    const pe_rows *hidden = &s->hidden, *asked = &s->context;
    for (int64_t i; pe_take(thread, plan->logits.n_rows, &i);) {
        memcpy(asked->x + i * asked->ld, hidden->x + plan->logit_rows[i] * hidden->ld,
               (size_t)s->width * sizeof(float));
        pe_prepare(s->kernels, asked, i, s->width);
    }
    pe_barrier(thread);
    observe(thread, s, &session->model->output, asked, plan->logits.n_rows);
    if (session->answers_lists) {
        const pe_listed_scratch *listed = &session->listed;
        pe_op_linear(thread, s->kernels, &session->shortlist.rows, asked, plan->logits.n_rows, PE_IDENTITY, NULL, 0,
                     listed->logits, listed->ld);
        pe_barrier(thread);
        pe_op_logits_listed(thread, s->kernels, &plan->logits, listed);
        return;
    }
    pe_op_logits(thread, s->kernels, &session->model->output, asked, &plan->logits, &session->logits);
    pe_barrier(thread);
    pe_op_logits_merge(thread, session->model->output.n, &plan->logits, &session->logits);
}

static stream stream_of(const pe_session *session, const pe_row *row, int64_t n, int64_t longest) {
    const pe_model *model = session->model;
    return (stream){session, &model->kernels, model->config.width, n, longest, row,
                    session->hidden, session->context, session->wide, session->sum};
}

void pe_transformer_step(pe_thread *thread, void *context) {
    const pe_step *step = context;
    const pe_session *session = step->session;
    const pe_plan *plan = step->plan;
    if (session->n_copies > 0) copy_shared_pages(thread, session);
    if (session->shortlist.n_fresh > 0) {
        pe_shortlist_gather(thread, &session->shortlist);
        pe_barrier(thread);
    }
    if (plan->n_source_tokens > 0) {
        const stream s = stream_of(session, session->source_rows, plan->n_source_tokens, session->longest_segment);
        run(thread, &s, encode);
    }
    if (plan->n_rows > 0) {
        const stream s = stream_of(session, session->rows, plan->n_rows, session->longest_run);
        run(thread, &s, decode);
        if (plan->logits.n_rows > 0) answer_logits(thread, &s, plan);
    }
}
