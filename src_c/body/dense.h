/* Dense layers over one array of weights (inputs, outputs), read as it lies in both directions. Each row block of
 * weights is used for every sample while it is in the cache. */

#if VW >= 16 /* with as many registers */
#define DENSE_VECTORS 4 /* of outputs in a block */
#define DOT_SAMPLES 4   /* whose sums stay in registers, of 6 rows each */
#else
#define DENSE_VECTORS 2
#define DOT_SAMPLES 2
#endif
#define ROW_SAMPLES 4   /* at most, whose factors stay in registers, of a few rows */

FLRP_INLINE vf read_weight(const float *w, const int64_t n, const int read) {
    const vf v = load_some(w, n);
    return read == FLRP_POSITIVE ? v_positive(v) : read == FLRP_NEGATIVE ? v_negative(v) : v;
}

/* z[s][c] += the sum over `inputs` rows of x[s][i] * w[i][c], rows in order. For few samples: memory is read in long
 * runs. */
FLRP_INLINE void add_rows(const int inputs, const int samples, const int read, const float *x, int64_t x_stride,
                          const float *w, int64_t stride, int64_t cols, float *z) {
    vf factor[ROW_SAMPLES][8];
#pragma GCC unroll 4
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 8
        for (int i = 0; i < inputs; i++) factor[s][i] = v_set1(x[s * x_stride + i]);
    for (int64_t c = 0; c < cols; c += VW) {
        const int64_t n = cols - c;
        vf sum[ROW_SAMPLES];
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) sum[s] = load_some(z + s * cols + c, n);
#pragma GCC unroll 8
        for (int i = 0; i < inputs; i++) {
            const vf weight = read_weight(w + i * stride + c, n, read);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) sum[s] = v_fma(factor[s][i], weight, sum[s]);
        }
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) store_some(z + s * cols + c, sum[s], n);
    }
}

/* The same sums in the same order for a block of samples and so many vectors of outputs, n of which there are: they
 * stay in registers. */
