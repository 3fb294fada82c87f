/* AVX-512 VNNI: what stores keys and values into int8 pages. */
#include "kernels/x86/attention_avx512.h"

/* Masked stores: other threads may store other tokens' bytes of the same lines. */
ALWAYS_INLINE void store_heads_q8(const pe_token *t, int64_t first_head, const int heads) {
    const int64_t d = t->head_dim, d16 = (d + 15) / 16, head_bytes = pe_page_bytes_q8(d);
    const float *k = t->k + first_head * d, *v = t->v + first_head * d;
    uint8_t *page = t->page + first_head * head_bytes;
    __m512 top[SIDE];
    for (int h = 0; h < SIDE; h++) top[h] = h < heads ? absmax(k + h * d, d) : _mm512_setzero_ps();
    const __m128 k_largest = pe_largest16x4(top), k_inverse = pe_factor4(k_largest, 127);
    for (int h = 0; h < SIDE; h++) top[h] = h < heads ? absmax(v + h * d, d) : _mm512_setzero_ps();
    const __m128 v_largest = pe_largest16x4(top), v_inverse = pe_factor4(v_largest, 127);
    _Alignas(16) float k_scale[SIDE], v_scale[SIDE];
    _mm_store_ps(k_scale, pe_scale4(k_largest, 127));
    _mm_store_ps(v_scale, pe_scale4(v_largest, 127));
    const __m128i shift = _mm_cvtsi64_si128(t->slot % 4 * 8);
    const __mmask64 bytes = UINT64_C(0x1111111111111111) << t->slot % 4, all = ~UINT64_C(0);
    for (int h = 0; h < heads; h++, page += head_bytes) {
        uint8_t *key = page + t->slot * 4, *values = page + pe_page_keys_q8(d) + t->slot / 4 * d16 * 64;
        for (int64_t i = 0; i < d; i += 16) {
            const __mmask16 live = pe_mask16(d - i);
            const __m128i q = _mm512_cvtepi32_epi8(quantized(k + h * d + i, live, lane_ps(k_inverse, h)));
            const __m128i flipped = _mm_xor_si128(q, _mm_set1_epi8(INT8_MIN));
            _Alignas(16) int32_t quads[4];
            _mm_store_si128((__m128i *)(void *)quads, flipped);
            for (int64_t j = 0; j < 4 && i + j * 4 < d; j++) memcpy(key + (i / 4 + j) * 64, quads + j, 4);
            const __m512i x = quantized(v + h * d + i, live, lane_ps(v_inverse, h));
            const __mmask64 own = bytes & (d - i >= 16 ? all : (UINT64_C(1) << (d - i) * 4) - 1);
            _mm512_mask_storeu_epi8(values + i * 4, own, _mm512_sll_epi32(x, shift));
        }
        float *scales = (float *)(void *)(page + pe_page_keys_q8(d) + pe_page_values_q8(d)) + t->slot;
        scales[0] = k_scale[h];
        scales[PE_PAGE] = v_scale[h];
    }
}

void pe_store_q8_f32__avx512vnni(const pe_token *t) {
    for (int64_t head = 0; head < t->heads; head += SIDE) switch (t->heads - head) {
        case 1: store_heads_q8(t, head, 1); break;
        case 2: store_heads_q8(t, head, 2); break;
        case 3: store_heads_q8(t, head, 3); break;
        default: store_heads_q8(t, head, SIDE);
        }
}
