/* Eight lanes: AVX2 with FMA. */
#ifndef FLRP_VEC_H
#define FLRP_VEC_H

#include <immintrin.h>

#define ISA_NAME "avx2"
#define VW 8
#define PANEL_VECTORS 2

typedef __m256 vf;

static inline __m256i v_first(int64_t n) { /* all ones in the first n lanes */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf v_set1(float x) { return _mm256_set1_ps(x); }
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
static inline void v_stream(float *p, vf v) { _mm256_stream_ps(p, v); }
static inline vf v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, v_first(n)); }
static inline void v_store_n(float *p, vf v, int64_t n) { /* masked stores are slow on some processors */
    __m128 part = _mm256_castps256_ps128(v);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, part);
}
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* A square of 8 x 8. */
static inline void v_transpose(const float *src, int64_t src_stride, float *dst, int64_t dst_stride) {
    vf a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = v_load(src + i * src_stride);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) { /* of each row's pairs: the four quarters of both halves */
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v_store(dst + i * dst_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        v_store(dst + (i + 4) * dst_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}
#define v_transpose v_transpose
/* Four sums across lanes, each ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)). */
static inline void v_sum4(const vf *v, float *out) {
    const vf pairs = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
#define v_sum4 v_sum4
static inline vf v_if_negative(vf d, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(d, _mm256_setzero_ps(), _CMP_LT_OQ));
}
static inline vf v_if_zero(vf d, vf yes, vf no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(d, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
/* max and min give their second operand where one is NaN: NaN stays. */
static inline vf v_positive(vf x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }
static inline vf v_negative(vf x) { return _mm256_min_ps(_mm256_setzero_ps(), x); }
/* 2^n for whole n from -126 to 127: the sum ends in the bits of n + 127. */
static inline vf v_power2(vf n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(12583039))), 23));
}

#endif
