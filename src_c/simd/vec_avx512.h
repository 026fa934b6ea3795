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
static inline void v_stream(float *p, vf v) { _mm512_stream_ps(p, v); } /* past the caches; p is aligned */
static inline vf v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_first(n), p); }
static inline void v_store_n(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), v); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* A square of 16 x 16: pairs of rows, fours of rows, then quarters of registers to their places. */
static inline void v_transpose(const float *src, int64_t src_stride, float *dst, int64_t dst_stride) {
    vf a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = v_load(src + i * src_stride);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* a[i + j]: columns j, 4 + j, 8 + j and 12 + j of rows i to i + 3 */
        a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const vf even = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
        const vf even2 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
        const vf odd2 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
        v_store(dst + j * dst_stride, _mm512_shuffle_f32x4(even, even2, 0x88));
        v_store(dst + (4 + j) * dst_stride, _mm512_shuffle_f32x4(odd, odd2, 0x88));
        v_store(dst + (8 + j) * dst_stride, _mm512_shuffle_f32x4(even, even2, 0xdd));
        v_store(dst + (12 + j) * dst_stride, _mm512_shuffle_f32x4(odd, odd2, 0xdd));
    }
}
#define v_transpose v_transpose
/* Four sums across lanes: within quarters of a register, then of the quarters. */
static inline void v_sum4(const vf *v, float *out) {
    const vf low = v_add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const vf high = v_add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    vf sums = v_add(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xee));
    sums = v_add(sums, _mm512_shuffle_f32x4(sums, sums, 0x4e));
    v_store_n(out, v_add(sums, _mm512_shuffle_f32x4(sums, sums, 0xb1)), 4);
}
#define v_sum4 v_sum4
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
