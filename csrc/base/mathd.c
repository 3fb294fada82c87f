#include "base/mathd.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* high + low, where high is their sum rounded: twice the digits of a double. */
typedef struct pair {
    double high, low;
} pair;

#define LN2_HIGH 0x1.62e42fefa38p-1 /* a multiple of 2^-42: times an exponent it is exact */
#define LN2_LOW 0x1.ef35793c7673p-45
#define LOG2E 0x1.71547652b82fep+0
#define SQRT2 0x1.6a09e667f3bcdp+0
#define EXP_LOW -708.39
#define EXP_HIGH 709.79

/* a + b, exactly: Knuth's sum. */
static pair add(double a, double b) {
    const double sum = a + b, of_b = sum - a;
    return (pair){sum, (a - (sum - of_b)) + (b - of_b)};
}

static pair multiply(pair a, pair b) {
    const double product = a.high * b.high;
    return add(product, fma(a.high, b.high, -product) + (a.high * b.low + a.low * b.high));
}

/* c[0] + c[1] x + ... + c[11] x^11, even and odd powers side by side. */
static double polynomial(const double c[12], double x) {
    const double square = x * x;
    double even = c[10], odd = c[11];
    for (int i = 8; i >= 0; i -= 2) {
        even = even * square + c[i];
        odd = odd * square + c[i + 1];
    }
    return even + odd * x;
}

/* 2^n, a normal number. */
static double power_of_two(int n) {
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* ln x of a positive finite x, relative error below 2^-60: x = m 2^n with m between sqrt(1/2) and sqrt(2), and
   ln m = 2 s (1 + s^2/3 + s^4/5 + ...) with s = (m - 1) / (m + 1), |s| < 0.172. */
static pair log_pair(double x) {
    static const pair third = {0x1.5555555555555p-2, 0x1.5555555555555p-56};
    static const double following[] = {1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11, 1.0 / 13, 1.0 / 15,
                                       1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23, 1.0 / 25, 1.0 / 27};
    int n = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        n = -54;
    }
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    n += (int)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffff) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > SQRT2) {
        m *= 0.5;
        n++;
    }

    const pair above = add(m, 1.0);
    pair s = {(m - 1.0) / above.high, 0.0};
    s.low = (fma(-s.high, above.high, m - 1.0) - s.high * above.low) / above.high;
    const pair z = multiply(s, s);
    const pair series = add(third.high, z.high * polynomial(following, z.high) + third.low);
    const pair rest = multiply(multiply(series, z), s);
    const pair half = add(s.high, rest.high); /* of ln m */
    const pair whole = add(n * LN2_HIGH, 2.0 * half.high);
    return add(whole.high, whole.low + (2.0 * (half.low + (s.low + rest.low)) + n * LN2_LOW));
}

/* e^(high + low): x = r + n ln 2 with |r| < 0.35, and the series of e^r. */
static double exp_pair(pair x) {
    static const double from_third[] = {
        1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,        1.0 / 5040,        1.0 / 40320,
        1.0 / 362880,  1.0 / 3628800,  1.0 / 39916800,  1.0 / 479001600,  1.0 / 6227020800,  1.0 / 87178291200,
    };
    if (isnan(x.high)) return x.high;
    if (x.high < EXP_LOW) return 0.0;
    if (x.high > EXP_HIGH) return INFINITY;
    const int n = (int)nearbyint(x.high * LOG2E);
    const pair r = add(x.high - n * LN2_HIGH, x.low - n * LN2_LOW);
    const double squares = r.high * r.high * (0.5 + r.high * polynomial(from_third, r.high));
    const pair minus_one = add(r.high, squares + (r.low + r.low * r.high));
    const pair power = add(1.0, minus_one.high);
    /* In two steps: 2^1024 is no double. */
    return (power.high + (power.low + minus_one.low)) * power_of_two(n - n / 2) * power_of_two(n / 2);
}

double pe_expd(double x) { return exp_pair((pair){x, 0.0}); }

double pe_logd(double x) {
    if (!(x > 0.0)) return x == 0.0 ? -INFINITY : NAN;
    return isinf(x) ? x : log_pair(x).high;
}

double pe_powd(double x, double y) { return exp_pair(multiply(log_pair(x), (pair){y, 0.0})); }
