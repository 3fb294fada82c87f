/* The double-precision functions that scores are made of, out of IEEE operations in one order: those of the C library
   and of NumPy differ from system to system, and from instruction set to instruction set, in the last bit. Errors are
   below 0.65 ulp; where a double can hold the result of a power exactly, it is exact. */
#ifndef PE_BASE_MATHD_H
#define PE_BASE_MATHD_H

/* e**x; 0 below -708.39, so that no result is subnormal. */
double pe_expd(double x);

/* The natural logarithm; of 0 minus infinity, of less than 0 NaN. */
double pe_logd(double x);

/* x**y of a positive finite x and a y between -1e300 and 1e300; 0 where that is below e**-708.39. */
double pe_powd(double x, double y);

#endif
