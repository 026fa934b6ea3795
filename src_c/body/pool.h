/* Pooling over channels-last samples: rows of one sample's output (forward) or input (backward). Maxima may be over
 * dilated windows.
 *
 * Backward kernels gather: each input pixel asks the windows that hold it, in scan order, so that rows can be
 * split over threads without changing a bit. Channels are the inner loop.
 */
#include <math.h>

/* Window taps [*first, *last), `dilation` apart, that fall inside an axis of `size` from window origin `at`. */
static inline void taps_inside(int64_t at, int64_t size, int64_t kernel, int64_t dilation, int64_t *first,
                               int64_t *last) {
    *first = at >= 0 ? 0 : flrp_ceil_div(-at, dilation);
    *last = at + (kernel - 1) * dilation < size ? kernel : flrp_ceil_div(flrp_max(0, size - at), dilation);
}

/* VW where whole vectors may be read and written at a pixel's last channels, else 0: what they touch beyond it is
 * written afterwards, by the pixels that follow in the same row, and read from pixels that follow in the sample. */
static inline int64_t whole_vectors(int64_t pixels_to_write, int64_t pixels_to_read, int64_t channels) {
    return pixels_to_write * channels >= VW && pixels_to_read * channels >= VW ? VW : 0;
}

FLRP_INLINE vf load_read(const int positive, const float *x, int64_t n) {
    const vf v = load_some(x, n);
    return positive ? v_positive(v) : v;
}

/* Channels [c, end) under a window of 2 x 2, the common case: no loops over taps. `whole`: so are all vectors; else they
 * may spill by `spare`. */
FLRP_INLINE void sum_four(const int positive, const int whole, int64_t c, int64_t end, int64_t pixel, int64_t line,
                          const float *in, const vf scale, int64_t spare, float *out) {
    for (; c < end; c += VW) {
        const int64_t n = whole ? VW : end - c + spare;
        vf sum = v_add(v_set1(0), load_read(positive, in + c, n)); /* not -0 */
        sum = v_add(sum, load_read(positive, in + pixel + c, n));
        sum = v_add(sum, load_read(positive, in + line + c, n));
        sum = v_add(sum, load_read(positive, in + line + pixel + c, n));
        store_some(out + c, v_mul(sum, scale), n);
    }
}

FLRP_INLINE void sum_pool_of(const int positive, const flrp_window *w, int64_t row, int64_t rows, const float *x,
                             const float *scale, float *out) {
    const int64_t channels = w->channels;
    for (int64_t y = row; y < row + rows; y++) {
        const int64_t top = y * w->stride_h - w->pad_top;
        int64_t ky0, ky1, kx0, kx1;
        taps_inside(top, w->in_h, w->kernel_h, 1, &ky0, &ky1);
        for (int64_t col = 0; col < w->out_w; col++) {
            const int64_t left = col * w->stride_w - w->pad_left;
            const float *in = x + (top * w->in_w + left) * channels;
            float *o = out + (y * w->out_w + col) * channels;
            const vf s = v_set1(scale[y * w->out_w + col]);
            taps_inside(left, w->in_w, w->kernel_w, 1, &kx0, &kx1);
            const int64_t last_tap = (top + ky1 - 1) * w->in_w + left + kx1 - 1;
            const int64_t spare = whole_vectors(w->out_w - 1 - col, w->in_h * w->in_w - 1 - last_tap, channels);
            if (ky1 - ky0 == 2 && kx1 - kx0 == 2) {
                const int64_t line = w->in_w * channels, whole = channels / VW * VW;
                const float *first = in + ky0 * line + kx0 * channels;
                sum_four(positive, 1, 0, whole, channels, line, first, s, 0, o);
                sum_four(positive, 0, whole, channels, channels, line, first, s, spare, o);
                continue;
            }
            for (int64_t c = 0; c < channels; c += VW) {
                const int64_t n = channels - c + spare;
                vf sum = v_set1(0);
                for (int64_t ky = ky0; ky < ky1; ky++)
                    for (int64_t kx = kx0; kx < kx1; kx++) {
                        const int64_t tap = ky * w->in_w + kx;
                        sum = v_add(sum, load_read(positive, in + tap * channels + c, n));
                    }
                store_some(o + c, v_mul(sum, s), n);
            }
        }
    }
}

static void sum_pool(const flrp_window *w, int64_t row, int64_t rows, const float *x, int read, const float *scale,
                     float *out) {
    if (read == FLRP_POSITIVE) sum_pool_of(1, w, row, rows, x, scale, out);
    else sum_pool_of(0, w, row, rows, x, scale, out);
}

/* Windows [first, last] that hold an input position; moved on from one position to the next without dividing. */
typedef struct {
    int64_t first, last;
} holders;

static inline void move_on(holders *h, int64_t at, int64_t stride, int64_t pad, int64_t kernel, int64_t count) {
    const int64_t reach = at + pad;
    while (h->last + 1 < count && (h->last + 1) * stride <= reach) h->last++;
    while (h->first * stride + kernel <= reach) h->first++;
}

