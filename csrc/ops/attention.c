#include <string.h>

#include "base/intmath.h"
#include "ops/ops.h"

pe_kv_layout pe_kv_layout_of(pe_kv_type type, int64_t layers, int64_t heads, int64_t head_dim) {
    const int64_t head_bytes = type == PE_KV_Q8 ? pe_page_bytes_q8(head_dim) : pe_page_bytes_f32(head_dim);
    return (pe_kv_layout){type, layers, heads, head_dim, head_bytes, layers * heads * head_bytes};
}

static int64_t head_offset(const pe_kv_layout *layout, int64_t layer, int64_t head) {
    return (layer * layout->heads + head) * layout->head_bytes;
}

/* One token's key and value of one head into slot t of a page; layouts in kernels.h. */
static void store_q8(const pe_kernels *kernels, int64_t d, const float *k, const float *v, uint8_t *page, int64_t t) {
    uint8_t *keys = page, *values = page + pe_page_keys_q8(d);
    float *scales = (float *)(void *)(values + pe_page_values_q8(d));
    const int64_t d4 = pe_round_up(d, 4), d16 = pe_ceil_div(d, 16);
    int8_t q[PE_MAX_HEAD_DIM];
    kernels->quantize(k, d, d4, kernels->flip, q, scales + t);
    for (int64_t i = 0; i < d4; i += 4) memcpy(keys + i * 16 + t * 4, q + i, 4);
    kernels->quantize(v, d, d, 0, q, scales + PE_PAGE + t);
    uint8_t *lane = values + t / 4 * d16 * 64 + t % 4;
    for (int64_t i = 0; i < d; i++) lane[i * 4] = (uint8_t)q[i];
}

static void store_f32(int64_t d, const float *k, const float *v, uint8_t *page, int64_t t) {
    float *keys = (float *)(void *)page, *values = keys + d * PE_PAGE;
    for (int64_t i = 0; i < d; i++) keys[i * PE_PAGE + t] = k[i];
    memcpy(values + t * pe_round_up(d, 16), v, (size_t)d * sizeof *v);
}

void pe_op_kv_append(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, int64_t layer,
                     pe_side side, const pe_row *row, int64_t n_rows, const float *k, const float *v, int64_t ld) {
    const int64_t d = layout->head_dim;
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        uint8_t *const *pages = side == PE_SELF ? row[r].pages : row[r].memory_pages;
        uint8_t *page = pages[row[r].position / PE_PAGE];
        const int64_t slot = row[r].position % PE_PAGE;
        for (int64_t head = 0; head < layout->heads; head++) {
            uint8_t *part = page + head_offset(layout, layer, head);
            const float *key = k + r * ld + head * d, *value = v + r * ld + head * d;
            if (layout->type == PE_KV_Q8)
                store_q8(kernels, d, key, value, part, slot);
            else
                store_f32(d, key, value, part, slot);
        }
    }
}

void pe_op_attend(pe_thread *thread, const pe_kernels *kernels, const pe_kv_layout *layout, int64_t layer,
                  pe_side side, const pe_row *row, int64_t n_rows, const float *q, int64_t ldq, pe_weight_type type,
                  const pe_rows *rows) {
    const int64_t d = layout->head_dim;
    for (int64_t r; pe_take(thread, n_rows, &r);) {
        for (int64_t head = 0; head < layout->heads; head++) {
            const pe_attend attend = {
                .head_dim = d,
                .n_keys = side == PE_SELF ? row[r].n_keys : row[r].n_memory,
                .scale = 1.0f / sqrtf((float)d),
                .q = q + r * ldq + head * d,
                .pages = (const uint8_t *const *)(side == PE_SELF ? row[r].pages : row[r].memory_pages),
                .offset = head_offset(layout, layer, head),
                .y = rows->x + r * rows->ld + head * d,
            };
            (layout->type == PE_KV_Q8 ? kernels->attend_q8 : kernels->attend_f32)(&attend);
        }
        pe_prepare(kernels, type, rows, r, layout->heads * d);
    }
}
