/* Depthwise products: every channel by itself, lanes along the channels. */

/* sums[c] (+)= the sum over taps of x[x_offsets[t] + c] * w[w_offsets[t] + c], taps in order; `add` to what is there. */
FLRP_INLINE void depthwise_vectors(const int vectors, const int64_t n, int64_t taps, const int64_t *x_offsets,
                                   const int64_t *w_offsets, const float *x, const float *bound, int read,
                                   const float *w, int add, float *sums) {
    vf acc[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) acc[v] = add ? load_some(sums + v * VW, n - v * VW) : v_set1(0);
    for (int64_t t = 0; t < taps; t++) {
        const float *xt = x + x_offsets[t], *wt = w + w_offsets[t], *bt = bound ? bound + x_offsets[t] : 0;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const int64_t left = n - v * VW;
            const vf value = read_value(load_some(xt + v * VW, left), bt + (bt ? v * VW : 0), left, read);
            acc[v] = v_fma(value, load_some(wt + v * VW, left), acc[v]);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) store_some(sums + v * VW, acc[v], n - v * VW);
}

static void depthwise(int64_t channels, int64_t taps, const int64_t *x_offsets, const int64_t *w_offsets,
                      const float *x, const float *bound, int read, const float *w, int add, float *sums) {
    int64_t c = 0;
#define VECTORS(vectors, n) \
    depthwise_vectors(vectors, n, taps, x_offsets, w_offsets, x + c, bound ? bound + c : 0, read, w + c, add, sums + c)
    for (; c + 4 * VW <= channels; c += 4 * VW) {
        if (read == FLRP_PLAIN) /* the common case, with nothing to decide inside */
            depthwise_vectors(4, 4 * VW, taps, x_offsets, w_offsets, x + c, 0, FLRP_PLAIN, w + c, add, sums + c);
        else VECTORS(4, 4 * VW);
    }
    for (; c < channels; c += VW) VECTORS(1, channels - c);
#undef VECTORS
}
