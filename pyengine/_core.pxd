# The C core as Cython sees it: declarations only, in the order of the floors; contracts are in the headers.

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "base/status.h" nogil:
    ctypedef enum pe_status:
        PE_OK
        PE_NO_MEMORY
        PE_BAD_ARGUMENT
        PE_CACHE_FULL
        PE_NOT_FINITE

cdef extern from "base/flag.h" nogil:
    int64_t pe_now() noexcept

cdef extern from "base/mathd.h" nogil:
    double pe_expd(double x) noexcept
    double pe_logd(double x) noexcept
    double pe_powd(double x, double y) noexcept

cdef extern from "base/angles.h" nogil:
    void pe_angles(int64_t position, const float *frequencies, int64_t n, float factor, float *cosines,
                   float *sines) noexcept

cdef extern from "base/team.h" nogil:
    int PE_MAX_TEAM

    ctypedef struct pe_thread:
        pass

    ctypedef void pe_team_function(pe_thread *thread, void *context) noexcept

    void pe_barrier(pe_thread *thread) noexcept

cdef extern from "base/governor.h" nogil:
    ctypedef struct pe_governor:
        int level

    void pe_governor_begin(pe_governor *governor, int threads) noexcept
    int pe_governor_choose(pe_governor *governor, int64_t now) noexcept
    void pe_governor_learn(pe_governor *governor, int64_t now, int threads, int64_t elapsed, int64_t waited) noexcept

cdef extern from "base/crews.h" nogil:
    ctypedef struct pe_crew:
        pass

    ctypedef struct pe_crews:
        int threads
        int places

    void pe_team_run(pe_crew *crew, int64_t rows, pe_team_function *function, void *context) noexcept
    pe_status pe_crews_create(pe_crews *crews, int threads, int places, const int32_t *cpus, int n_cpus) noexcept
    void pe_crews_destroy(pe_crews *crews) noexcept
    pe_crew *pe_crews_take(pe_crews *crews, int64_t patience, int64_t since) noexcept
    void pe_crews_give(pe_crews *crews, pe_crew *crew) noexcept
    int pe_crews_waiting(pe_crews *crews) noexcept

cdef extern from "kernels/kernels.h" nogil:

    ctypedef enum pe_activation:
        PE_IDENTITY
        PE_RELU
        PE_GELU
        PE_GELU_TANH
        PE_QUICK_GELU
        PE_SILU
        PE_TANH
        PE_SIGMOID

    ctypedef struct pe_product:
        int64_t m
        int64_t k
        const void *x
        int64_t ldx
        const float *x_scale
        const void *w
        const float *w_scale
        const int32_t *w_sum
        int64_t group
        const uint16_t *group_scale
        const uint8_t *group_zero
        const float *bias
        const float *residual
        int64_t ldr
        float *y
        int64_t ldy
        pe_activation activation
        const void *ahead
        const int32_t *line_start
        const uint16_t *line_quad

    ctypedef struct pe_sight:
        int64_t first
        int64_t end
        int64_t position

    ctypedef struct pe_attend:
        int64_t rows
        int64_t heads
        int64_t group
        int64_t head_dim
        const pe_sight *sight
        float scale
        float soft_cap
        const float *relative
        int64_t relative_ld
        int64_t reach
        const float *slopes
        const float *q
        int64_t ldq
        const uint8_t *const *pages
        int64_t offset
        float *y
        int64_t ldy

    ctypedef struct pe_token:
        int64_t heads
        int64_t head_dim
        const float *k
        const float *v
        uint8_t *page
        int64_t slot

    int64_t pe_hadamard_size(int64_t n) noexcept nogil

    ctypedef struct pe_kernels:
        const char *isa
        uint8_t flip
        void (*quantize)(const float *x, int64_t n, int64_t n_padded, uint8_t flip, int8_t *q,
                         float *scale) noexcept nogil
        bint (*channel_sums)(const int8_t *w, int64_t k, int64_t blocks, int32_t *sums) noexcept nogil
        void (*gemm_q8)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*gemm_q8s)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*gemm_q4)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*gemm_f32)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*gemm_bf16)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*gemm_f16)(const pe_product *p, int64_t block0, int64_t block1) noexcept nogil
        void (*norm)(const float *x, int64_t n, const float *weight, const float *bias, float eps,
                     float *y) noexcept nogil
        void (*rmsnorm)(const float *x, int64_t n, const float *weight, float eps, float *y) noexcept nogil
        void (*turn)(float *x, int64_t dims, const float *cosines, const float *sines) noexcept nogil
        void (*hadamard)(float *x, int64_t n) noexcept nogil
        void (*gate)(float *x, int64_t n, pe_activation activation) noexcept nogil
        void (*soft_cap)(float *x, int64_t n, float cap) noexcept nogil
        void (*store_q8)(const pe_token *t) noexcept nogil
        void (*attend_q8)(const pe_attend *a) noexcept nogil
        void (*attend_f32)(const pe_attend *a) noexcept nogil
        void (*exp_sum)(const float *x, int64_t n, float *max, float *sum) noexcept nogil
        int64_t (*above)(const float *x, int64_t n, float threshold, int32_t *indices) noexcept nogil

    ctypedef struct pe_isa:
        const char *name
        const char *missing

    int64_t pe_page_bytes_q8(int64_t d) noexcept
    int64_t pe_page_bytes_f32(int64_t d) noexcept
    const pe_isa *pe_isa_list(const char *most, int *count) noexcept
    pe_status pe_kernels_init(pe_kernels *table, const char *isa) noexcept

