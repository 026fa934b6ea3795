/* Dense layers over one array of weights (inputs, outputs), read as it lies in both directions. Each row block of
 * weights is used for every sample while it is in the cache. */

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

/* The same sums in the same order for a block of samples and two vectors of outputs: they stay in registers. */
FLRP_INLINE void add_block(const int samples, const int read, int64_t inputs, const float *x, int64_t x_stride,
                           const float *w, int64_t stride, const int64_t n, float *z, int64_t cols) {
    vf sums[6][2];
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) sums[s][v] = n > v * VW ? load_some(z + s * cols + v * VW, n - v * VW) : v_set1(0);
    for (int64_t i = 0; i < inputs; i++, w += stride) {
        const vf w0 = read_weight(w, n, read), w1 = n > VW ? read_weight(w + VW, n - VW, read) : v_set1(0);
#pragma GCC unroll 6
        for (int s = 0; s < samples; s++) {
            const vf factor = v_set1(x[s * x_stride + i]);
            sums[s][0] = v_fma(factor, w0, sums[s][0]);
            sums[s][1] = v_fma(factor, w1, sums[s][1]);
        }
    }
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            if (n > v * VW) store_some(z + s * cols + v * VW, sums[s][v], n - v * VW);
}

/* A share of the rows that come next, on their way from memory in long runs. */
static inline void fetch_rows(int64_t first, int64_t last, const float *w, int64_t stride, int64_t cols) {
    for (int64_t i = first; i < last; i++)
        for (int64_t c = 0; c < cols; c += FLRP_CACHE_LINE / (int64_t)sizeof(float))
            __builtin_prefetch(w + i * stride + c, 0, 2); /* into L2 */
}

/* All samples and outputs over some rows of weights; `next` more follow. */
FLRP_INLINE void add_blocks(const int read, int64_t samples, int64_t inputs, int64_t next, const float *x,
                            int64_t x_stride, const float *w, int64_t stride, int64_t cols, float *z) {
#define BLOCK(samples, n) add_block(samples, read, inputs, xs, x_stride, w + c, stride, n, z + s * cols + c, cols)
#define WIDTHS(samples) if (cols - c >= 2 * VW) BLOCK(samples, 2 * VW); else BLOCK(samples, cols - c)
    for (int64_t c = 0; c < cols; c += 2 * VW) {
        fetch_rows(next * c / cols, next * flrp_min(cols, c + 2 * VW) / cols, w + inputs * stride, stride, cols);
        for (int64_t s = 0, size; s < samples; s += size) {
            const float *xs = x + s * x_stride;
            size = flrp_ceil_div(samples - s, flrp_ceil_div(samples - s, 6));
            switch (size) {
            case 6: WIDTHS(6); break;
            case 5: WIDTHS(5); break;
            case 4: WIDTHS(4); break;
            case 3: WIDTHS(3); break;
            case 2: WIDTHS(2); break;
            default: WIDTHS(1);
            }
        }
    }
#undef WIDTHS
#undef BLOCK
}

#define FEW_SAMPLES 3
#define WEIGHTS_AT_ONCE (1 << 15) /* rows of a range of outputs: they stay in L2 for all samples, beside the next ones */
#define MOST_ROWS 64
#define IN_CACHE (1 << 18) /* weights: so few are not sent for */

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
