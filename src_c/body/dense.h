/* Dense layers over one array of weights (inputs, outputs). For few samples it is read as it lies, in both directions,
 * and each row block of weights is used for every sample while it is in the cache. For many, dense.c copies blocks. */

#if VW >= 16           /* with as many registers */
#define DOT_SAMPLES 4  /* whose sums stay in registers, of 6 rows each */
#define MANY_SAMPLES 6 /* of 4 rows, the same */
#else
#define DOT_SAMPLES 2
#define MANY_SAMPLES 3
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

/* Rows of at most a panel's weights, as they are read, whole vectors of them. */
static void copy_panel(int read, int64_t rows, int64_t cols, const float *w, int64_t stride, float *out) {
    for (int64_t i = 0; i < rows; i++, w += stride, out += PANEL_VECTORS * VW)
        for (int64_t c = 0; c < cols; c += VW) v_store(out + c, read_weight(w + c, cols - c, read));
}

/* As add_dots, of blocks that lie side by side: sums go on from segment to segment of the outputs. */
FLRP_INLINE void dots_of(const int samples, const flrp_dots *t) {
    vf sums[MANY_SAMPLES][FLRP_DOT_ROWS];
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 4
        for (int r = 0; r < FLRP_DOT_ROWS; r++)
            sums[s][r] = t->more ? v_load(t->acc + s * t->acc_stride + r * VW) : v_set1(0);
    for (int64_t o = 0; o < t->length; o += VW) {
        vf gs[MANY_SAMPLES];
#pragma GCC unroll 6
        for (int s = 0; s < samples; s++) gs[s] = v_load(t->g + s * t->stride + o);
#pragma GCC unroll 4
        for (int r = 0; r < FLRP_DOT_ROWS; r++) {
            const vf w = v_load(t->w + r * t->stride + o);
#pragma GCC unroll 6
            for (int s = 0; s < samples; s++) sums[s][r] = v_fma(gs[s], w, sums[s][r]);
        }
    }
#pragma GCC unroll 6
    for (int s = 0; s < samples; s++) {
        float totals[FLRP_DOT_ROWS];
        if (t->last) v_sum4(sums[s], totals);
#pragma GCC unroll 4
        for (int r = 0; r < FLRP_DOT_ROWS; r++)
            if (!t->last) v_store(t->acc + s * t->acc_stride + r * VW, sums[s][r]);
            else if (r < t->rows) t->out[s * t->out_stride + r] += totals[r];
    }
}

static void dots(int samples, const flrp_dots *t) {
    switch (samples) {
#if MANY_SAMPLES > 3
    case 6: dots_of(6, t); break;
    case 5: dots_of(5, t); break;
    case 4: dots_of(4, t); break;
#endif
    case 3: dots_of(3, t); break;
    case 2: dots_of(2, t); break;
    default: dots_of(1, t);
    }
}

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