cdef extern from "ops/ops.h" nogil:
    ctypedef enum pe_weight_type:
        PE_WEIGHT_F32, PE_WEIGHT_BF16, PE_WEIGHT_F16, PE_WEIGHT_Q8, PE_WEIGHT_Q8S, PE_WEIGHT_Q4

    ctypedef enum pe_kv_type:
        PE_KV_F32
        PE_KV_Q8

    int PE_MAX_GROUPS
    int PE_MAX_ROPES
    int32_t PE_ALL

    ctypedef struct pe_heads:
        int64_t n
        int64_t kv
        int64_t width
        int32_t before
        int32_t after
        int rope
        float scale
        float soft_cap
        bint hadamard
        const float *q_norm
        const float *k_norm
        float epsilon

    ctypedef struct pe_biases:
        const float *relative
        int64_t reach
        const float *slopes

    ctypedef struct pe_ropes:
        int n
        const float **frequencies
        int *sets
        int64_t *dims
        float *factor

    ctypedef struct pe_linear:
        pe_weight_type type
        int64_t n
        int64_t k
        const void *w
        int64_t group
        const float *scale
        const int32_t *sum
        const uint16_t *group_scale
        const uint8_t *group_zero
        const int32_t *line_start
        const uint16_t *line_quad
        const float *bias

    ctypedef enum pe_norm_kind:
        PE_LAYER_NORM
        PE_RMS_NORM

    ctypedef struct pe_norm:
        const float *weight
        const float *bias

    ctypedef struct pe_embedding:
        pe_linear table
        pe_linear project
        const float *positions
        const float *types
        int64_t n_types
        pe_norm norm
        float scale
        bint hadamard

    ctypedef struct pe_rows:
        float *x
        int64_t ld
        int8_t *q
        int64_t ldq
        float *scale

    int PE_LOGIT_CHUNK
    int PE_LOGIT_ROWS

    ctypedef struct pe_logits_request:
        int64_t n_rows
        int64_t top_k
        const int32_t *exclude_offsets
        const int32_t *exclude_ids
        double *log_normalizer
        int32_t *top_ids
        float *top_logits
        float *excluded_logits
        float *logits
        float soft_cap

    ctypedef struct pe_logits_scratch:
        float *tile
        float *max
        float *sum
        float *values
        int32_t *ids
        int32_t *counts
        int32_t *indices

    void pe_op_linear(pe_thread *thread, const pe_kernels *kernels, const pe_linear *linear, const pe_rows *rows,
                      int64_t n_rows, pe_activation activation, const float *residual, int64_t ldr, float *y,
                      int64_t ldy) noexcept
    void pe_op_logits(pe_thread *thread, const pe_kernels *kernels, const pe_linear *output, const pe_rows *rows,
                      const pe_logits_request *request, const pe_logits_scratch *scratch) noexcept
    void pe_op_logits_merge(pe_thread *thread, int64_t vocabulary, const pe_logits_request *request,
                            const pe_logits_scratch *scratch) noexcept

cdef extern from "model/model.h" nogil:
    ctypedef enum pe_placement:
        PE_POST
        PE_PRE
        PE_PARALLEL

    ctypedef struct pe_sublayer:
        pe_linear output
        pe_norm norm
        pe_norm after

    ctypedef struct pe_attention:
        pe_sublayer sub
        pe_heads heads
        pe_linear input
        pe_linear memory

    ctypedef struct pe_feed_forward:
        pe_sublayer sub
        pe_linear up
        pe_activation activation
        bint gated

    ctypedef struct pe_layer:
        pe_attention self
        pe_attention cross
        pe_feed_forward ffn

    ctypedef struct pe_stack:
        int64_t n
        int64_t max_positions
        int64_t vocab
        pe_layer *layers
        pe_placement placement
        pe_norm_kind norm_kind
        float epsilon
        pe_embedding embedding
        pe_norm final
        pe_biases biases

    ctypedef enum pe_pool:
        PE_POOL_NONE
        PE_POOL_FIRST
        PE_POOL_LAST
        PE_POOL_MEAN

    ctypedef struct pe_head:
        pe_pool pool
        pe_linear dense
        pe_activation activation
        pe_norm norm
        pe_linear out

    ctypedef struct pe_model:
        pe_kernels kernels
        bint hadamard
        bint int8_rows
        pe_kv_type kv
        int64_t width
        pe_stack encoder
        pe_stack decoder
        pe_ropes ropes
        pe_linear output
        float logit_soft_cap
        int64_t n_heads
        pe_head *heads

    pe_status pe_model_allocate(pe_model *model) noexcept
    pe_status pe_model_link(pe_model *model) noexcept
    void pe_model_free(pe_model *model) noexcept

