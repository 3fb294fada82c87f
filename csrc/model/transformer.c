/* The forward pass: what the papers draw, one line an op, a barrier between two.

   x is the residual stream; `in` is what the next sublayer reads of it, rounded as soon as it is there.

       post       x = in + f(in)          in = norm(x)         the norm is f's own
       pre        x = x + f(in)           in = next(x)         that of the next sublayer, or the last one
       ... after  x = x + after(f(in))    in = next(x)
       parallel   x = x + f(in) + g(beside)                    in and beside: the next layer's two norms

   Which norms follow a sublayer stands in it (pe_model_link), so that nothing here asks which family it runs; only what
   is added differs: `residual` is in.x of a post-norm stack, else x. */
#include <string.h>

#include "base/intmath.h"
#include "model/session.h"

enum {
    FEW_ROWS = 4,    /* a thread: a phase over the rows is not worth sharing out below */
    GROUP_ROWS = 96, /* at most, where there are no slabs */
};

/* Rows on their way through a stack, and the working memory that they have to themselves. */
typedef struct stream {
    const pe_session *session;
    const pe_kernels *kernels;
    const pe_stack *stack;
    int64_t n;         /* rows */
    int64_t longest;   /* most rows of one segment or sequence */
    const pe_row *row; /* [n] */
    pe_stream_rows rows;
    const float *residual; /* see above */
    pe_rows context;       /* see pe_session */
    pe_rows wide;
    pe_rows hidden; /* what is widest between two sublayers; of slabs, each thread's own rows */
    float *turns;
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

static void multiply(pe_thread *thread, const stream *s, const pe_linear *linear, const pe_rows *rows,
                     pe_activation activation, const float *residual, int64_t ldr, float *y, int64_t ldy) {
    pe_observe(thread, s->session, linear, rows, s->n);
    pe_op_linear(thread, s->kernels, linear, rows, s->n, activation, residual, ldr, y, ldy);
}

/* Adds W from to the stream and makes of that what is read next. */
static void join(pe_thread *thread, const stream *s, const pe_sublayer *sub, const pe_rows *from) {
    const int64_t ld = s->rows.in.ld;
    const pe_rows *spare = from == &s->hidden ? &s->context : &s->hidden;
    if (sub->after.weight)
        multiply(thread, s, &sub->output, from, PE_IDENTITY, NULL, 0, spare->x, spare->ld);
    else
        multiply(thread, s, &sub->output, from, PE_IDENTITY, s->residual, ld, s->rows.x, ld);
    if (sub->nexts.later && !sub->after.weight) {
        pe_barrier(thread);
        return;
    }
    pe_solo solo;
    pe_thread *entered = enter_rows(thread, s, &solo);
    if (entered)
        pe_op_norm(entered, s->kernels, &sub->after, spare->x, spare->ld, sub->nexts, &s->rows, s->n);
    leave_rows(thread, entered);
}

/* context = attention, prepared */
static void attend(pe_thread *thread, const stream *s, pe_attend_job *job) {
    job->split_heads = s->n < FEW_ROWS * thread->team->threads;
    pe_op_attend(thread, s->kernels, job, s->row, s->n, &s->context);
    if (job->split_heads)
        prepare(thread, s, &s->context, job->heads->n * job->heads->width);
    else
        pe_barrier(thread);
}

static pe_attend_job job_of(const stream *s, pe_side side, const pe_heads *heads, const pe_rows *rows) {
    const pe_model *model = s->session->model;
    return (pe_attend_job){.kv = model->kv, .side = side, .heads = heads, .ropes = &model->ropes, .turns = s->turns,
                           .ld = rows->ld};
}

/* Queries, keys and values lie in `wide`; where a row reads the keys of the rows before it, all are stored first. */
static pe_attend_job self_job(const stream *s, const pe_attention *a) {
    pe_attend_job job = job_of(s, PE_SELF, &a->heads, &s->wide);
    job.biases = &s->stack->biases;
    job.q = s->wide.x;
    job.k = job.q + a->heads.n * a->heads.width;
    job.v = job.k + a->heads.kv * a->heads.width;
    job.store = s->longest == 1;
    return job;
}

static void project(pe_thread *thread, const stream *s, const pe_attention *a) {
    multiply(thread, s, &a->input, &s->rows.in, PE_IDENTITY, NULL, 0, s->wide.x, s->wide.ld);
    pe_barrier(thread);
    const pe_attend_job job = self_job(s, a);
    if (job.store) return;
    pe_op_store(thread, s->kernels, &job, s->row, s->n);
    pe_barrier(thread);
}

static void self_attention(pe_thread *thread, const stream *s, const pe_attention *a) {
    pe_attend_job job = self_job(s, a);
    attend(thread, s, &job);
    join(thread, s, &a->sub, &s->context);
}

static void cross_attention(pe_thread *thread, const stream *s, const pe_attention *a) {
    multiply(thread, s, &a->input, &s->rows.in, PE_IDENTITY, NULL, 0, s->hidden.x, s->hidden.ld);
    pe_barrier(thread);
    pe_attend_job job = job_of(s, PE_MEMORY, &a->heads, &s->hidden);
    job.q = s->hidden.x;
    attend(thread, s, &job);
    join(thread, s, &a->sub, &s->context);
}

static void feed_forward(pe_thread *thread, const stream *s, const pe_feed_forward *f) {
    const pe_rows *in = s->stack->placement == PE_PARALLEL ? &s->rows.beside : &s->rows.in, *hidden = &s->hidden;
    multiply(thread, s, &f->up, in, f->gated ? PE_IDENTITY : f->activation, NULL, 0, hidden->x, hidden->ld);
    if (f->gated) {
        pe_solo solo;
        pe_thread *entered = enter_rows(thread, s, &solo);
        if (entered) pe_op_gate(entered, s->kernels, f->activation, f->sub.output.k, hidden, s->n);
        leave_rows(thread, entered);
    } else if (hidden->q || hidden->hadamard) {
        prepare(thread, s, hidden, f->sub.output.k);
    } else {
        pe_barrier(thread);
    }
    join(thread, s, &f->sub, hidden);
}

/* And the angles of the rows' positions. */
static void embed(pe_thread *thread, const stream *s) {
    const pe_embedding *e = &s->stack->embedding;
    const bool projects = e->project.n > 0;
    if (s->session->model->ropes.n > 0) {
        pe_op_angles(thread, &s->session->model->ropes, s->row, s->n, s->turns);
        pe_barrier(thread);
    }
    if (projects) {
        pe_op_embed_narrow(thread, s->kernels, s->rows.kind, s->rows.epsilon, e, s->row, s->n, &s->context);
        pe_barrier(thread);
        multiply(thread, s, &e->project, &s->context, PE_IDENTITY, NULL, 0, s->rows.x, s->rows.in.ld);
        pe_barrier(thread);
    }
    pe_op_embed(thread, s->kernels, e, s->row, s->n, projects, s->stack->nexts, &s->rows);
    pe_barrier(thread);
}

/* Of segments: keys and values of every decoder layer's cross-attention, kept as the memory. */
static void remember(pe_thread *thread, const stream *s) {
    const pe_model *model = s->session->model;
    const pe_rows *hidden = &s->hidden;
    for (int64_t i = 0; i < model->decoder.n; i++) {
        const pe_attention *a = &model->decoder.layers[i].cross;
        multiply(thread, s, &a->memory, &s->rows.in, PE_IDENTITY, NULL, 0, hidden->x, hidden->ld);
        pe_barrier(thread);
        pe_attend_job job = job_of(s, PE_MEMORY, &a->heads, hidden);
        job.k = hidden->x;
        job.v = hidden->x + a->heads.kv * a->heads.width;
        pe_op_store(thread, s->kernels, &job, s->row, s->n);
        pe_barrier(thread);
    }
}

static void layer(pe_thread *thread, const stream *s, int64_t i) {
    const pe_layer *own = &s->stack->layers[i];
    self_attention(thread, s, &own->self);
    if (own->cross.input.n > 0) cross_attention(thread, s, &own->cross);
    feed_forward(thread, s, &own->ffn);
}

/* What comes before layer i, whose rows read one another's keys; or behind the last one. */
static void before(pe_thread *thread, const stream *s, int64_t i) {
    const pe_model *model = s->session->model;
    if (i < s->stack->n)
        project(thread, s, &s->stack->layers[i].self);
    else if (s->stack == &model->encoder && model->decoder.n > 0)
        remember(thread, s);
}

/* Of a part that `thread` takes alone. */
static stream rows_of(const pe_thread *thread, const stream *all, int64_t first, int64_t end) {
    stream part = *all;
    part.n = end - first;
    part.row += first;
    part.rows.in = pe_rows_from(&all->rows.in, first);
    if (all->rows.beside.x) part.rows.beside = pe_rows_from(&all->rows.beside, first);
    part.rows.x += first * all->rows.in.ld;
    part.residual += first * all->rows.in.ld;
    part.context = pe_rows_from(&all->context, first);
    part.wide = pe_rows_from(&all->wide, first);
    const int64_t own = all->session->slab_rows;
    part.hidden = own > 0 ? pe_rows_from(&all->hidden, thread->id * own) : part.wide;
    part.turns += first * all->session->model->ropes.turns;
    return part;
}

/* Equal parts of the rows, for each thread as many, none of more than `most`. */
static int64_t parts_of(const pe_thread *thread, const stream *s, int64_t most) {
    const int threads = thread->team->threads;
    return threads * pe_ceil_div(s->n, threads * most);
}

enum { LAYER = 1, BEFORE = 2 };

/* A phase over slabs of rows: each goes through layer i - 1, what comes before layer i, or both, in one thread, while
   it stays in the second-level cache. */
static void phase(pe_thread *thread, const stream *s, int64_t i, int what) {
    const int64_t slabs = parts_of(thread, s, s->session->slab_rows);
    for (int64_t slab; pe_take(thread, slabs, &slab);) {
        const stream part = rows_of(thread, s, s->n * slab / slabs, s->n * (slab + 1) / slabs);
        pe_solo solo;
        pe_thread *alone = pe_alone(&solo);
        if (what & LAYER) layer(alone, &part, i - 1);
        if (what & BEFORE) before(alone, &part, i);
    }
    pe_barrier(thread);
}

/* Rows through a stack: what comes out is in `in`. */
static void through(pe_thread *thread, const stream *s) {
    const bool slabs = s->hidden.x != s->wide.x;
    /* All layers of an encoder keep their keys in the same pages. */
    const bool apart = s->stack == &s->session->model->encoder;
    embed(thread, s);
    for (int64_t i = 0; i <= s->stack->n; i++) {
        if (!slabs) {
            if (i > 0) layer(thread, s, i - 1);
            before(thread, s, i);
        } else if (i == 0 || apart) {
            if (i > 0) phase(thread, s, i, LAYER);
            phase(thread, s, i, BEFORE);
        } else {
            phase(thread, s, i, LAYER | BEFORE);
        }
    }
}

/* The first row at or after `row` that starts a segment or sequence. */
static int64_t start_at(const stream *s, int64_t row) {
    while (row > 0 && row < s->n && s->row[row].pages == s->row[row - 1].pages) row++;
    return row;
}

/* Sends the rows through a stack, layer by layer: in groups of whole sequences that one thread each takes through all
   the layers, without barriers; where a sequence has more rows than a slab, or so many that more than a third of the
   threads' time would be waiting, in slabs. All threads stay together over few rows, where there are no slabs, and
   where an observer is to see all rows of a layer at once. */
static void run(pe_thread *thread, const stream *all) {
    const pe_session *session = all->session;
    const int threads = thread->team->threads;
    if (all->n < threads * PE_LEAST_SLAB || session->observer) {
        stream together = *all;
        together.hidden = all->wide;
        through(thread, &together);
        return;
    }
    const int64_t most = session->slab_rows > 0 ? session->slab_rows : GROUP_ROWS;
    if (all->longest > most || 2 * threads * all->longest > 3 * all->n) {
        through(thread, all);
        return;
    }
    const int64_t groups = parts_of(thread, all, most);
    for (int64_t group; pe_take(thread, groups, &group);) {
        const int64_t first = all->n * group / groups, end = all->n * (group + 1) / groups;
        const stream part = rows_of(thread, all, start_at(all, first), start_at(all, end));
        pe_solo solo;
        through(pe_alone(&solo), &part);
    }
    pe_barrier(thread);
}

static void copy_shared_pages(pe_thread *thread, const pe_session *session) {
    for (int64_t i; pe_take(thread, session->n_copies, &i);)
        memcpy(session->copies[i].to, session->copies[i].from, (size_t)session->copies[i].bytes);
    pe_barrier(thread);
}

/* What the encoder has made of the segments, for whoever asked. */
static void answer_states(pe_thread *thread, const stream *s, float *states) {
    const int64_t width = s->rows.width;
    for (int64_t r; pe_take(thread, s->n, &r);)
        memcpy(states + r * width, s->rows.in.x + r * s->rows.in.ld, (size_t)width * sizeof *states);
    pe_barrier(thread);
}

/* A row that is prepared. */
static void copy_row(const pe_rows *from, int64_t row, const pe_rows *to, int64_t i, int64_t k) {
    memcpy(to->x + i * to->ld, from->x + row * from->ld, (size_t)k * sizeof *to->x);
    if (!to->q) return;
    memcpy(to->q + i * to->ldq, from->q + row * from->ldq, (size_t)pe_round_up(k, PE_MAX_GROUP));
    to->scale[i] = from->scale[row];
}

static void answer_logits(pe_thread *thread, const stream *s, const pe_plan *plan) {
    const pe_session *session = s->session;
    const pe_rows *in = &s->rows.in, *asked = &s->context;
    for (int64_t i; pe_take(thread, plan->logits.n_rows, &i);)
        copy_row(in, plan->logit_rows[i], asked, i, s->rows.width);
    pe_barrier(thread);
    pe_observe(thread, session, &session->model->output, asked, plan->logits.n_rows);
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

static stream stream_of(const pe_session *session, const pe_stack *stack, const pe_row *row, int64_t n,
                        int64_t longest) {
    const pe_model *model = session->model;
    const pe_stream_rows rows = {session->x, session->in, session->beside, stack->norm_kind, stack->epsilon,
                                 model->width};
    return (stream){session, &model->kernels, stack, n, longest, row, rows,
                    stack->placement == PE_POST ? session->in.x : session->x, session->context, session->wide,
                    session->slab_rows > 0 ? session->hidden : session->wide, session->turns};
}

void pe_transformer_step(pe_thread *thread, void *context) {
    const pe_step *step = context;
    const pe_session *session = step->session;
    const pe_model *model = session->model;
    const pe_plan *plan = step->plan;
    if (session->n_copies > 0) copy_shared_pages(thread, session);
    if (session->shortlist.n_fresh > 0) {
        pe_shortlist_gather(thread, &session->shortlist);
        pe_barrier(thread);
    }
    if (plan->n_source_tokens > 0) {
        const stream s = stream_of(session, &model->encoder, session->source_rows, plan->n_source_tokens,
                                   session->longest_segment);
        run(thread, &s);
        if (plan->states) answer_states(thread, &s, plan->states);
        if (plan->head) pe_head_answer(thread, session, plan);
    }
    if (plan->n_rows > 0) {
        const stream s = stream_of(session, &model->decoder, session->rows, plan->n_rows, session->longest_run);
        run(thread, &s);
        if (plan->logits.n_rows > 0) answer_logits(thread, &s, plan);
    }
}
