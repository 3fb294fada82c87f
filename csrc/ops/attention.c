#include <string.h>

#include "base/intmath.h"
#include "ops/ops.h"

enum {
    TILE = 16, /* rows of a task, at most */
    TASKS = 2, /* a thread, where there are rows enough: one may start late */
};

int64_t pe_head_bytes(pe_kv_type type, int64_t width) {
    return type == PE_KV_Q8 ? pe_page_bytes_q8(width) : pe_page_bytes_f32(width);
}

/* One token's key and value of one head into slot t of a page; layout in kernels.h. */
static void store_f32(int64_t d, const float *k, const float *v, uint8_t *page, int64_t t) {
    float *keys = (float *)(void *)page, *values = keys + d * PE_PAGE;
    for (int64_t i = 0; i < d; i++) keys[i * PE_PAGE + t] = k[i];
    memcpy(values + t * pe_round_up(d, 16), v, (size_t)d * sizeof *v);
}

static uint8_t *const *pages_of(const pe_attend_job *job, const pe_row *row) {
    return job->side == PE_MEMORY ? row->memory_pages : row->pages + job->heads->group * row->stride;
}

/* Norms and turns `n` adjacent heads of a row in place, and multiplies them by a Hadamard matrix. */
static void finish_heads(const pe_kernels *kernels, const pe_attend_job *job, int64_t r, const float *weight, float *x,
                       int64_t n) {
    const pe_heads *heads = job->heads;
    if (!weight && heads->rope < 0 && !heads->hadamard) return;
    for (int64_t h = 0; h < n; h++, x += heads->width) {
        if (weight) kernels->rmsnorm(x, heads->width, weight, heads->epsilon, x);
        if (heads->rope >= 0) {
            const int64_t dims = job->ropes->dims[heads->rope];
            const float *cosines = job->turns + r * job->ropes->turns + job->ropes->offset[heads->rope];
            kernels->turn(x, dims, cosines, cosines + dims / 2);
        }
        if (heads->hadamard) kernels->hadamard(x, heads->width);
    }
}

/* Stores key-value heads [head, end) of row r, normed and turned. */
static void store(const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row, int64_t r, int64_t head,
                  int64_t end) {
    const int64_t d = job->heads->width, slot = row[r].position % PE_PAGE, bytes = pe_head_bytes(job->kv, d);
    uint8_t *page = pages_of(job, row + r)[row[r].position / PE_PAGE] + job->heads->offset + head * bytes;
    float *k = job->k + r * job->ld + head * d;
    const float *v = job->v + r * job->ld + head * d;
    finish_heads(kernels, job, r, job->heads->k_norm, k, end - head);
    if (job->kv == PE_KV_Q8) {
        const pe_token token = {end - head, d, k, v, page, slot};
        kernels->store_q8(&token);
        return;
    }
    for (; head < end; head++, k += d, v += d, page += bytes) store_f32(d, k, v, page, slot);
}

void pe_op_store(pe_thread *thread, const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row,
                 int64_t n_rows) {
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        if (job->q) finish_heads(kernels, job, r, job->heads->q_norm, job->q + r * job->ld, job->heads->n);
        store(kernels, job, row, r, 0, job->heads->kv);
    }
}

/* What row r sees. */
static pe_sight sight_of(const pe_attend_job *job, const pe_row *row) {
    const pe_heads *heads = job->heads;
    const int64_t position = row->position;
    pe_sight sight = {0, job->side == PE_SELF ? row->n_keys : row->n_memory, position};
    if (heads->before < position) sight.first = position - heads->before;
    if (heads->after < sight.end - position - 1) sight.end = position + heads->after + 1;
    return sight;
}

/* Rows [r, end), which share pages, read key-value heads [kv, kv_end). */
static void attend_tile(const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row, int64_t r, int64_t end,
                        int64_t kv, int64_t kv_end, const pe_rows *rows) {
    const pe_heads *heads = job->heads;
    const pe_biases *biases = job->biases;
    const int64_t group = heads->n / heads->kv, head = kv * group, d = heads->width;
    pe_sight sight[TILE];
    for (int64_t i = r; i < end; i++) sight[i - r] = sight_of(job, row + i);
    pe_attend a = {
        .rows = end - r,
        .heads = kv_end - kv,
        .group = group,
        .head_dim = d,
        .sight = sight,
        .scale = heads->scale,
        .soft_cap = heads->soft_cap,
        .q = job->q + r * job->ld + head * d,
        .ldq = job->ld,
        .pages = (const uint8_t *const *)pages_of(job, row + r),
        .offset = heads->offset + kv * pe_head_bytes(job->kv, d),
        .y = rows->x + r * rows->ld + head * d,
        .ldy = rows->ld,
    };
    if (biases && biases->relative) {
        a.relative_ld = 2 * biases->reach + 33;
        a.reach = biases->reach;
        a.relative = biases->relative + head * a.relative_ld + biases->reach + 16;
    }
    if (biases && biases->slopes) a.slopes = biases->slopes + head;
    (job->kv == PE_KV_Q8 ? kernels->attend_q8 : kernels->attend_f32)(&a);
}

void pe_op_attend(pe_thread *thread, const pe_kernels *kernels, const pe_attend_job *job, const pe_row *row,
                  int64_t n_rows, const pe_rows *rows) {
    const pe_heads *heads = job->heads;
    const int64_t threads = thread->team->threads, group = heads->n / heads->kv;
    /* A task is a few rows, of few of them with some of the heads; as many rows as leave tasks for all threads. */
    const int64_t parts = job->split_heads ? pe_min(heads->kv, threads) : 1;
    const int64_t tasks = threads * (job->split_heads || threads == 1 ? 1 : TASKS);
    const int64_t each = pe_clamp(n_rows * parts / tasks, 1, TILE), blocks = pe_ceil_div(n_rows, each);
    for (int64_t task; pe_take(thread, blocks * parts, &task);) {
        const int64_t first = task / parts * each, end = pe_min(first + each, n_rows), part = task % parts;
        const int64_t kv = heads->kv * part / parts, kv_end = heads->kv * (part + 1) / parts;
        for (int64_t r = first; r < end; r++) {
            if (job->store) store(kernels, job, row, r, kv, kv_end);
            if (job->store || job->side == PE_MEMORY)
                finish_heads(kernels, job, r, heads->q_norm, job->q + r * job->ld + kv * group * heads->width,
                           (kv_end - kv) * group);
        }
        for (int64_t r = first, next; r < end; r = next) {
            next = r + 1;
            while (next < end && pages_of(job, row + next) == pages_of(job, row + r)) next++;
            attend_tile(kernels, job, row, r, next, kv, kv_end, rows);
        }
        for (int64_t r = first; r < end && !job->split_heads; r++)
            pe_prepare(kernels, rows, r, heads->n * heads->width);
    }
}
