#include "base/angles.h"

#include <math.h>

#define LARGEST 0x1p24
#define TWO_OVER_PI 0x1.45f306dc9c883p-1

/* pi/2 in three parts. The first two have 29 bits: times a whole number of 24 they are exact. */
#define HALF_PI_HIGH 0x1.921fb54p+0
#define HALF_PI_MIDDLE 0x1.10b4612p-30
#define HALF_PI_LOW (-0x1.676733ae8fe48p-60)

#define ROUNDER 0x1.8p52 /* added and subtracted again: rounds to a whole number, ties to even */

/* Taylor's series of r in [-pi/4, pi/4], errors below 3e-14. */
static inline double sine(double r) {
    const double z = r * r;
    double p = 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    return p * z * r + r;
}

static inline double cosine(double r) {
    const double z = r * r;
    double p = -1.0 / 87178291200.0;
    p = p * z + 1.0 / 479001600.0;
    p = p * z - 1.0 / 3628800.0;
    p = p * z + 1.0 / 40320.0;
    p = p * z - 1.0 / 720.0;
    p = p * z + 1.0 / 24.0;
    p = p * z - 1.0 / 2.0;
    return p * z + 1.0;
}

static inline void pe_sincos(double x, double *sin_x, double *cos_x) {
    if (!(fabs(x) <= LARGEST)) {
        *sin_x = *cos_x = NAN;
        return;
    }
    /* x = n pi/2 + r (Cody and Waite, 1980) */
    const double n = x * TWO_OVER_PI + ROUNDER - ROUNDER;
    const double r = x - n * HALF_PI_HIGH - n * HALF_PI_MIDDLE - n * HALF_PI_LOW;
    const int quarter = (int)n & 3;
    const double both[] = {sine(r), cosine(r)};
    *sin_x = both[quarter & 1] * (1 - (quarter & 2));
    *cos_x = both[~quarter & 1] * (1 - ((quarter + 1) & 2));
}

void pe_angles(int64_t position, const float *frequencies, int64_t n, float factor, float *cosines, float *sines) {
    for (int64_t i = 0; i < n; i++) {
        const float angle = (float)position * frequencies[i];
        double s, c;
        pe_sincos(angle, &s, &c);
        cosines[i] = (float)(c * factor);
        sines[i] = (float)(s * factor);
    }
}
