/* The transforms of F(2x2, 3x3) and F(2x2, 5x5) on vectors of channels: 2 x 2 outputs from 4 x 4 inputs by 16 products,
 * not 36, or from 6 x 6 by 49, not 100. On each axis two outputs are (m0 + m1 + m2, m1 - m2 - m3). Three taps make each
 * of these one product; five are three and two more, F(2, 3) and F(2, 2), whose products but one go into the same sums.
 * Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks. */

/* One axis of the input's transform: m0's one value or two, m1's, m2's, m3's. */
FLRP_INLINE void winograd_axis(const int taps, const vf *d, vf *o) {
    if (taps == 3) {
        o[0] = v_sub(d[0], d[2]), o[1] = v_add(d[1], d[2]), o[2] = v_sub(d[2], d[1]), o[3] = v_sub(d[1], d[3]);
    } else {
        o[0] = v_sub(d[0], d[2]), o[1] = v_sub(d[3], d[4]);
        o[2] = v_add(d[1], d[2]), o[3] = d[4];
        o[4] = v_sub(d[2], d[1]);
        o[5] = v_sub(d[1], d[3]), o[6] = v_sub(d[4], d[5]);
    }
}

/* Tiles side by side of n channels at x, lines `line` floats apart, to their values, row by row, tile by tile, at
 * out + places[i]. */
FLRP_INLINE void winograd_tiles(const int taps, int tiles, int64_t n, const float *x, int64_t line, float *out,
                                const int64_t *places) {
    const int size = taps + 1, values = taps == 3 ? 4 : 7;
    vf columns[2 * FLRP_TILES + 4][7], d[6], o[7];
    for (int64_t c = 0; c < n; c += VW) {
        for (int i = 0; i < 2 * tiles + taps - 1; i++) {
#pragma GCC unroll 6
            for (int k = 0; k < size; k++) d[k] = load_some(x + k * line + i * n + c, n - c);
            winograd_axis(taps, d, columns[i]);
        }
        const int64_t *at = places;
        for (int tile = 0; tile < tiles; tile++, at += values * values)
#pragma GCC unroll 7
            for (int i = 0; i < values; i++) {
#pragma GCC unroll 6
                for (int k = 0; k < size; k++) d[k] = columns[2 * tile + k][i];
                winograd_axis(taps, d, o);
#pragma GCC unroll 7
                for (int k = 0; k < values; k++) store_some(out + at[i * values + k] + c, o[k], n - c);
            }
    }
}

static void winograd_input(int taps, int tiles, int64_t n, const float *x, int64_t line, float *out,
                           const int64_t *places) {
    if (taps == 3) winograd_tiles(3, tiles, n, x, line, out, places);
    else winograd_tiles(5, tiles, n, x, line, out, places);
}

/* 16 sums of `vectors` vectors, `plane` floats apart, to the 4 outputs, one after the other. sign: where no exact output
 * is negative (1) or positive (-1), rounding makes none either. */
static void winograd_output(int vectors, const float *m, int64_t plane, int sign, float *out) {
    for (int v = 0; v < vectors; v++, m += VW, out += VW) {
        vf rows[8]; /* (m0 + m1 + m2, m1 - m2 - m3) of each column */
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const vf a = v_load(m + (4 + i) * plane), b = v_load(m + (8 + i) * plane);
            rows[i] = v_add(v_load(m + i * plane), v_add(a, b));
            rows[4 + i] = v_sub(v_sub(a, b), v_load(m + (12 + i) * plane));
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const vf *const r = rows + 4 * i;
            vf first = v_add(r[0], v_add(r[1], r[2])), second = v_sub(v_sub(r[1], r[2]), r[3]);
            if (sign > 0) first = v_positive(first), second = v_positive(second);
            if (sign < 0) first = v_negative(first), second = v_negative(second);
            v_store(out + 2 * i * vectors * VW, first);
            v_store(out + (2 * i + 1) * vectors * VW, second);
        }
    }
}
