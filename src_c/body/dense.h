/* Dense layers over one array of weights (inputs, outputs), read as it lies in both directions. Each row block of
 * weights is used for every sample while it is in the cache. */

#if VW >= 16 /* with as many registers */
#define DENSE_VECTORS 4 /* of outputs in a block */
#else
#define DENSE_VECTORS 2
#endif

FLRP_INLINE vf read_weight(const float *w, const int64_t n, const int read) {
    const vf v = load_some(w, n);
    return read == FLRP_POSITIVE ? v_positive(v) : read == FLRP_NEGATIVE ? v_negative(v) : v;
}

/* z[c] += the sum over `inputs` rows of x[i] * w[i][c], rows in order. For few samples: memory is read in long runs. */
FLRP_INLINE void add_rows(const int inputs, const int read, const float *x, const float *w, int64_t stride, int64_t cols,
                          float *z) {
    vf factor[8];
#pragma GCC unroll 8
    for (int i = 0; i < inputs; i++) factor[i] = v_set1(x[i]);
    for (int64_t c = 0; c < cols; c += VW) {
        const int64_t n = cols - c;
        vf sum = load_some(z + c, n);
#pragma GCC unroll 8
        for (int i = 0; i < inputs; i++) sum = v_fma(factor[i], read_weight(w + i * stride + c, n, read), sum);
        store_some(z + c, sum, n);
    }
}

/* The same sums in the same order for a block of samples and so many vectors of outputs, n of which there are: they
 * stay in registers. */
FLRP_INLINE void add_block(const int samples, const int vectors, int64_t inputs, const float *x, int64_t x_stride,
                           const float *w, int64_t stride, int64_t n, float *z, int64_t cols) {
    vf sums[6][DENSE_VECTORS];
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[s][v] = load_some(z + s * cols + v * VW, n - v * VW);
    for (int64_t i = 0; i < inputs; i++, w += stride) {
        vf weights[DENSE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) weights[v] = v_load(w + v * VW);
#pragma GCC unroll 6
        for (int s = 0; s < samples; s++) {
            const vf factor = v_set1(x[s * x_stride + i]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[s][v] = v_fma(factor, weights[v], sums[s][v]);
        }
    }
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store_some(z + s * cols + v * VW, sums[s][v], n - v * VW);
}

/* Some outputs of all samples over some rows of weights, which are whole vectors. */
FLRP_INLINE void add_panel(const int vectors, int64_t samples, int64_t inputs, const float *x, int64_t x_stride,
                           const float *w, int64_t stride, int64_t n, float *z, int64_t cols) {
#define BLOCK(samples) add_block(samples, vectors, inputs, xs, x_stride, w, stride, n, z + s * cols, cols)
    for (int64_t s = 0, size; s < samples; s += size) {
        const float *xs = x + s * x_stride;
        size = flrp_ceil_div(samples - s, flrp_ceil_div(samples - s, 6));
        switch (size) {
        case 6: BLOCK(6); break;
        case 5: BLOCK(5); break;
        case 4: BLOCK(4); break;
        case 3: BLOCK(3); break;
        case 2: BLOCK(2); break;
        default: BLOCK(1);
        }
    }
#undef BLOCK
}

static void add_panels(int64_t vectors, int64_t samples, int64_t inputs, const float *x, int64_t x_stride,
                       const float *w, int64_t stride, int64_t n, float *z, int64_t cols) {
#define PANEL(vectors) add_panel(vectors, samples, inputs, x, x_stride, w, stride, n, z, cols)
    switch (vectors) {
#if DENSE_VECTORS > 2
    case 4: PANEL(4); break;
    case 3: PANEL(3); break;
#endif
    case 2: PANEL(2); break;
    default: PANEL(1);
    }
#undef PANEL
}

/* Rows of n weights as they are read, one after the other in whole vectors. */
FLRP_INLINE void copy_weights(const int read, int64_t inputs, int64_t n, const float *w, int64_t stride, float *out) {
    for (int64_t i = 0; i < inputs; i++, w += stride)
        for (int64_t c = 0; c < n; c += VW, out += VW) v_store(out, read_weight(w + c, n - c, read));
}

/* A share of the rows that come next, on their way from memory in long runs. */
static inline void fetch_rows(int64_t first, int64_t last, const float *w, int64_t stride, int64_t cols) {
    for (int64_t i = first; i < last; i++)
        for (int64_t c = 0; c < cols; c += FLRP_CACHE_LINE / (int64_t)sizeof(float))
            __builtin_prefetch(w + i * stride + c, 0, 2); /* into L2 */
}

#define FEW_SAMPLES 3
#define MANY_SAMPLES 12 /* a panel of weights is copied for so many: near one another, it stays in L1 */
#define WEIGHTS_AT_ONCE (1 << 15) /* rows of a range of outputs: they stay in L2 for all samples, beside the next ones */
#define MOST_ROWS 64
#define IN_CACHE (1 << 18) /* weights: so few are not sent for */

/* All samples and outputs over some rows of weights; `next` more follow. */
FLRP_INLINE void add_blocks(const int read, int64_t samples, int64_t inputs, int64_t next, const float *x,
                            int64_t x_stride, const float *w, int64_t stride, int64_t cols, float *z) {
    float copy[MOST_ROWS * DENSE_VECTORS * VW] __attribute__((aligned(64)));
    for (int64_t c = 0, n; c < cols; c += n) {
        n = flrp_min(cols - c, DENSE_VECTORS * VW);
        const int64_t vectors = flrp_ceil_div(n, VW);
        const int copies = read != FLRP_PLAIN || n < vectors * VW || samples >= MANY_SAMPLES;
        fetch_rows(next * c / cols, next * (c + n) / cols, w + inputs * stride, stride, cols);
        if (copies) copy_weights(read, inputs, n, w + c, stride, copy);
        add_panels(vectors, samples, inputs, x, x_stride, copies ? copy : w + c, copies ? vectors * VW : stride, n,
                   z + c, cols);
    }
}

FLRP_INLINE void dense_forward_with(const int read, int64_t samples, int64_t inputs, const float *x, int64_t x_stride,
                                    const float *w, int64_t stride, int64_t cols, float *z) {
    if (samples > FEW_SAMPLES) {
        const int64_t most = flrp_min(MOST_ROWS, WEIGHTS_AT_ONCE / cols);
        for (int64_t i = 0, rows; i < inputs; i += rows) {
            rows = flrp_min(most, inputs - i);
            const int64_t next = inputs * stride > IN_CACHE ? flrp_min(most, inputs - i - rows) : 0;
            add_blocks(read, samples, rows, next, x + i, x_stride, w + i * stride, stride, cols, z);
        }
        return;
    }
    int64_t i = 0;
    for (; i + 8 <= inputs; i += 8)
        for (int64_t s = 0; s < samples; s++)
            add_rows(8, read, x + s * x_stride + i, w + i * stride, stride, cols, z + s * cols);
    for (; i < inputs; i++)
        for (int64_t s = 0; s < samples; s++)
            add_rows(1, read, x + s * x_stride + i, w + i * stride, stride, cols, z + s * cols);
}

#ifndef v_sum4 /* four sums across lanes, halves added to halves */
static inline void v_sum4(const vf *v, float *out) {
    float lanes[VW];
    for (int i = 0; i < 4; i++) {
        v_store(lanes, v[i]);
        for (int half = VW / 2; half; half /= 2)
            for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
        out[i] = lanes[0];
    }
}
#endif

/* out[s][r] += the product of g[s] and row r of the weights: lanes first, then across the lanes. */
FLRP_INLINE void add_dots(const int rows, const int samples, const int read, int64_t outputs, const float *g,
                          const float *w, float *out, int64_t out_stride) {
    vf sums[12];
    float totals[12];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) sums[i] = v_set1(0);
    for (int64_t o = 0; o < outputs; o += VW) {
        const int64_t n = outputs - o;
        const vf g0 = load_some(g + o, n), g1 = samples > 1 ? load_some(g + outputs + o, n) : g0;
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const vf wv = read_weight(w + r * outputs + o, n, read);
            sums[r] = v_fma(g0, wv, sums[r]);
            if (samples > 1) sums[6 + r] = v_fma(g1, wv, sums[6 + r]);
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < 12; i += 4) v_sum4(sums + i, totals + i);
    for (int s = 0; s < samples; s++)
        for (int r = 0; r < rows; r++) out[s * out_stride + r] += totals[6 * s + r];
}

