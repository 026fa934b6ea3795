/* Sums over pixels and over channels: always the same terms in the same order. */

/* For `width` samples side by side, whole vectors of them; the bits are those of each by itself. */
static void group_sum_lanes(int64_t groups, int64_t n, int64_t width, const float *x, float *out) {
    for (int64_t group = 0; group < groups; group++, x += n * width)
        for (int64_t lane = 0; lane < width; lane += VW) {
            vf sum = v_set1(0);
            for (int64_t first = 0; first < flrp_min(VW, n); first++) {
                vf every = v_set1(0);
                for (int64_t c = first; c < n; c += VW) every = v_add(every, v_load(x + c * width + lane));
                sum = v_add(sum, every);
            }
            v_store(out + group * width + lane, sum);
        }
}

/* Every VW-th number makes a sum, and these are added up in order. */
static void group_sum(int64_t groups, int64_t n, int64_t width, const float *x, float *out) {
    float sums[VW * VW], turned[VW * VW] = {0};
    if (width > 1) {
        group_sum_lanes(groups, n, width, x, out);
        return;
    }
    for (int64_t group = 0; group < groups; group += VW) {
        const int64_t count = flrp_min(VW, groups - group);
        for (int64_t i = 0; i < count; i++, x += n) {
            vf every = v_set1(0);
            for (int64_t c = 0; c < n; c += VW) every = v_add(every, load_some(x + c, n - c));
            v_store(sums + i * VW, every);
        }
        transpose(count, VW, sums, VW, turned, VW);
        vf sum = v_set1(0);
        for (int i = 0; i < VW; i++) sum = v_add(sum, v_load(turned + i * VW));
        store_some(out + group, sum, count);
    }
}

/* Four sums run side by side, row by row, and are added up at the end. */
static void channel_sum(int64_t rows, int64_t channels, const float *g, float *out) {
    for (int64_t c = 0; c < channels; c += VW) {
        const int64_t left = channels - c;
        vf sums[4] = {v_set1(0), v_set1(0), v_set1(0), v_set1(0)};
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sums[i] = v_add(sums[i], load_some(g + (row + i) * channels + c, left));
        for (; row < rows; row++) sums[0] = v_add(sums[0], load_some(g + row * channels + c, left));
        store_some(out + c, v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])), left);
    }
}
