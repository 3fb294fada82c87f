/* What the files of this program share. */
#ifndef PE_TESTS_CHECK_CORE_H
#define PE_TESTS_CHECK_CORE_H

#include "base/intmath.h"
#include "model/session.h"

#define EPSILON 1.1920929e-7 /* float32: the distance from 1 to the next number */

uint64_t next_random(void);
float random_float(void);
int8_t random_weight(void);
float *random_floats(int64_t n);
void *new_memory(size_t size); /* zeroed, 64-byte aligned; pe_aligned_free */
uint64_t fingerprint(uint64_t hash, const void *data, size_t size);
void expect_near(const char *what, double got, double expected, double bound);

/* Random products with rounded weights [n, k] and m rows against plain loops; their results go into the hash. */
void check_int4(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, int64_t group, bool zero_points,
                uint64_t *hash);
void check_sparse(const pe_kernels *kernels, int64_t m, int64_t n, int64_t k, uint64_t *hash);

/* A fingerprint of the logits of a tiny random model. Checks that one thread and three, and rows all at once and one
   a step, give the same bytes. */
uint64_t check_model(const pe_kernels *kernels, pe_weight_type weights);

#endif
