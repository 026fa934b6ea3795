/* Four lanes of the compiler's own vectors: any target, no fused multiply-add. */
#ifndef FLRP_VEC_H
#define FLRP_VEC_H

#include <math.h>
#include <string.h>

#define ISA_NAME "portable"
#define VW 4
#define PANEL_VECTORS 2

typedef float vf __attribute__((vector_size(16)));
typedef int vmask __attribute__((vector_size(16)));
typedef unsigned vbits __attribute__((vector_size(16)));

static inline vf v_set1(float x) { return (vf){x, x, x, x}; }
static inline vf v_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
#define v_stream v_store
static inline vf v_load_n(const float *p, int64_t n) {
    vf v = v_set1(0);
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
}
static inline void v_store_n(float *p, vf v, int64_t n) { memcpy(p, &v, (size_t)n * sizeof(float)); }
static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_sub(vf a, vf b) { return a - b; }
static inline vf v_mul(vf a, vf b) { return a * b; }
static inline vf v_div(vf a, vf b) { return a / b; }
static inline vf v_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
static inline vf v_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf v_pick(vmask m, vf yes, vf no) { return (vf)((m & (vmask)yes) | (~m & (vmask)no)); }
static inline vf v_if_negative(vf d, vf yes, vf no) { return v_pick(d < v_set1(0), yes, no); }
static inline vf v_if_zero(vf d, vf yes, vf no) { return v_pick(d == v_set1(0), yes, no); }
static inline vf v_positive(vf x) { return v_pick(x < v_set1(0), v_set1(0), x); } /* NaN stays */
static inline vf v_negative(vf x) { return v_pick(x > v_set1(0), v_set1(0), x); }
/* 2^n for whole n from -126 to 127: the sum ends in the bits of n + 127. */
static inline vf v_power2(vf n) { return (vf)((vbits)(n + v_set1(12583039)) << 23); }

#endif
