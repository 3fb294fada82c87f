/* The kernel table: one entry a family, filled with the scalar reference and overlaid by what the CPU offers.

   A kernel is single-threaded and allocates nothing; it gets pointers and sizes and knows nothing of models.
   Edges are the kernel's job, and none reads past a buffer. The reference (kernels/ref/) defines every result:
   integers and floats alike, all instruction sets give the same bytes.

   Names:  pe_<op>_<result>_<left>_<right>__<isa>
       f32   float32            q8r  int8, one scale a row (activations)
       bf16  bfloat16, f16  float16, an IEEE half (weights)
       q8c   int8, one scale an output channel (weights)
       q8s   as q8c, without the lines that are zero (sparse weights)
       q4g   int4 in groups along K, each with a scale (weights)
       q8    int8, one scale a token and head (cached keys and values)                                        */
#ifndef PE_KERNELS_KERNELS_H
#define PE_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/intmath.h"
#include "base/mathf.h"
#include "base/status.h"

enum {
    PE_BLOCK = 16,  /* output channels in a block of packed weights */
    PE_QUAD = 4,    /* int8 values that one dot-product lane multiplies at a time */
    PE_MIN_GROUP = 32,  /* columns of int4 weights that have a scale in common: 32, 64 or 128 */
    PE_MAX_GROUP = 128,
    PE_PAGE = 16,   /* tokens in a page of the key-value cache */
    PE_STRIP = 4 * PE_PAGE,  /* keys, at absolute positions, that attention weighs together */
    PE_SPAN = 64 * PE_PAGE,  /* keys whose sums are made by themselves */
};

/* A product Y = activate(X W^T + b) + R over rows [0, m) and some blocks of 16 output channels.

   Packed weights, N rounded up to 16, K to 4, padding zero:
       int8     [N/16][K/4][16][4]     line (b, k/4) is 64 bytes:  | channel 0: k k+1 k+2 k+3 | channel 1: ... | 15 |
       float32  [N/16][K][16]          line (b, k)   is 64 bytes:  | channel 0 | channel 1 | ... | channel 15 |
       bfloat16 and float16            as float32, line (b, k) is 32 bytes
       sparse   [lines][16][4]         the int8 lines that are not all zero, block by block, k ascending

   int4 weights in groups of 32, 64 or 128 columns, K rounded up to whole groups, whose padding may hold anything:
       int4     [N/16][K/8][16][4]     line (b, k/8) is 64 bytes, byte i of a channel's 4 holds the unsigned values q of
                                       column k+i in its low nibble and of column k+4+i in its high one
   Group g of channel n has a scale and a zero point z, 0 to 15; without group_zero all of these are 8:
       w[n,k] = w_scale[n] * group_scale[n,g] * (q - z[n,g])                                                         */
typedef struct pe_product {
    int64_t m;                   /* rows of X */
    int64_t k;                   /* columns of X; for int8 and int4 weights the rounded-up count */
    const void *x;               /* [m, ldx] int8 (from quantize) or float32; zeros from K up to k */
    int64_t ldx;                 /* elements between two rows of X */
    const float *x_scale;        /* [m], int8 rows only */
    const void *w;               /* packed; sparse: line 0 */
    const float *w_scale;        /* [N16], int8 and int4 only */
    const int32_t *w_sum;        /* [N16] sum of a channel's weights, int8 only */
    int64_t group;               /* columns of a group: 32, 64 or 128, int4 only */
    const uint16_t *group_scale; /* [N/16][k/group][16] IEEE halves, int4 only */
    const uint8_t *group_zero;   /* [N/16][k/group][16] z, or NULL, int4 only */
    const float *bias;           /* [N16] or NULL */
    const float *residual;       /* [m, ldr], N16 columns, or NULL; may be y itself */
    int64_t ldr;
    float *y;                    /* [m, ldy], all 16 columns of a block are written */
    int64_t ldy;
    pe_activation activation;
    const int32_t *line_start; /* [N16/16 + 1], sparse only: block b has lines [line_start[b], line_start[b + 1]) */
    const uint16_t *line_quad; /* [lines] k/4 of each line, sparse only */
    const void *ahead;         /* the weights that this thread reads after block1, or NULL: they are prefetched */
} pe_product;

