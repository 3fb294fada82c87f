/* What the files of this program share. */
#ifndef PE_TESTS_CHECK_CORE_H
#define PE_TESTS_CHECK_CORE_H

#include "base/angles.h"
#include "base/intmath.h"
#include "model/session.h"

#define EPSILON 1.1920929e-7 /* float32: the distance from 1 to the next number */

uint64_t next_random(void);
float random_float(void);
int8_t random_weight(void);
float *random_floats(int64_t n);
void *new_memory(size_t size); /* zeroed, and no byte more, so that sanitizers see what reads on; free */
uint64_t fingerprint(uint64_t hash, const void *data, size_t size);
void expect_near(const char *what, double got, double expected, double bound);

/* A fingerprint of random products with int4 weights, or with sparse int8 weights, which are held against plain
   loops. */
uint64_t check_int4(const pe_kernels *kernels);
uint64_t check_sparse(const pe_kernels *kernels);

/* A fingerprint of the logits of a tiny random model. Checks that one thread and three, and rows all at once and one
   a step, give the same bytes. */
uint64_t check_model(const pe_kernels *kernels, pe_weight_type weights);

#endif
