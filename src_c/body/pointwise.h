/* Elementwise kernels: reading operands, the stabilised quotient, epilogues. */

static inline vf load_some(const float *p, int64_t n) { return n >= VW ? v_load(p) : v_load_n(p, n); }

static inline void store_some(float *p, vf v, int64_t n) {
    if (n >= VW) v_store(p, v);
    else v_store_n(p, v, n);
}

static inline vf read_value(vf x, const float *bound, int64_t n, int read) {
    switch (read) {
    case FLRP_POSITIVE: return v_positive(x);
    case FLRP_NEGATIVE: return v_negative(x);
    case FLRP_SHIFTED: return v_sub(x, load_some(bound, n));
    default: return x;
    }
}

/* coefficient * relevance / s(sum). Where s is 0 the share is lost: 0, but NaN where relevance is not finite. */
static inline vf quotient(vf sum, vf relevance, const flrp_ratio *r) {
    const vf eps = v_set1(r->epsilon), top = v_mul(v_set1(r->coefficient), relevance);
    const vf s = r->is_signed ? v_if_negative(sum, v_sub(sum, eps), v_add(sum, eps)) : v_add(sum, eps);
    return v_if_zero(s, v_mul(s, top), v_div(top, s));
}

/* `left` values (VW: a whole vector) of channel c on, at element i. */
FLRP_INLINE void finish_some(const int bias, const int ratio, const int factor, const int relu, const flrp_epilogue *e,
                             int side, const float *acc, int64_t c, int64_t i, const float *bound, const int64_t left,
                             int64_t spill) {
    const flrp_operand *f = &e->factors[side];
    vf v = v_add(load_some(acc, left), v_set1(0)); /* no sum is -0 */
    if (bias) v = v_add(v, load_some(e->bias + c, left));
    if (ratio) v = quotient(v, load_some(e->ratio.relevance + i, left), &e->ratio);
    if (factor) v = v_mul(v, read_value(load_some(f->data + i, left), bound, left, f->read));
    if (side) v = v_add(v, load_some(e->out + i, left));
    if (relu) v = v_positive(v);
    if (e->stream) v_stream(e->out + i, v);
    else store_some(e->out + i, v, left + spill);
}

/* Compiled for each combination of steps that products really use: absent steps cost nothing. */
FLRP_INLINE void finish_with(const int bias, const int ratio, const int factor, const int relu, const flrp_epilogue *e,
                             int side, int rows, int64_t n, int64_t channel, const float *acc, int64_t acc_stride,
                             const int64_t *offsets) {
    const flrp_operand *f = &e->factors[side];
    for (int m = 0; m < rows; m++, acc += acc_stride) {
        const int64_t at = offsets[m] + channel;
        const float *bounds = f->bound ? f->bound + at % e->factor_period : 0; /* rows end with their sample */
        /* Where the next row follows at once, whole vectors may spill into it: it is written afterwards. */
        const int64_t spill = !side && m + 1 < rows && offsets[m + 1] == offsets[m] + n && n >= VW ? VW : 0;
        int64_t j = 0;
        for (; j + VW <= n; j += VW)
            finish_some(bias, ratio, factor, relu, e, side, acc + j, channel + j, at + j, bounds + (bounds ? j : 0), VW,
                        0);
        if (j < n)
            finish_some(bias, ratio, factor, relu, e, side, acc + j, channel + j, at + j, bounds + (bounds ? j : 0),
                        n - j, spill);
    }
}

static void finish(const flrp_epilogue *e, int side, int rows, int64_t n, int64_t channel, const float *acc,
                   int64_t acc_stride, const int64_t *offsets) {
#define FINISH(bias, ratio, factor, relu) \
    finish_with(bias, ratio, factor, relu, e, side, rows, n, channel, acc, acc_stride, offsets)
    const int bias = e->bias != 0, ratio = e->ratio.relevance != 0, factor = e->factors[side].data != 0;
    if (factor) {
        if (bias || ratio) FINISH(bias, ratio, 1, 0);
        else FINISH(0, 0, 1, 0);
    } else if (ratio) {
        if (bias) FINISH(1, 1, 0, 0);
        else FINISH(0, 1, 0, 0);
    } else if (e->relu) {
        if (bias) FINISH(1, 0, 0, 1);
        else FINISH(0, 0, 0, 1);
    } else if (bias) FINISH(1, 0, 0, 0);
    else FINISH(0, 0, 0, 0);
#undef FINISH
}

