/* The angles by which rotary positions turn queries and keys. Like mathf.h, without the C library's functions, which
   differ from machine to machine in the last bit. */
#ifndef PE_BASE_ANGLES_H
#define PE_BASE_ANGLES_H

#include <stdint.h>

/* cosines[i] = factor cos(a), sines[i] = factor sin(a) for i < n, with a = position frequencies[i] rounded to float32,
   as models were trained; both are computed in double and rounded once. NaN where |a| is above 2^24, where adjacent
   floats are more than a radian apart, or a is NaN. */
void pe_angles(int64_t position, const float *frequencies, int64_t n, float factor, float *cosines, float *sines);

#endif
