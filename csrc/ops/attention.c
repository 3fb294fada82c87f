#include <string.h>

#include "base/intmath.h"
#include "ops/ops.h"

pe_kv_layout pe_kv_layout_of(pe_kv_type type, int64_t heads, int64_t head_dim) {
    const int64_t head_bytes = type == PE_KV_Q8 ? pe_page_bytes_q8(head_dim) : pe_page_bytes_f32(head_dim);
    return (pe_kv_layout){type, head_dim, head_bytes, heads * head_bytes};
}

/* One token's key and value of one head into slot t of a page; layout in kernels.h. */
static void store_f32(int64_t d, const float *k, const float *v, uint8_t *page, int64_t t) {
    float *keys = (float *)(void *)page, *values = keys + d * PE_PAGE;
    for (int64_t i = 0; i < d; i++) keys[i * PE_PAGE + t] = k[i];
    memcpy(values + t * pe_round_up(d, 16), v, (size_t)d * sizeof *v);
}

/* Stores heads [head, end) of a row's key and value; `first`: heads before the layer's. */
static void append(const pe_kernels *kernels, const pe_kv_layout *layout, int64_t first, pe_side side,
                   const pe_row *row, const float *k, const float *v, int64_t head, int64_t end) {
    const int64_t d = layout->head_dim, slot = row->position % PE_PAGE;
    uint8_t *page = (side == PE_SELF ? row->pages : row->memory_pages)[row->position / PE_PAGE];
    page += (first + head) * layout->head_bytes;
    k += head * d;
    v += head * d;
    if (layout->type == PE_KV_Q8) {
        const pe_token token = {end - head, d, k, v, page, slot};
        kernels->store_q8(&token);
        return;
    }
    for (; head < end; head++, k += d, v += d, page += layout->head_bytes) store_f32(d, k, v, page, slot);
}

void pe_op_kv_append(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, pe_heads heads,
                     pe_side side, const pe_row *row, int64_t n_rows, const float *k, const float *v, int64_t ld) {
    for (int64_t r; pe_take(thread, n_rows, &r);)
        append(kernels, layout, heads.first, side, row + r, k + r * ld, v + r * ld, 0, heads.n);
}

void pe_op_attend(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, pe_heads heads,
                  const pe_attention *a, const pe_row *row, int64_t n_rows, const pe_rows *rows) {
    const int64_t d = layout->head_dim, parts = a->split_heads ? heads.n : 1, each = heads.n / parts;
    for (int64_t task; pe_take(thread, n_rows * parts, &task);) {
        const int64_t r = task / parts, head = task % parts * each;
        if (a->k)
            append(kernels, layout, heads.first, a->side, row + r, a->k + r * a->ld, a->v + r * a->ld, head,
                   head + each);
        const pe_attend attend = {
            .heads = each,
            .head_dim = d,
            .n_keys = a->side == PE_SELF ? row[r].n_keys : row[r].n_memory,
            .scale = 1.0f / sqrtf((float)d),
            .q = a->q + r * a->ld + head * d,
            .pages = (const uint8_t *const *)(a->side == PE_SELF ? row[r].pages : row[r].memory_pages),
            .offset = (heads.first + head) * layout->head_bytes,
            .y = rows->x + r * rows->ld + head * d,
        };
        (layout->type == PE_KV_Q8 ? kernels->attend_q8 : kernels->attend_f32)(&attend);
        if (!a->split_heads) pe_prepare(kernels, rows, r, heads.n * d);
    }
}
