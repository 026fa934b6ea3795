/* Pooling over channels-last samples: rows of one sample's output (forward) or input (backward).
 *
 * Backward kernels gather: each input pixel asks the windows that hold it, in scan order, so that rows can be
 * split over threads without changing a bit. Channels are the inner loop.
 */

/* Window taps [*first, *last) that fall inside an axis of `size` from window origin `at`. */
static inline void taps_inside(int64_t at, int64_t size, int64_t kernel, int64_t dilation, int64_t *first,
                               int64_t *last) {
    *first = at < 0 ? (-at + dilation - 1) / dilation : 0;
    *last = at >= size ? 0 : flrp_min(kernel, (size - at + dilation - 1) / dilation);
}

static void sum_pool(const flrp_window *w, int64_t row, int64_t rows, const float *x, const float *scale, float *out) {
    const int64_t channels = w->channels;
    for (int64_t y = row; y < row + rows; y++) {
        const int64_t top = y * w->stride_h - w->pad_top;
        int64_t ky0, ky1, kx0, kx1;
        taps_inside(top, w->in_h, w->kernel_h, w->dilation_h, &ky0, &ky1);
        for (int64_t col = 0; col < w->out_w; col++) {
            const int64_t left = col * w->stride_w - w->pad_left;
            float *o = out + (y * w->out_w + col) * channels;
            const float s = scale[y * w->out_w + col];
            taps_inside(left, w->in_w, w->kernel_w, w->dilation_w, &kx0, &kx1);
            for (int64_t c = 0; c < channels; c++) o[c] = 0;
            for (int64_t ky = ky0; ky < ky1; ky++)
                for (int64_t kx = kx0; kx < kx1; kx++) {
                    const float *in =
                        x + ((top + ky * w->dilation_h) * w->in_w + left + kx * w->dilation_w) * channels;
                    for (int64_t c = 0; c < channels; c++) o[c] += in[c];
                }
            for (int64_t c = 0; c < channels; c++) o[c] *= s;
        }
    }
}

/* Output position whose window holds input position `at` under tap k, or -1. */
static inline int64_t window_of(int64_t at, int64_t k, int64_t stride, int64_t pad, int64_t dilation, int64_t count) {
    const int64_t origin = at + pad - k * dilation;
    if (origin < 0 || origin % stride) return -1;
    return origin / stride < count ? origin / stride : -1;
}

static void sum_pool_backward(const flrp_window *w, int64_t row, int64_t rows, const float *g, const float *scale,
                              float *out) {
    const int64_t channels = w->channels;
    for (int64_t y = row; y < row + rows; y++)
        for (int64_t x = 0; x < w->in_w; x++) {
            float *o = out + (y * w->in_w + x) * channels;
            for (int64_t c = 0; c < channels; c++) o[c] = 0;
            for (int64_t ky = w->kernel_h - 1; ky >= 0; ky--) {
                const int64_t oy = window_of(y, ky, w->stride_h, w->pad_top, w->dilation_h, w->out_h);
                for (int64_t kx = w->kernel_w - 1; kx >= 0 && oy >= 0; kx--) {
                    const int64_t ox = window_of(x, kx, w->stride_w, w->pad_left, w->dilation_w, w->out_w);
                    if (ox < 0) continue;
                    const float *in = g + (oy * w->out_w + ox) * channels, s = scale[oy * w->out_w + ox];
                    for (int64_t c = 0; c < channels; c++) o[c] += in[c] * s;
                }
            }
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

static void max_pool_backward(const flrp_window *w, int64_t row, int64_t rows, const float *g, const int32_t *winner,
                              float *out) {
    const int64_t channels = w->channels;
    for (int64_t y = row; y < row + rows; y++)
        for (int64_t x = 0; x < w->in_w; x++) {
            float *o = out + (y * w->in_w + x) * channels;
            for (int64_t c = 0; c < channels; c++) o[c] = 0;
            for (int64_t ky = w->kernel_h - 1; ky >= 0; ky--) {
                const int64_t oy = window_of(y, ky, w->stride_h, w->pad_top, w->dilation_h, w->out_h);
                for (int64_t kx = w->kernel_w - 1; kx >= 0 && oy >= 0; kx--) {
                    const int64_t ox = window_of(x, kx, w->stride_w, w->pad_left, w->dilation_w, w->out_w);
                    if (ox < 0) continue;
                    const int64_t at = (oy * w->out_w + ox) * channels;
                    const int32_t tap = (int32_t)(ky * w->kernel_w + kx);
                    for (int64_t c = 0; c < channels; c++) o[c] += winner[at + c] == tap ? g[at + c] : 0;
                }
            }
        }
}
