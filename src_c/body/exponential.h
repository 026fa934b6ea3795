/* e^x and what is made of it, lane by lane, so that every element has the same bits wherever it stands. NaN stays.
 *
 * Coefficients are minimax fits in double precision; errors are of float32 results, in units in the last place (ulp).
 */
static inline vf v_abs(vf x) { return v_sub(v_positive(x), v_negative(x)); }
static inline vf v_minus_abs(vf x) { return v_sub(v_negative(x), v_positive(x)); }
static inline vf v_at_least(vf x, vf bound) { return v_if_negative(v_sub(x, bound), bound, x); }
static inline vf v_at_most(vf x, vf bound) { return v_if_negative(v_sub(bound, x), bound, x); }

/* c[0] + c[1] x + ... + c[n - 1] x^(n - 1) */
FLRP_INLINE vf polynomial(const int n, const float *c, vf x) {
    vf sum = v_set1(c[n - 1]);
    for (int i = n - 2; i >= 0; i--) sum = v_fma(sum, x, v_set1(c[i]));
    return sum;
}

static inline vf v_round(vf x) { /* to the nearest whole number, below 2^22 */
    const vf large = v_set1(12582912);
    return v_sub(v_add(x, large), large);
}

/* x = n ln 2 + r, |r| <= ln 2 / 2: gives n, and e^r - 1 within 1 ulp. */
static inline vf split_exponent(vf x, vf *n) {
    static const float c[] = {0.49999997f, 0.16666543f, 0.0416672f, 0.00836658f, 0.00138825097f};
    *n = v_round(v_mul(x, v_set1(1.44269504f)));
    vf r = v_fma(*n, v_set1(-0.693359375f), x); /* exact: the constant has nine bits */
    r = v_fma(*n, v_set1(2.12194440e-4f), r);
    return v_fma(v_mul(r, r), polynomial(5, c, r), r);
}

/* e^x for x <= 0, within 1 ulp, denormal results too: hence 2^n in two steps. */
static inline vf v_exp(vf x) {
    vf n;
    const vf q = split_exponent(v_at_least(x, v_set1(-104)), &n), half = v_round(v_mul(n, v_set1(0.5f)));
    return v_mul(v_mul(v_add(q, v_set1(1)), v_power2(half)), v_power2(v_sub(n, half)));
}

/* e^x - 1 for x <= 0, within 2 ulp, also near 0. */
static inline vf v_expm1(vf x) {
    vf n;
    const vf q = split_exponent(v_at_least(x, v_set1(-80)), &n), scale = v_power2(n);
    return v_fma(scale, q, v_sub(scale, v_set1(1)));
}

/* log(1 + w) = 2 artanh(s), s = w / (2 + w), for 0 <= w <= 1, within 2 ulp. */
static inline vf v_log1p(vf w) {
    static const float c[] = {0.66666412f, 0.400217f, 0.27999139f, 0.28024468f};
    const vf s = v_div(w, v_add(w, v_set1(2))), z = v_mul(s, s);
    return v_fma(v_mul(s, z), polynomial(4, c, z), v_add(s, s));
}

/* 1 / (1 + e^-x) and 1 / (1 + e^x), each within 2 ulp of itself. */
static inline vf v_sigmoid(vf x, vf *opposite) {
    const vf e = v_exp(v_minus_abs(x)), large = v_div(v_set1(1), v_add(e, v_set1(1))), small = v_mul(e, large);
    *opposite = v_if_negative(x, large, small);
    return v_if_negative(x, small, large);
}

/* The normal distribution's cumulated density at x, and *bell = e^(-x^2 / 2). The tail beyond a = |x| is bell times a
 * smooth function, here 4 / (4 + a) times a polynomial in (a - 4) / (a + 4): relative errors grow with a^2 only. */
static inline vf normal_cdf(vf x, vf *bell) {
    static const float c[] = {0.188821286f, -0.151974142f, 0.0967842266f, -0.0466308594f, 0.0151009578f,
                              -0.0018813177f, -8.78138409e-4f, 3.92480637e-4f, 4.48383398e-5f, -3.2992986e-5f};
    const vf four = v_set1(4), a = v_at_most(v_abs(x), v_set1(15)), inverse = v_div(v_set1(1), v_add(a, four));
    *bell = v_exp(v_mul(v_mul(a, a), v_set1(-0.5f)));
    const vf tail = v_mul(v_mul(*bell, v_mul(inverse, four)), polynomial(10, c, v_mul(v_sub(a, four), inverse)));
    return v_if_negative(x, tail, v_sub(v_set1(1), tail));
}