cdef extern from "model/kv_cache.h" nogil:
    ctypedef struct pe_page_pool:
        int64_t n_free
        int64_t n_pages

    ctypedef struct pe_kv_cache:
        int n_groups
        pe_page_pool *pools
        int64_t most_bytes

    int64_t pe_kv_bytes(const pe_kv_cache *cache) noexcept
    int64_t pe_kv_sequence_bytes(const pe_kv_cache *cache, int64_t tokens, int64_t rows) noexcept
    int64_t pe_kv_memory_bytes(const pe_kv_cache *cache, int64_t tokens) noexcept

cdef extern from "model/shortlist.h" nogil:
    ctypedef struct pe_shortlist:
        pe_linear rows
        int64_t held

cdef extern from "model/session.h" nogil:
    ctypedef struct pe_plan:
        int64_t n_forks
        const int32_t *forks
        int64_t n_free_sequences
        const int32_t *free_sequences
        int64_t n_free_memories
        const int32_t *free_memories
        int64_t n_segments
        const int32_t *segment_lengths
        const int32_t *segment_memories
        int64_t n_source_tokens
        const int32_t *source_tokens
        const int32_t *source_types
        float *states
        const pe_head *head
        float *answers
        int64_t ld_answers
        const int32_t *list_offsets
        const int32_t *list_ids
        int64_t n_rows
        const int32_t *tokens
        const int32_t *sequences
        const int32_t *memories
        const int32_t *rope_sets
        const int32_t *logit_rows
        pe_logits_request logits

    ctypedef void pe_observer(void *context, const pe_linear *linear, const float *x, int64_t n_rows,
                              int64_t ld) noexcept

    ctypedef struct pe_session:
        pe_kv_cache cache
        pe_shortlist shortlist
        pe_observer *observer
        void *observed_for
        char *message
        int64_t pages_needed
        int64_t pages_available

    pe_status pe_session_create(pe_session *session, const pe_model *model, int threads, int64_t max_rows,
                                int64_t max_sequences, int64_t max_memories, int64_t cache_bytes) noexcept
    int64_t pe_head_outputs(const pe_model *model, const pe_head *head) noexcept
    int64_t pe_session_working_bytes(const pe_session *session) noexcept
    void pe_session_destroy(pe_session *session) noexcept
    pe_status pe_session_step(pe_session *session, const pe_plan *plan, pe_crew *crew) noexcept
    void pe_session_clear(pe_session *session) noexcept

cdef extern from "search/beam.h" nogil:
    ctypedef bint bint_t "bool"

    ctypedef enum pe_early_stopping:
        PE_STOP_LIKELY
        PE_STOP_EARLY
        PE_STOP_NEVER

    ctypedef struct pe_beam_search:
        int64_t beams
        const int32_t *end
        int64_t n_end
        double never
        pe_early_stopping early_stopping
        bint_t flattering
        double length_penalty
        double *scores
        int32_t *last
        int32_t *sequences
        int32_t *length
        const int32_t *prompt
        const int32_t *maximum
        bint_t *ended
        double *ended_scores
        int32_t *ended_lengths
        int32_t *const *histories
        const int64_t *capacity
        bint_t *used
        int64_t n_used
        double *totals
        double *running
        int32_t *order
        int32_t *chosen
        int32_t *held

    ctypedef struct pe_candidates:
        int64_t width
        const int32_t *ids
        const double *values
        bint_t shared

    ctypedef struct pe_beam_changes:
        int32_t *forks
        int64_t n_forks
        int32_t *freed
        int64_t n_freed

    bint_t pe_beam_advance(const pe_beam_search *search, int64_t slot, const pe_candidates *candidates,
                           pe_beam_changes *changes) noexcept

cdef extern from "search/draw.h" nogil:
    ctypedef struct pe_filters:
        double temperature
        int64_t top_k
        double top_p
        double min_p
        double typical_p

    ctypedef struct pe_choice:
        double weight
        int32_t place

    int64_t pe_keep(const pe_filters *filters, const double *values, int64_t n, pe_choice *kept, double *total) noexcept
    int64_t pe_best(pe_choice *kept, int64_t n, int64_t k) noexcept
    int32_t pe_draw(const pe_choice *kept, int64_t n, double total, double number) noexcept
    double pe_uniform(uint64_t seed, uint32_t sample, uint32_t position) noexcept

cdef extern from "search/ahead.h" nogil:
    ctypedef struct pe_ahead:
        pe_session *session
        pe_plan *plan
        pe_crew *crew
        int64_t steps
        int64_t until

    ctypedef struct pe_beam_room:
        int32_t *ids
        double *values
        int32_t *tokens
        int32_t *sequences
        bint_t *done
        pe_beam_changes changes

    pe_status pe_follow_best(const pe_ahead *ahead, const int32_t *end, int64_t n_end, int32_t *ids, double *log_probs,
                             int64_t *passed) noexcept
    pe_status pe_follow_beams(const pe_ahead *ahead, const pe_beam_search *search, const int64_t *live, int64_t n,
                              pe_beam_room *room, bint_t *any_done) noexcept
