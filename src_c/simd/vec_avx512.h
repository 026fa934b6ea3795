/* Sixteen lanes: AVX-512 F. */
#ifndef FLRP_VEC_H
#define FLRP_VEC_H

#ifdef FLRP_EMULATE_AVX512 /* a test build for processors without it */
#include "../../tests/emulate_avx512.h"
#else
#include <immintrin.h>
#endif

#define ISA_NAME "avx512"
#define VW 16
#define PANEL_VECTORS 4

typedef __m512 vf;

static inline __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1); } /* the first n lanes */
static inline vf v_set1(float x) { return _mm512_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_first(n), p); }
static inline void v_store_n(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), v); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf v_if_negative(vf d, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(d, _mm512_setzero_ps(), _CMP_LT_OQ), no, yes);
}
static inline vf v_if_zero(vf d, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(d, _mm512_setzero_ps(), _CMP_EQ_OQ), no, yes);
}
/* max and min give their second operand where one is NaN: NaN stays. */
static inline vf v_positive(vf x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }
static inline vf v_negative(vf x) { return _mm512_min_ps(_mm512_setzero_ps(), x); }
/* 2^n for whole n from -126 to 127: the sum ends in the bits of n + 127. */
static inline vf v_power2(vf n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(_mm512_add_ps(n, _mm512_set1_ps(12583039))), 23));
}

#endif