/* Attention of a tile, rows that share pages, over the keys that each sees, each query by itself: y = softmax(s) V,
   computed strip by strip with a running maximum (Milakov and Gimelshein, 2018). Keys and values are read as stored, so
   that the result depends neither on what else is computed in the same step nor on the tile. The score of key j, in
   this order, each step in float32:

       s = scale q k_j                                              int8: float(q k_j) * ((q_scale scale) key_scale)
       s = soft_cap tanh(s (1 / soft_cap))                          if there is a soft_cap
       s = s + relative[clamp(j - position, -reach, reach)]         if there is a table
       s = fma(slope, j - position, s)                              if there are slopes (Press et al., 2022)

   Strips are keys [64 i, 64 i + 64), spans [1024 i, 1024 i + 1024). From max = -inf, sum = 0 and o = 0, for the strips
   of a span in ascending order, over the keys that are seen:

       m = max(max, max_j s_j)    p_j = e^(s_j - m)    c = e^(max - m)    max = m
       sum = fma(sum, c, l)                     l: p in 16 lanes, each a slot of the pages in ascending order, added up
                                                by pe_sum_lanes
       float32   o = o c, then o = fma(p_j, v_j, o) in ascending order
       int8      w_j = p_j value_scale_j, and w the largest;  n_j = round(min(w_j (255 / w), 255)), ties to even
                 o = fma(float(sum n_j v_j), w (1 / 255), o c)          the sum exact; pe_weight_factor, pe_weight_scale

   The first span's result is the total; the others go into it in ascending order. Then y = o / sum.

       m = max(max, max')    a = e^(max - m)    b = e^(max' - m)    sum = fma(sum', b, sum a)    o = fma(o', b, o a)

   Strips and spans without a key that is seen change nothing. Slots of other keys may hold anything, NaN too, and pages
   without a key that some row sees are not read.

   A page of one head, D rounded up to 4 for keys (D4) and to 16 for values (D16):
       int8     keys   [D4/4][16 tokens][4 dims]          (flipped, see pe_kernels.flip)
                values [4][D16/16][16 dims][4 tokens]
                key scales float[16], value scales float[16]
       float32  keys   [D][16 tokens]
                values [16 tokens][D16]                                                                          */
typedef struct pe_sight {
    int64_t first, end; /* keys [first, end) are seen */
    int64_t position;   /* of the query, where there are biases */
} pe_sight;

typedef struct pe_attend {
    int64_t rows;                /* that read the same pages */
    int64_t heads, group;        /* adjacent key-value heads; `group` adjacent query heads read each */
    int64_t head_dim;            /* D, at most PE_MAX_HEAD_DIM */
    const pe_sight *sight;       /* [rows] first and end ascend; first is at most the end of the row before */
    float scale;
    float soft_cap;              /* 0: none */
    const float *relative;       /* the first query head's bias of distance 0, or NULL. A head has those of distances
                                    -reach - 16 to reach + 16, of which the outer 16 equal that at the reach */
    int64_t relative_ld;         /* from head to head, at least 2 reach + 33 */
    int64_t reach;
    const float *slopes;         /* [heads * group] or NULL */
    const float *q;              /* [rows, ldq], heads * group * D of them */
    int64_t ldq;
    const uint8_t *const *pages; /* those that no row sees may be NULL, or not there */
    int64_t offset;              /* bytes from a page's start to the first of the heads */
    float *y;                    /* [rows, ldy], heads * group * D of them */
    int64_t ldy;
} pe_attend;

enum { PE_MAX_HEAD_DIM = 256 };

