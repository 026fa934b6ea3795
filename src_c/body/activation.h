/* Activations and the gradients that come back through them; slopes at kinks are PyTorch's.
 * reference.ACTIVATIONS has the formulas.
 */

/* v where d > 0, else 0; v too where d is NaN. */
static inline vf where_positive(vf d, vf v) { return v_if_negative(d, v_set1(0), v_if_zero(d, v_set1(0), v)); }

static inline vf tanh_of(vf x) {
    const vf t = v_expm1(v_mul(v_abs(x), v_set1(-2))), y = v_div(t, v_add(t, v_set1(2))); /* -tanh |x| */
    return v_if_negative(x, y, v_sub(v_set1(0), y));
}
static inline vf tanh_slope(vf x) { /* 1 - tanh^2 without cancellation */
    const vf e = v_exp(v_mul(v_abs(x), v_set1(-2))), y = v_div(v_set1(2), v_add(e, v_set1(1)));
    return v_mul(e, v_mul(y, y));
}

static inline vf sigmoid(vf x) {
    vf opposite;
    return v_sigmoid(x, &opposite);
}
static inline vf sigmoid_slope(vf x) {
    vf opposite;
    const vf y = v_sigmoid(x, &opposite);
    return v_mul(y, opposite);
}

static inline vf softplus(vf x) { return v_add(v_positive(x), v_log1p(v_exp(v_minus_abs(x)))); }

static inline vf elu(vf x, vf alpha) { return v_fma(alpha, v_expm1(v_negative(x)), v_positive(x)); }
static inline vf elu_back(vf x, vf g, vf alpha) {
    const vf below = v_mul(g, v_mul(alpha, v_exp(v_negative(x))));
    return v_if_negative(x, below, v_if_zero(x, below, g));
}

static inline vf gelu(vf x) {
    vf bell;
    return v_mul(x, normal_cdf(x, &bell));
}
static inline vf gelu_slope(vf x) {
    vf bell;
    const vf y = normal_cdf(x, &bell);
    return v_fma(x, v_mul(bell, v_set1(0.398942280f)), y);
}

/* x / 2 (1 + tanh u) = x sigmoid(2 u) */
#define GELU_INNER 1.59576912f /* 2 sqrt(2 / pi) */
#define GELU_CUBIC 0.044715f
static inline vf gelu_inner(vf x) {
    return v_mul(v_mul(x, v_set1(GELU_INNER)), v_fma(v_mul(x, x), v_set1(GELU_CUBIC), v_set1(1)));
}
static inline vf gelu_tanh(vf x) { return v_mul(x, sigmoid(gelu_inner(x))); }
static inline vf gelu_tanh_slope(vf x) {
    const vf a = v_at_most(v_abs(x), v_set1(30)); /* beyond, the slope is 0 or 1 */
    const vf inner = v_mul(v_set1(GELU_INNER), v_fma(v_mul(a, a), v_set1(3 * GELU_CUBIC), v_set1(1)));
    vf small;
    const vf large = v_sigmoid(gelu_inner(a), &small);
    return v_fma(x, v_mul(v_mul(large, small), inner), v_if_negative(x, small, large));
}

static inline vf silu_slope(vf x) {
    vf opposite;
    const vf y = v_sigmoid(x, &opposite);
    return v_fma(v_mul(x, opposite), y, y);
}

static inline vf hardsigmoid(vf x) {
    return v_div(v_at_most(v_positive(v_add(x, v_set1(3))), v_set1(6)), v_set1(6));
}
static inline vf hardsigmoid_back(vf x, vf g) {
    const vf three = v_set1(3), inside = where_positive(v_sub(three, x), v_div(g, v_set1(6)));
    return where_positive(v_add(x, three), inside);
}
static inline vf hardswish_back(vf x, vf g) {
    const vf three = v_set1(3), middle = v_mul(g, v_add(v_div(x, three), v_set1(0.5f)));
    return where_positive(v_add(x, three), v_if_negative(v_sub(x, three), middle, g));
}

/* tanh(softplus(x)) = n / (n + m): with e = e^-|x|, n = 1 + 2e and m = 2e^2 for x >= 0, n = e (e + 2) and m = 2 below. */
static inline vf mish_gate(vf x, vf *opposite) {
    const vf two = v_set1(2), e = v_exp(v_minus_abs(x));
    const vf n = v_if_negative(x, v_mul(e, v_add(e, two)), v_fma(two, e, v_set1(1)));
    const vf m = v_if_negative(x, two, v_mul(two, v_mul(e, e))), inverse = v_div(v_set1(1), v_add(n, m));
    *opposite = v_mul(m, inverse);
    return v_mul(n, inverse);
}
static inline vf mish(vf x) {
    vf opposite;
    return v_mul(x, mish_gate(x, &opposite));
}
static inline vf mish_slope(vf x) {
    vf opposite;
    const vf y = mish_gate(x, &opposite), square = v_mul(opposite, v_add(y, v_set1(1))); /* 1 - tanh^2 */
    return v_fma(x, v_mul(sigmoid(x), square), y);
}