#define NO_FACTOR (-1)

/* value times the factor as it is read; or, through a gate, where the factor is positive, else 0. */
FLRP_INLINE vf times(const int read, vf value, const float *factor, int64_t n) {
    if (read == NO_FACTOR) return value;
    const vf f = load_some(factor, n);
    return read == FLRP_GATE ? where_positive(f, value) : v_mul(value, read == FLRP_POSITIVE ? v_positive(f) : f);
}

/* One input pixel: the sum over windows [v.first, v.last] x [h.first, h.last] of g times scale, times the factor. */
FLRP_INLINE void pull_pixel(const int read, const flrp_window *w, const holders *v, const holders *h, const float *g,
                            const float *scale, const float *factor, float *out, int64_t spare) {
    const int64_t channels = w->channels, one = v->first * w->out_w + h->first;
    if (v->first == v->last && h->first == h->last) { /* windows side by side: the common case */
        const vf s = v_set1(scale[one]);
        for (int64_t c = 0; c < channels; c += VW) {
            const int64_t n = channels - c + spare;
            store_some(out + c, times(read, v_mul(load_some(g + one * channels + c, n), s), factor + c, n), n);
        }
        return;
    }
    for (int64_t c = 0; c < channels; c += VW) {
        const int64_t n = channels - c + spare;
        vf sum = v_set1(0);
        for (int64_t oy = v->first; oy <= v->last; oy++)
            for (int64_t ox = h->first; ox <= h->last; ox++) {
                const int64_t window = oy * w->out_w + ox;
                sum = v_add(sum, v_mul(load_some(g + window * channels + c, n), v_set1(scale[window])));
            }
        store_some(out + c, times(read, sum, factor + c, n), n);
    }
}

/* One pixel under one window. `whole`: the vectors may go beyond its channels. */
FLRP_INLINE void pull_one(const int read, const int whole, int64_t channels, const float *g, const vf scale,
                          const float *factor, float *out) {
    for (int64_t c = 0; c < channels; c += VW) {
        const int64_t n = whole ? VW : channels - c;
        store_some(out + c, times(read, v_mul(load_some(g + c, n), scale), factor + c, n), n);
    }
}

/* A row of pixels where windows lie side by side from the left edge on; returns how many pixels they cover. */
FLRP_INLINE int64_t pull_row(const int read, const flrp_window *w, int64_t window_row, const float *g,
                             const float *scale, const float *factor, float *out) {
    const int64_t channels = w->channels, covered = flrp_min(w->out_w * w->kernel_w, w->in_w);
    const int64_t first = window_row * w->out_w, step = read == NO_FACTOR ? 0 : channels;
    for (int64_t x = 0, ox = 0; x < covered; ox++) {
        const vf s = v_set1(scale[first + ox]);
        const float *from = g + (first + ox) * channels;
        const int64_t end = flrp_min(x + w->kernel_w, covered), to_read = w->out_h * w->out_w - 1 - first - ox;
        for (; x < end; x++, factor += step, out += channels)
            if (whole_vectors(w->in_w - 1 - x, to_read, channels)) pull_one(read, 1, channels, from, s, factor, out);
            else pull_one(read, 0, channels, from, s, factor, out);
    }
    return covered;
}

FLRP_INLINE void sum_pool_backward_by(const int read, const flrp_window *w, int64_t row, int64_t rows, const float *g,
                                      const float *scale, const float *factor, float *out) {
    holders v = {0, -1};
    for (int64_t y = row; y < row + rows; y++) {
        holders h = {0, -1};
        move_on(&v, y, w->stride_h, w->pad_top, w->kernel_h, w->out_h);
        int64_t x = 0;
        if (w->stride_w == w->kernel_w && !w->pad_left && v.first == v.last) {
            const int64_t line = y * w->in_w * w->channels;
            x = pull_row(read, w, v.first, g, scale, factor ? factor + line : 0, out + line);
            h.last = w->out_w - 1, h.first = w->out_w; /* what is left lies under no window */
        }
        for (; x < w->in_w; x++) {
            const int64_t at = (y * w->in_w + x) * w->channels;
            move_on(&h, x, w->stride_w, w->pad_left, w->kernel_w, w->out_w);
            const int64_t windows = w->out_h * w->out_w - 1 - (v.last * w->out_w + h.last);
            pull_pixel(read, w, &v, &h, g, scale, factor ? factor + at : 0, out + at,
                       whole_vectors(w->in_w - 1 - x, windows, w->channels));
        }
    }
}

static void sum_pool_backward(const flrp_window *w, int64_t row, int64_t rows, const float *g, const float *scale,
                              const float *factor, int read, float *out) {
#define BY(how) case how: sum_pool_backward_by(how, w, row, rows, g, scale, factor, out); return;
    switch (factor ? read : NO_FACTOR) {
        BY(NO_FACTOR) BY(FLRP_PLAIN) BY(FLRP_POSITIVE) BY(FLRP_GATE)
    }
#undef BY
}