FLRP_INLINE void gather_read(int64_t n, const float *x, const float *bound, const int read, float *dst) {
    int64_t j = 0;
    for (; j + VW <= n; j += VW) v_store(dst + j, read_value(v_load(x + j), bound + (bound ? j : 0), VW, read));
    if (j < n) store_some(dst + j, read_value(load_some(x + j, n - j), bound + (bound ? j : 0), n - j, read), n - j);
}

static inline void gather_run(int64_t n, const float *x, const float *bound, int read, float *dst) {
    switch (read) {
    case FLRP_POSITIVE: gather_read(n, x, bound, FLRP_POSITIVE, dst); break;
    case FLRP_NEGATIVE: gather_read(n, x, bound, FLRP_NEGATIVE, dst); break;
    case FLRP_SHIFTED: gather_read(n, x, bound, FLRP_SHIFTED, dst); break;
    default: gather_read(n, x, bound, FLRP_PLAIN, dst);
    }
}

static void gather(int64_t pixels, int64_t n, const float *x, const float *bound, int read, float *dst,
                   int64_t dst_stride) {
    if (dst_stride == n) {
        gather_run(pixels * n, x, bound, read, dst);
        return;
    }
    if (n < VW) { /* few channels: whole vectors would be mostly tail */
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t c = 0; c < n; c++)
                dst[i * dst_stride + c] = flrp_read(x[i * n + c], bound + (bound ? i * n + c : 0), read);
        return;
    }
    for (int64_t i = 0; i < pixels; i++)
        gather_run(n, x + i * n, bound ? bound + i * n : 0, read, dst + i * dst_stride);
}

/* Squares of VW x VW in registers where the instruction set has shuffles for them; edges one by one. */
static void transpose(int64_t rows, int64_t cols, const float *src, int64_t src_stride, float *dst, int64_t dst_stride) {
    if (rows == 1 && dst_stride == 1) {
        for (int64_t c = 0; c < cols; c++) dst[c] = src[c];
        return;
    }
    if (cols == 1 && src_stride == 1) {
        for (int64_t r = 0; r < rows; r++) dst[r] = src[r];
        return;
    }
    int64_t square_rows = 0, square_cols = 0;
#ifdef v_transpose
    square_rows = rows / VW * VW, square_cols = cols / VW * VW;
    for (int64_t r = 0; r < square_rows; r += VW)
        for (int64_t c = 0; c < square_cols; c += VW)
            v_transpose(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
#endif
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < square_rows ? square_cols : 0; c < cols; c++) dst[c * dst_stride + r] = src[r * src_stride + c];
}

static void ratio_map(int64_t n, int64_t channels, const float *sums, const float *bias, const flrp_ratio *r,
                      float *out) {
    if (!bias) channels = n; /* no need to stop at every pixel */
    for (int64_t first = 0; first < n; first += channels)
        for (int64_t c = 0; c < channels; c += VW) {
            const int64_t left = channels - c, i = first + c;
            vf sum = load_some(sums + i, left);
            if (bias) sum = v_add(sum, load_some(bias + c, left));
            store_some(out + i, quotient(sum, load_some(r->relevance + i, left), r), left);
        }
}

static void gamma_map(int64_t n, int64_t channels, const float *p, const float *q, const float *z, const float *bias,
                      float gamma, const flrp_ratio *r, float *a, float *b) {
    const vf zero = v_set1(0), more = v_set1(1 + gamma);
    if (!bias) channels = n;
    for (int64_t first = 0; first < n; first += channels)
        for (int64_t c = 0; c < channels; c += VW) {
            const int64_t left = channels - c, i = first + c;
            const vf pv = load_some(p + i, left), qv = load_some(q + i, left), zv = load_some(z + i, left);
            const vf bv = bias ? load_some(bias + c, left) : zero, rv = load_some(r->relevance + i, left);
            const vf up = v_add(v_fma(more, pv, qv), v_add(bv, v_mul(v_set1(gamma), v_positive(bv))));
            const vf down = v_add(v_fma(more, qv, pv), v_add(bv, v_mul(v_set1(gamma), v_negative(bv))));
            const vf s = quotient(v_if_negative(zv, down, up), rv, r), big = v_mul(more, s);
            const vf av = v_if_negative(zv, s, big), bb = v_if_negative(zv, big, s);
            store_some(a + i, v_if_zero(zv, v_mul(zero, rv), av), left);
            store_some(b + i, v_if_zero(zv, v_mul(zero, rv), bb), left);
        }
}