#define SELU_SCALE 1.05070099f
#define SELU_ALPHA 1.67326324f

static void activation(int kind, float parameter, int64_t n, const float *x, float *out) {
    const vf p = v_set1(parameter), scale = v_set1(SELU_SCALE), alpha = v_set1(SELU_ALPHA);
#define EACH(value) \
    for (int64_t i = 0; i < n; i += VW) { \
        const vf v = load_some(x + i, n - i); \
        store_some(out + i, value, n - i); \
    }
    switch (kind) {
    case FLRP_RELU: EACH(v_positive(v)) break;
    case FLRP_LEAKY_RELU: EACH(v_if_negative(v, v_mul(p, v), v)) break;
    case FLRP_CAPPED_RELU: EACH(v_at_most(v_positive(v), p)) break;
    case FLRP_AT_LEAST: EACH(v_at_least(v, p)) break;
    case FLRP_AT_MOST: EACH(v_at_most(v, p)) break;
    case FLRP_ABS: EACH(v_abs(v)) break;
    case FLRP_TANH: EACH(tanh_of(v)) break;
    case FLRP_SIGMOID: EACH(sigmoid(v)) break;
    case FLRP_SOFTPLUS: EACH(softplus(v)) break;
    case FLRP_ELU: EACH(elu(v, p)) break;
    case FLRP_SELU: EACH(v_mul(scale, elu(v, alpha))) break;
    case FLRP_GELU: EACH(gelu(v)) break;
    case FLRP_GELU_TANH: EACH(gelu_tanh(v)) break;
    case FLRP_SILU: EACH(v_mul(v, sigmoid(v))) break;
    case FLRP_HARDSWISH: EACH(v_mul(v, hardsigmoid(v))) break;
    case FLRP_HARDSIGMOID: EACH(hardsigmoid(v)) break;
    case FLRP_MISH: EACH(mish(v)) break;
    }
#undef EACH
}

static void activation_backward(int kind, float parameter, int64_t n, const float *x, const float *g, float *out) {
    const vf p = v_set1(parameter), zero = v_set1(0), scale = v_set1(SELU_SCALE), alpha = v_set1(SELU_ALPHA);
#define EACH(value) \
    for (int64_t i = 0; i < n; i += VW) { \
        const vf v = load_some(x + i, n - i), w = load_some(g + i, n - i); \
        store_some(out + i, value, n - i); \
    }
    switch (kind) {
    case FLRP_RELU: EACH(where_positive(v, w)) break;
    case FLRP_LEAKY_RELU: EACH(v_if_negative(v, v_mul(p, w), v_if_zero(v, v_mul(p, w), w))) break;
    case FLRP_CAPPED_RELU: EACH(where_positive(v, where_positive(v_sub(p, v), w))) break;
    case FLRP_AT_LEAST: EACH(where_positive(v_sub(v, p), w)) break;
    case FLRP_AT_MOST: EACH(where_positive(v_sub(p, v), w)) break;
    case FLRP_ABS: /* 0 at 0, NaN at NaN */
        EACH(v_if_negative(v_sub(zero, v), w, v_if_negative(v, v_sub(zero, w), v)))
        break;
    case FLRP_TANH: EACH(v_mul(w, tanh_slope(v))) break;
    case FLRP_SIGMOID: EACH(v_mul(w, sigmoid_slope(v))) break;
    case FLRP_SOFTPLUS: EACH(v_mul(w, sigmoid(v))) break;
    case FLRP_ELU: EACH(elu_back(v, w, p)) break;
    case FLRP_SELU: EACH(v_mul(scale, elu_back(v, w, alpha))) break;
    case FLRP_GELU: EACH(v_mul(w, gelu_slope(v))) break;
    case FLRP_GELU_TANH: EACH(v_mul(w, gelu_tanh_slope(v))) break;
    case FLRP_SILU: EACH(v_mul(w, silu_slope(v))) break;
    case FLRP_HARDSWISH: EACH(hardswish_back(v, w)) break;
    case FLRP_HARDSIGMOID: EACH(hardsigmoid_back(v, w)) break;
    case FLRP_MISH: EACH(v_mul(w, mish_slope(v))) break;
    }
#undef EACH
}
