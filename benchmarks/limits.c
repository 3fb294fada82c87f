/* What this machine can do at most: how fast it reads memory, and how fast it multiplies. Prints one JSON object.

       limits THREADS [BYTES...]

   Shares no code with the engine. Each figure is the best of short repetitions, since other tenants slow a machine
   down and nothing speeds it up. x86-64 only: elsewhere only bandwidth is measured. */
#define _GNU_SOURCE
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { HUGE = 2 << 20, ROUNDS = 200000 };
static const double SECONDS = 0.25; /* for each figure */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile uint64_t sink;

typedef uint64_t words __attribute__((vector_size(64)));

static void read_all(const uint8_t *from, size_t bytes) {
    const words *w = (const words *)(const void *)from;
    words a = w[0], b = a, c = a, d = a;
    for (size_t i = 0; i + 4 <= bytes / sizeof *w; i += 4) {
        a |= w[i];
        b |= w[i + 1];
        c |= w[i + 2];
        d |= w[i + 3];
    }
    a |= b | c | d;
    sink += a[0];
}

#if defined(__x86_64__)
/* The same with the widest loads there are: the compiler picks one clone at run time by name, not by itself. */
__attribute__((target("avx512f"))) static void read_all_avx512(const uint8_t *from, size_t bytes) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i + 256 <= bytes; i += 256) {
        a = _mm512_or_si512(a, _mm512_load_si512(from + i));
        b = _mm512_or_si512(b, _mm512_load_si512(from + i + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(from + i + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(from + i + 192));
    }
    sink += (uint64_t)_mm512_reduce_or_epi64(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)));
}
#endif

static void read_part(const uint8_t *from, size_t bytes) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        read_all_avx512(from, bytes);
        return;
    }
#endif
    read_all(from, bytes);
}

/* Bytes a second that `threads` read, each its own part of `bytes`. */
static double bandwidth(size_t bytes, int threads, int huge) {
    uint8_t *map = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return 0;
    uint8_t *data = (uint8_t *)(((uintptr_t)map + HUGE - 1) / HUGE * HUGE);
    madvise(data, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(data, 1, bytes);
    const size_t part = bytes / (size_t)threads / 4096 * 4096;
    double best = 1e9;
    for (double end = now() + SECONDS; now() < end;) {
        const double start = now();
#pragma omp parallel num_threads(threads)
        read_part(data + (size_t)omp_get_thread_num() * part, part);
        const double taken = now() - start;
        if (taken < best) best = taken;
    }
    munmap(map, bytes + HUGE);
    return (double)part * threads / best;
}

/* Seconds of a chain of additions, each waiting for the last: cycles. */
static double cycles_a_second(void) {
    double best = 1e9;
    for (double end = now() + SECONDS; now() < end;) {
        const double start = now();
        uint64_t x = 1;
        for (int i = 0; i < ROUNDS; i++) __asm__ volatile("add $1, %0" : "+r"(x));
        const double taken = now() - start;
        if (taken < best) best = taken;
    }
    return ROUNDS / best;
}

#if defined(__x86_64__)
/* Twelve independent chains: more than the latency of one times the units that run it. */
#define TWELVE(op) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13)
#define VNNI(n) "vpdpbusd %%zmm1, %%zmm1, %%zmm" #n "\n"
#define FMA512(n) "vfmadd231ps %%zmm1, %%zmm1, %%zmm" #n "\n"
#define FMA256(n) "vfmadd231ps %%ymm1, %%ymm1, %%ymm" #n "\n"
/* The exact product of signed bytes without VNNI: 32 of them in four instructions. */
#define MADD(n)                                                                          \
    "vpsignb %%ymm1, %%ymm1, %%ymm14\nvpmaddubsw %%ymm14, %%ymm1, %%ymm14\n"             \
    "vpmaddwd %%ymm14, %%ymm1, %%ymm14\nvpaddd %%ymm14, %%ymm" #n ", %%ymm" #n "\n"
#define CLOBBERS                                                                                                    \
    "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14"
#define RUN(op)                                                                                        \
    for (int i = 0; i < ROUNDS; i++) __asm__ volatile(TWELVE(op) : : : CLOBBERS)

typedef enum { INT8_AVX512, INT8_AVX2, F32_AVX512, F32_AVX2 } unit;
static const double OPERATIONS[] = {12 * 128, 12 * 64, 12 * 32, 12 * 16};

static void multiply(unit u) {
    switch (u) {
    case INT8_AVX512: RUN(VNNI); break;
    case INT8_AVX2: RUN(MADD); break;
    case F32_AVX512: RUN(FMA512); break;
    case F32_AVX2: RUN(FMA256); break;
    }
}

static double operations(unit u, int threads) {
    double best = 1e9;
    for (double end = now() + SECONDS; now() < end;) {
        double start = 0;
#pragma omp parallel num_threads(threads)
        {
#pragma omp barrier
#pragma omp master
            start = now();
            multiply(u);
        }
        const double taken = now() - start;
        if (taken < best) best = taken;
    }
    return OPERATIONS[u] * ROUNDS * threads / best;
}
#endif

int main(int count, char **arguments) {
    if (count < 2) return 2;
    const int threads = atoi(arguments[1]), teams[] = {1, threads};
    printf("{\"clock\": %.0f, \"threads\": %d", cycles_a_second(), threads);
    for (int i = 2; i < count; i++)
        for (int huge = 0; huge < 2; huge++)
            for (int t = 0; t < 2; t++)
                printf(", \"read %s %s pages %s\": %.0f", arguments[i], huge ? "huge" : "small", t ? "all" : "one",
                       bandwidth((size_t)atoll(arguments[i]), teams[t], huge));
#if defined(__x86_64__)
    const int wide = __builtin_cpu_supports("avx512f"), vnni = wide && __builtin_cpu_supports("avx512vnni");
    if (__builtin_cpu_supports("avx2"))
        for (int t = 0; t < 2; t++) {
            printf(", \"int8 avx2 %s\": %.0f", t ? "all" : "one", operations(INT8_AVX2, teams[t]));
            if (vnni) printf(", \"int8 avx512vnni %s\": %.0f", t ? "all" : "one", operations(INT8_AVX512, teams[t]));
            printf(", \"float32 %s\": %.0f", t ? "all" : "one", operations(wide ? F32_AVX512 : F32_AVX2, teams[t]));
        }
#endif
    printf("}\n");
    return 0;
}
