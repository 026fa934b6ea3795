/* The transforms of F(2x2, 3x3) on vectors of channels: 2 x 2 outputs from 4 x 4 inputs by 16 products, not 36.
 * Source: Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks. */

/* One axis of the input's transform: (d0 - d2, d1 + d2, d2 - d1, d1 - d3). */
#define WINOGRAD_IN(d, s, o) \
    do { \
        const vf d0 = d[0], d1 = d[s], d2 = d[2 * (s)], d3 = d[3 * (s)]; \
        o[0] = v_sub(d0, d2); \
        o[s] = v_add(d1, d2); \
        o[2 * (s)] = v_sub(d2, d1); \
        o[3 * (s)] = v_sub(d1, d3); \
    } while (0)

/* The 4 x 4 pixels of n channels at x, lines `line` floats apart, to 16 values `plane` floats apart. */
static void winograd_input(int64_t n, const float *x, int64_t line, float *out, int64_t plane) {
    for (int64_t c = 0; c < n; c += VW) {
        vf d[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) d[i] = load_some(x + i / 4 * line + i % 4 * n + c, n - c);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            vf *const column = d + i;
            WINOGRAD_IN(column, 4, column);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            vf *const row = d + 4 * i;
            WINOGRAD_IN(row, 1, row);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) store_some(out + i * plane + c, d[i], n - c);
    }
}

/* 16 products of `vectors` vectors, `plane` floats apart, to the 4 outputs, one after the other. sign: where no exact
 * output is negative (1) or positive (-1), rounding makes none either. */
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
#undef WINOGRAD_IN