/* A token's keys and values of adjacent heads, for one slot of an int8 page. */
typedef struct pe_token {
    int64_t heads;
    int64_t head_dim;   /* D */
    const float *k, *v; /* [heads, D] */
    uint8_t *page;      /* of the first of the heads */
    int64_t slot;       /* 0..15 */
} pe_token;

typedef struct pe_kernels {
    const char *isa;

    /* Quantized bytes that meet int8 weights or cached keys are stored xor `flip`: 0x80 where the multiplier takes
       one unsigned operand (VNNI), 0 elsewhere. */
    uint8_t flip;

    /* q[i] = round(x[i] * 127 / max|x|) ^ flip for i < n; bytes up to n_padded are 0 ^ flip. *scale = max|x| / 127.
       Ties to even; a row of zeros, or below PE_QUANT_LOW, has scale 0, one with NaN the scale NaN. */
    void (*quantize)(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q, float *scale);

    /* Sums of the weights of each of `blocks` * 16 channels, packed as in pe_product. False if a weight is -128, which
       no kernel takes. */
    bool (*channel_sums)(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums);

    /* float(sum q w) * (x_scale w_scale) + b in one fused step, then activation, then residual. */
    void (*gemm_q8)(const pe_product *p, int64_t block0, int64_t block1);

    /* The bytes of gemm_q8 on the same matrix with its zeros; k at most 65,536. Many rows are fastest where those of x
       and y lie no multiple of 2,048 bytes apart: else they share few sets of the first-level cache. */
    void (*gemm_q8s)(const pe_product *p, int64_t block0, int64_t block1);

    /* acc = fma(float(sum (q - z) x), group_scale, acc) for the groups in ascending order, whose sums are exact; then
       acc * (x_scale w_scale) + b in one fused step, activation, residual. k at most 65,536. */
    void (*gemm_q4)(const pe_product *p, int64_t block0, int64_t block1);

    /* sum over k in ascending order, fused multiply-adds; then + b, activation, residual. */
    void (*gemm_f32)(const pe_product *p, int64_t block0, int64_t block1);

    /* The bytes of gemm_f32 on the same matrix in float32, which each weight becomes exactly. */
    void (*gemm_bf16)(const pe_product *p, int64_t block0, int64_t block1);
    void (*gemm_f16)(const pe_product *p, int64_t block0, int64_t block1);

    /* Layer normalisation (Ba et al., 2016): y = (x - mean) / sqrt(variance + eps) * weight + bias; y may be x. */
    void (*norm)(const float *x, int64_t n, const float *weight, const float *bias, float eps, float *y);

    /* RMS normalisation (Zhang and Sennrich, 2019): y = x / sqrt(mean of squares + eps) * weight; y may be x. */
    void (*rmsnorm)(const float *x, int64_t n, const float *weight, float eps, float *y);

    /* Rotary positions (Su et al., 2021) of one head, in place: for i < dims / 2, x[i] and x[i + dims/2] are turned by
       the angle that cosines[i] and sines[i] belong to, each product and sum rounded. dims is even. */
    void (*turn)(float *x, int64_t dims, const float *cosines, const float *sines);

    /* A row times a Hadamard matrix, in place (Sylvester's, unnormalized; Ashkboos et al., 2024): with h =
       pe_hadamard_size(n) and x as [h][n / h], column by column. Step by step, s = n / h, 2 n / h, ... n / 2: values s
       apart within 2 s become their sum and their difference. Twice gives h times the row. n at least 1. */
    void (*hadamard)(float *x, int64_t n);

    /* A gated feed-forward's n units, in place, in whole blocks: x holds 16 columns of gate and 16 of up in turn, as a
       product leaves them, and x[16 b + i] = activate(x[32 b + i]) * x[32 b + 16 + i]. */
    void (*gate)(float *x, int64_t n, pe_activation activation);

    /* x = cap * tanh(x * (1 / cap)), in place; cap is above 0. */
    void (*soft_cap)(float *x, int64_t n, float cap);

    /* Quantizes each head of k and of v as a row and stores it; nothing else of the page is written. */
    void (*store_q8)(const pe_token *t);

    /* A head of q is quantized as a row. */
    void (*attend_q8)(const pe_attend *a);
    void (*attend_f32)(const pe_attend *a);

    /* *max = max x, *sum = sum e^(x - max), 0 if all are minus infinity; NaN if an x is. n at least 1. */
    void (*exp_sum)(const float *x, int64_t n, float *max, float *sum);

    /* Indices i with x[i] > threshold, ascending; returns how many. `indices` holds n. */
    int64_t (*above)(const float *x, int64_t n, float threshold, int32_t *indices);
} pe_kernels;

