/* Dense layers over one array of weights (inputs, outputs), read as it lies in both directions. Each row block of
 * weights is used for every sample while it is in the cache. */

FLRP_INLINE vf read_weight(const float *w, const int64_t n, const int read) {
    const vf v = load_some(w, n);
    return read == FLRP_POSITIVE ? v_positive(v) : read == FLRP_NEGATIVE ? v_negative(v) : v;
}

/* z[c] += the sum over `inputs` rows of x[i] * w[i][c], rows in order. */
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

FLRP_INLINE void dense_forward_with(const int read, int64_t samples, int64_t inputs, const float *x, int64_t x_stride,
                                    const float *w, int64_t stride, int64_t cols, float *z) {
    int64_t i = 0;
    for (; i + 8 <= inputs; i += 8)
        for (int64_t s = 0; s < samples; s++)
            add_rows(8, read, x + s * x_stride + i, w + i * stride, stride, cols, z + s * cols);
    for (; i < inputs; i++)
        for (int64_t s = 0; s < samples; s++)
            add_rows(1, read, x + s * x_stride + i, w + i * stride, stride, cols, z + s * cols);
}

/* The sums of `rows` x `samples` products of g and rows of weights: lanes first, then across the lanes in order. */
FLRP_INLINE void add_dots(const int rows, const int samples, const int read, int64_t outputs, const float *g,
                          const float *w, float *out, int64_t out_stride) {
    vf sums[4][2];
    float lanes[VW];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int s = 0; s < samples; s++) sums[r][s] = v_set1(0);
    for (int64_t o = 0; o < outputs; o += VW) {
        const int64_t n = outputs - o;
        vf gv[2];
#pragma GCC unroll 2
        for (int s = 0; s < samples; s++) gv[s] = load_some(g + s * outputs + o, n);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const vf wv = read_weight(w + r * outputs + o, n, read);
#pragma GCC unroll 2
            for (int s = 0; s < samples; s++) sums[r][s] = v_fma(gv[s], wv, sums[r][s]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int s = 0; s < samples; s++) {
            float sum = 0;
            v_store(lanes, sums[r][s]);
            for (int i = 0; i < VW; i++) sum += lanes[i];
            out[s * out_stride + r] += sum;
        }
}

FLRP_INLINE void dense_backward_with(const int read, int64_t samples, int64_t outputs, const float *g, const float *w,
                                     int64_t rows, float *out, int64_t out_stride) {
    for (int64_t r = 0; r < rows; r += rows - r < 4 ? 1 : 4) {
        const float *wr = w + r * outputs;
        int64_t s = 0;
        for (; s + 2 <= samples; s += 2) {
            if (rows - r < 4) add_dots(1, 2, read, outputs, g + s * outputs, wr, out + s * out_stride + r, out_stride);
            else add_dots(4, 2, read, outputs, g + s * outputs, wr, out + s * out_stride + r, out_stride);
        }
        for (; s < samples; s++) {
            if (rows - r < 4) add_dots(1, 1, read, outputs, g + s * outputs, wr, out + s * out_stride + r, out_stride);
            else add_dots(4, 1, read, outputs, g + s * outputs, wr, out + s * out_stride + r, out_stride);
        }
    }
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