/* A whole window of 2 x 2, its lines `line` apart. */
FLRP_INLINE void max_of_four(int64_t channels, const float *in, int64_t line, float *restrict out,
                             int32_t *restrict winner) {
    const float *const x[4] = {in, in + channels, in + line, in + line + channels};
    for (int64_t c = 0; c < channels; c++) {
        float most = x[0][c];
        int32_t tap = 0;
        for (int32_t i = 1; i < 4; i++) {
            const float value = x[i][c];
            const int wins = (value > most) | (value != value);
            most = wins ? value : most;
            tap = wins ? i : tap;
        }
        out[c] = most;
        winner[c] = tap;
    }
}

static void max_pool(const flrp_window *w, int64_t row, int64_t rows, const float *x, float *out, int32_t *winner) {
    const int64_t channels = w->channels;
    for (int64_t y = row; y < row + rows; y++) {
        const int64_t top = y * w->stride_h - w->pad_top;
        int64_t ky0, ky1, kx0, kx1;
        taps_inside(top, w->in_h, w->kernel_h, w->dilation_h, &ky0, &ky1);
        for (int64_t col = 0; col < w->out_w; col++) {
            const int64_t left = col * w->stride_w - w->pad_left, at = (y * w->out_w + col) * channels;
            float *o = out + at;
            int32_t *win = winner + at;
            taps_inside(left, w->in_w, w->kernel_w, w->dilation_w, &kx0, &kx1);
            if (w->kernel_h == 2 && w->kernel_w == 2 && w->dilation_h == 1 && w->dilation_w == 1 && ky1 - ky0 == 2 &&
                kx1 - kx0 == 2) {
                max_of_four(channels, x + (top * w->in_w + left) * channels, w->in_w * channels, o, win);
                continue;
            }
            for (int64_t c = 0; c < channels; c++) {
                o[c] = -INFINITY;
                win[c] = -1; /* a window wholly in the padding has no winner */
            }
            for (int64_t ky = ky0; ky < ky1; ky++)
                for (int64_t kx = kx0; kx < kx1; kx++) {
                    const float *in =
                        x + ((top + ky * w->dilation_h) * w->in_w + left + kx * w->dilation_w) * channels;
                    const int32_t tap = (int32_t)(ky * w->kernel_w + kx);
                    for (int64_t c = 0; c < channels; c++) {
                        const int wins = (in[c] > o[c]) | (in[c] != in[c]) | (win[c] < 0);
                        o[c] = wins ? in[c] : o[c];
                        win[c] = wins ? tap : win[c];
                    }
                }
        }
    }
}

/* What one window gives to the pixel at one of its taps. */
FLRP_INLINE void take_one(int64_t channels, int32_t tap, const float *restrict g, const int32_t *restrict winner,
                          float *restrict out) {
    for (int64_t c = 0; c < channels; c++) out[c] = winner[c] == tap ? 0 + g[c] : 0; /* as a sum: not -0 */
}

static void max_pool_backward(const flrp_window *w, int64_t row, int64_t rows, const float *g, const int32_t *winner,
                              float *out) {
    const int64_t channels = w->channels;
    const int64_t reach_h = (w->kernel_h - 1) * w->dilation_h + 1, reach_w = (w->kernel_w - 1) * w->dilation_w + 1;
    const int dilated = w->dilation_h > 1 || w->dilation_w > 1;
    holders v = {0, -1};
    for (int64_t y = row; y < row + rows; y++) {
        holders h = {0, -1};
        move_on(&v, y, w->stride_h, w->pad_top, reach_h, w->out_h);
        for (int64_t x = 0; x < w->in_w; x++) {
            float *o = out + (y * w->in_w + x) * channels;
            move_on(&h, x, w->stride_w, w->pad_left, reach_w, w->out_w);
            if (!dilated && v.first == v.last && h.first == h.last) { /* windows side by side: the common case */
                const int64_t ky = y + w->pad_top - v.first * w->stride_h, kx = x + w->pad_left - h.first * w->stride_w;
                const int64_t at = (v.first * w->out_w + h.first) * channels;
                take_one(channels, (int32_t)(ky * w->kernel_w + kx), g + at, winner + at, o);
                continue;
            }
            for (int64_t c = 0; c < channels; c++) o[c] = 0;
            for (int64_t oy = v.first; oy <= v.last; oy++)
                for (int64_t ox = h.first; ox <= h.last; ox++) {
                    int64_t ky = y + w->pad_top - oy * w->stride_h, kx = x + w->pad_left - ox * w->stride_w;
                    if (dilated) {
                        if (ky % w->dilation_h || kx % w->dilation_w) continue; /* between the taps */
                        ky /= w->dilation_h, kx /= w->dilation_w;
                    }
                    const int64_t at = (oy * w->out_w + ox) * channels;
                    const int32_t tap = (int32_t)(ky * w->kernel_w + kx);
                    for (int64_t c = 0; c < channels; c++) o[c] += winner[at + c] == tap ? g[at + c] : 0;
                }
        }
    }
}