/* Instruction sets that there are kernels for, ascending, and why this machine does not run one; NULL: it does. Nothing
   is found out about those above `most`, if that is not NULL. */
typedef struct pe_isa {
    const char *name;
    const char *missing;
} pe_isa;

const pe_isa *pe_isa_list(const char *most, int *count);

/* Fills the table for `isa` ("ref", "avx2", "avx512vnni", "amx"), or for the best one if NULL. PE_BAD_ARGUMENT if it is
   unknown or missing. The operating system is asked for AMX's registers only where that may be chosen. */
pe_status pe_kernels_init(pe_kernels *table, const char *isa);

void pe_kernels_overlay_ref(pe_kernels *table);
#if defined(__x86_64__)
void pe_kernels_overlay_avx2(pe_kernels *table);
void pe_kernels_overlay_avx512vnni(pe_kernels *table);
#ifdef PE_AMX
void pe_kernels_overlay_amx(pe_kernels *table);
#endif
#endif

/* How many parts of a row of n are mixed: the largest power of two that leaves parts of at least 16
   (hadamard_size of quantize/scaling/hadamard.py). */
static inline int64_t pe_hadamard_size(int64_t n) {
    int64_t size = 1;
    while (n % (2 * size) == 0 && n / (2 * size) >= 16) size *= 2;
    return size;
}

/* Whether scores are the scaled products. */
static inline bool pe_is_plain(const pe_attend *a) { return a->soft_cap <= 0.0f && !a->relative && !a->slopes; }

/* Where the strip, the span of a key ends. */
static inline int64_t pe_strip_end(int64_t key) { return key - key % PE_STRIP + PE_STRIP; }
static inline int64_t pe_span_end(int64_t key) { return key - key % PE_SPAN + PE_SPAN; }

/* A head's share of a page. */
static inline int64_t pe_page_keys_q8(int64_t d) { return (d + 3) / 4 * 64; }
static inline int64_t pe_page_values_q8(int64_t d) { return (d + 15) / 16 * 256; }
static inline int64_t pe_page_bytes_q8(int64_t d) { return pe_page_keys_q8(d) + pe_page_values_q8(d) + 128; }
static inline int64_t pe_page_bytes_f32(int64_t d) { return d * 64 + (d + 15) / 16 * 1024; }

/* Quantized key and value of one head, with their scales, into slot t of its part of a page. */
static inline void pe_store_head_q8(int64_t d, const int8_t *k, float k_scale, const int8_t *v, float v_scale,
                                    uint8_t *page, int64_t t) {
    uint8_t *values = page + pe_page_keys_q8(d), *lane = values + t / 4 * ((d + 15) / 16) * 64 + t % 4;
    float *scales = (float *)(void *)(values + pe_page_values_q8(d));
    for (int64_t i = 0; i < d; i += 4) memcpy(page + i * 16 + t * 4, k + i, 4);
    for (int64_t i = 0; i < d; i++) lane[i * 4] = (uint8_t)v[i];
    scales[t] = k_scale;
    scales[PE_PAGE + t] = v_scale;
}

#endif
