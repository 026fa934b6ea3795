/* The AVX-512 intrinsics that src_c/simd/vec_avx512.h uses, in plain C, so that its kernels can be tested on
 * processors without them (FASTLRP_EMULATE_AVX512=1 at build time). Semantics from Intel's intrinsics guide.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef uint32_t __m512i __attribute__((vector_size(64)));
typedef uint16_t __mmask16;
enum { _CMP_EQ_OQ = 0x00, _CMP_LT_OQ = 0x11 };

#define EMULATED static inline __attribute__((always_inline))
#define EACH_LANE for (int i = 0; i < 16; i++)

EMULATED __m512 _mm512_set1_ps(float x) {
    __m512 r;
    EACH_LANE r[i] = x;
    return r;
}
EMULATED __m512 _mm512_setzero_ps(void) { return _mm512_set1_ps(0); }
EMULATED __m512 _mm512_loadu_ps(const void *p) {
    __m512 r;
    memcpy(&r, p, sizeof r);
    return r;
}
EMULATED void _mm512_storeu_ps(void *p, __m512 v) { memcpy(p, &v, sizeof v); }
EMULATED void _mm512_stream_ps(void *p, __m512 v) { memcpy(p, &v, sizeof v); }
EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void *p) {
    __m512 r;
    EACH_LANE r[i] = m >> i & 1 ? ((const float *)p)[i] : 0; /* lanes that are masked out are not touched */
    return r;
}
EMULATED void _mm512_mask_storeu_ps(void *p, __mmask16 m, __m512 v) {
    EACH_LANE if (m >> i & 1)((float *)p)[i] = v[i];
}
EMULATED __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
EMULATED __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
EMULATED __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
EMULATED __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
EMULATED __m512 _mm512_sqrt_ps(__m512 a) {
    for (int i = 0; i < 16; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    __m512 r;
    EACH_LANE r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
}
EMULATED __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
    __mmask16 m = 0;
    EACH_LANE m = (__mmask16)(m | ((how == _CMP_LT_OQ ? a[i] < b[i] : a[i] == b[i]) << i));
    return m;
}
EMULATED __m512 _mm512_mask_blend_ps(__mmask16 m, __m512 no, __m512 yes) {
    __m512 r;
    EACH_LANE r[i] = m >> i & 1 ? yes[i] : no[i];
    return r;
}
/* The second operand where either is NaN, or where both are zero. */
EMULATED __m512 _mm512_max_ps(__m512 a, __m512 b) {
    __m512 r;
    EACH_LANE r[i] = a[i] > b[i] ? a[i] : b[i];
    return r;
}
EMULATED __m512 _mm512_min_ps(__m512 a, __m512 b) {
    __m512 r;
    EACH_LANE r[i] = a[i] < b[i] ? a[i] : b[i];
    return r;
}
EMULATED __m512i _mm512_castps_si512(__m512 a) { return (__m512i)a; }
EMULATED __m512 _mm512_castsi512_ps(__m512i a) { return (__m512)a; }
EMULATED __m512i _mm512_slli_epi32(__m512i a, unsigned count) { return a << count; }
/* Within each quarter of a register: the first, or last, two lanes of both operands in turn. */
EMULATED __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) {
    __m512 r;
    EACH_LANE r[i] = i & 1 ? b[(i & 12) + (i >> 1 & 1)] : a[(i & 12) + (i >> 1 & 1)];
    return r;
}
EMULATED __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) {
    __m512 r;
    EACH_LANE r[i] = i & 1 ? b[(i & 12) + 2 + (i >> 1 & 1)] : a[(i & 12) + 2 + (i >> 1 & 1)];
    return r;
}
/* Within each quarter: two lanes of a, then two of b, each named by two bits of `which`; then the same of quarters. */
EMULATED __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int which) {
    __m512 r;
    EACH_LANE r[i] = (i & 2 ? b : a)[(i & 12) + (which >> 2 * (i & 3) & 3)];
    return r;
}
EMULATED __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int which) {
    __m512 r;
    EACH_LANE r[i] = (i & 8 ? b : a)[4 * (which >> 2 * (i >> 2) & 3) + (i & 3)];
    return r;
}
