/* One step of Adam, each operation rounded by itself, as NumPy would (train/optimizers.py). */
static int adam(int64_t n, const flrp_adam *a, const float *old, const float *g, float *m, float *v, float *out) {
    const vf beta1 = v_set1(a->beta1), beta2 = v_set1(a->beta2), rate = v_set1(a->rate), floor = v_set1(a->floor);
    const vf keep = v_set1(a->keep), zero = v_set1(0);
    vf sum = zero; /* of zero times every number: NaN where one is not finite */
    for (int64_t i = 0; i < n; i += VW) {
        const vf gradient = load_some(g + i, n - i);
        const vf first = v_add(v_mul(load_some(m + i, n - i), beta1), gradient);
        const vf second = v_add(v_mul(load_some(v + i, n - i), beta2), v_mul(gradient, gradient));
        const vf change = v_mul(v_div(first, v_add(v_sqrt(second), floor)), rate);
        const vf updated = v_sub(v_mul(load_some(old + i, n - i), keep), change);
        store_some(m + i, first, n - i);
        store_some(v + i, second, n - i);
        store_some(out + i, updated, n - i);
        /* As they are stored: lanes past the end have had no number. */
        sum = v_fma(zero, load_some(m + i, n - i), sum);
        sum = v_fma(zero, load_some(v + i, n - i), v_fma(zero, load_some(out + i, n - i), sum));
    }
    return were_finite(sum);
}