FLRP_INLINE void add_block(const int samples, const int vectors, int64_t inputs, const float *x, int64_t x_stride,
                           const float *w, int64_t n, float *z, int64_t cols) {
    vf sums[6][DENSE_VECTORS];
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sums[s][v] = load_some(z + s * cols + v * VW, n - v * VW);
    for (int64_t i = 0; i < inputs; i++, w += vectors * VW) {
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
                           const float *w, int64_t n, float *z, int64_t cols) {
#define BLOCK(samples) add_block(samples, vectors, inputs, xs, x_stride, w, n, z + s * cols, cols)
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
                       const float *w, int64_t n, float *z, int64_t cols) {
#define PANEL(vectors) add_panel(vectors, samples, inputs, x, x_stride, w, n, z, cols)
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

#define MANY_SAMPLES 12 /* a panel of weights is copied for so many: near one another, it stays in L1 */
#define WEIGHTS_AT_ONCE (1 << 16) /* rows of a range of outputs: in L2 for all samples, beside the next ones */
#define MOST_ROWS 64
#define IN_CACHE (1 << 18) /* weights: so few are not sent for */

/* All samples and outputs over some rows of weights; `next` more follow. */
FLRP_INLINE void add_blocks(const int read, int64_t samples, int64_t inputs, int64_t next, const float *x,
                            int64_t x_stride, const float *w, int64_t stride, int64_t cols, float *z) {
    float copy[MOST_ROWS * DENSE_VECTORS * VW] __attribute__((aligned(64)));
    for (int64_t c = 0, n; c < cols; c += n) {
        n = flrp_min(cols - c, DENSE_VECTORS * VW);
        const int64_t vectors = flrp_ceil_div(n, VW);
        fetch_rows(next * c / cols, next * (c + n) / cols, w + inputs * stride, stride, cols);
        copy_weights(read, inputs, n, w + c, stride, copy);
        add_panels(vectors, samples, inputs, x, x_stride, copy, n, z + c, cols);
    }
}

/* All rows, so many at once, for blocks of so many samples and the rest. */
FLRP_INLINE void add_few(const int rows, const int block, const int read, int64_t samples, int64_t inputs,
                         const float *x, int64_t x_stride, const float *w, int64_t stride, int64_t cols, float *z) {
    for (int64_t i = 0; i + rows <= inputs; i += rows) {
        int64_t s = 0;
        for (; s + block <= samples; s += block)
            add_rows(rows, block, read, x + s * x_stride + i, x_stride, w + i * stride, stride, cols, z + s * cols);
        for (; s < samples; s++)
            add_rows(rows, 1, read, x + s * x_stride + i, x_stride, w + i * stride, stride, cols, z + s * cols);
    }
    for (int64_t i = inputs / rows * rows; i < inputs; i++)
        for (int64_t s = 0; s < samples; s++)
            add_rows(1, 1, read, x + s * x_stride + i, x_stride, w + i * stride, stride, cols, z + s * cols);
}

FLRP_INLINE void dense_forward_with(const int read, int64_t samples, int64_t inputs, const float *x, int64_t x_stride,
                                    const float *w, int64_t stride, int64_t cols, float *z) {
    if (samples >= MANY_SAMPLES) {
        const int64_t most = flrp_min(MOST_ROWS, WEIGHTS_AT_ONCE / cols);
        for (int64_t i = 0, rows; i < inputs; i += rows) {
            rows = flrp_min(most, inputs - i);
            const int64_t next = inputs * stride > IN_CACHE ? flrp_min(most, inputs - i - rows) : 0;
            add_blocks(read, samples, rows, next, x + i, x_stride, w + i * stride, stride, cols, z);
        }
        return;
    }
#define FEW(rows, block) add_few(rows, block, read, samples, inputs, x, x_stride, w, stride, cols, z)
    if (samples == 1) FEW(8, 1);
    else if (samples == 2) FEW(VW / 2, 2);
    else if (samples % 4 == 3) FEW(VW / 4, 3);
    else FEW(VW / 4, 4);
#undef FEW
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

#define AHEAD 512 /* weights of a row: the first samples send for them */

/* out[s][r] += the product of g[s] and row r of the weights: lanes first, then across the lanes. */
FLRP_INLINE void add_dots(const int rows, const int samples, const int read, int64_t ahead, int64_t outputs,
                          const float *g, const float *w, float *out, int64_t out_stride) {
    vf sums[6 * DOT_SAMPLES];
    float totals[6 * DOT_SAMPLES];
#pragma GCC unroll 24
    for (int i = 0; i < 6 * DOT_SAMPLES; i++) sums[i] = v_set1(0);
    for (int64_t o = 0; o < outputs; o += VW) {
        const int64_t n = outputs - o;
        vf gs[DOT_SAMPLES];
#pragma GCC unroll 4
        for (int s = 0; s < samples; s++) gs[s] = load_some(g + s * outputs + o, n);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __builtin_prefetch(w + r * outputs + o + ahead, 0, 2);
            const vf wv = read_weight(w + r * outputs + o, n, read);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) sums[6 * s + r] = v_fma(gs[s], wv, sums[6 * s + r]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6 * samples; i += 4) v_sum4(sums + i, totals + i);
    for (int s = 0; s < samples; s++)
        for (int r = 0; r < rows; r++) out[s * out_stride + r] += totals[6 * s + r];
}

/* So many rows, all samples. */
FLRP_INLINE void add_all_dots(const int rows, const int read, int64_t samples, int64_t outputs, const float *g,
                              const float *w, float *out, int64_t out_stride) {
    for (int64_t s = 0, size; s < samples; s += size) {
        size = flrp_min(DOT_SAMPLES, samples - s);
        switch (size) {
#define DOTS(samples) \
    add_dots(rows, samples, read, s ? 0 : AHEAD, outputs, g + s * outputs, w, out + s * out_stride, out_stride)
#if DOT_SAMPLES > 2
        case 4: DOTS(4); break;
        case 3: DOTS(3); break;
#endif
        case 2: DOTS(2); break;
        default: DOTS(1);
#undef DOTS
        }
    }
}

FLRP_INLINE void dense_backward_with(const int read, int64_t samples, int64_t outputs, const float *g, const float *w,
                                     int64_t rows, float *out, int64_t out_stride) {
#define DOTS_OF(rows) add_all_dots(rows, read, samples, outputs, g, w + r * outputs, out + r, out_stride)
    for (int64_t r = 0, size; r < rows; r += size) {
        size = flrp_ceil_div(rows - r, flrp_ceil_div(rows - r, 6));
        switch (size) {
        case 6: DOTS_OF(6); break;
        case 5: DOTS_OF(5); break;
        case 4: DOTS_OF(4); break;
        case 3: DOTS_OF(3); break;
        case 2: DOTS_OF(2); break;
        default: DOTS_OF(1);
        }
    }
#undef DOTS_OF
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