FLRP_INLINE void dense_backward_with(const int read, int64_t samples, int64_t outputs, const float *g, const float *w,
                                     int64_t rows, float *out, int64_t out_stride) {
#define DOTS(rows, samples) add_dots(rows, samples, read, outputs, gs, w + r * outputs, sum, out_stride)
#define PAIRS(rows) if (samples - s > 1) DOTS(rows, 2); else DOTS(rows, 1)
    for (int64_t r = 0, size; r < rows; r += size) {
        size = flrp_ceil_div(rows - r, flrp_ceil_div(rows - r, 6));
        for (int64_t s = 0; s < samples; s += 2) {
            const float *gs = g + s * outputs;
            float *sum = out + s * out_stride + r;
            switch (size) {
            case 6: PAIRS(6); break;
            case 5: PAIRS(5); break;
            case 4: PAIRS(4); break;
            case 3: PAIRS(3); break;
            case 2: PAIRS(2); break;
            default: PAIRS(1);
            }
        }
    }
#undef PAIRS
#undef DOTS
}

static void dense_forward(int read, int64_t samples, int64_t inputs, const float *x, int64_t x_stride, const float *w,
                          int64_t stride, int64_t cols, float *z) {
    switch (read) {
    case FLRP_POSITIVE: dense_forward_with(FLRP_POSITIVE, samples, inputs, x, x_stride, w, stride, cols, z); break;
    case FLRP_NEGATIVE: dense_forward_with(FLRP_NEGATIVE, samples, inputs, x, x_stride, w, stride, cols, z); break;
    default: dense_forward_with(FLRP_PLAIN, samples, inputs, x, x_stride, w, stride, cols, z);
    }
}

static void dense_backward(int read, int64_t samples, int64_t outputs, const float *g, const float *w, int64_t rows,
                           float *out, int64_t out_stride) {
    switch (read) {
    case FLRP_POSITIVE: dense_backward_with(FLRP_POSITIVE, samples, outputs, g, w, rows, out, out_stride); break;
    case FLRP_NEGATIVE: dense_backward_with(FLRP_NEGATIVE, samples, outputs, g, w, rows, out, out_stride); break;
    default: dense_backward_with(FLRP_PLAIN, samples, outputs, g, w, rows, out, out_stride);
    }
}
