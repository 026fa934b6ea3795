/* The micro-kernel: a block of rows x vectors accumulators over segments of the reduction axis.
 *
 * acc[m][n] (+)= sum over t, k of a[m][a_offsets[t] + k * a_step] * b[b_offsets[t] + k * b_step + n].
 * Every output's terms are added in the same order whatever the block's size, so that results do not
 * depend on how a product is cut into blocks.
 */

#define FLRP_INLINE static inline __attribute__((always_inline))

/* acc[m][v] += a[m][i] * b[v] for one element of the reduction. */
FLRP_INLINE void tile_step(const int rows, const int vectors, vf acc[FLRP_MAX_ROWS][FLRP_MAX_VECTORS],
                           const float *const *a, int64_t i, const float *b) {
    vf bv[FLRP_MAX_VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) bv[v] = v_load(b + v * VW);
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
        const vf x = v_set1(a[m][i]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[m][v] = v_fma(x, bv[v], acc[m][v]);
    }
}

/* Compiled once per block size: with constant rows and vectors the accumulators live in registers. */
FLRP_INLINE void tile_block(const int rows, const int vectors, const flrp_tile *t, float *out) {
    vf acc[FLRP_MAX_ROWS][FLRP_MAX_VECTORS];
    const float *a[FLRP_MAX_ROWS];
    const int64_t length = t->length, a_step = t->a_step, b_step = t->b_step, segments = t->segments;
    const int64_t *const a_offsets = t->a_offsets, *const b_offsets = t->b_offsets;
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
        a[m] = t->a[m];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[m][v] = t->more ? v_load(out + (m * vectors + v) * VW) : v_set1(0);
    }
    if (!b_offsets) {
        const float *b = t->b;
        for (int64_t s = 0; s < segments; s++, b += b_step) tile_step(rows, vectors, acc, a, a_offsets[s], b);
    } else if (!a_offsets) {
        for (int64_t s = 0, i = 0; s < segments; s++, i += a_step)
            tile_step(rows, vectors, acc, a, i, t->b + b_offsets[s]);
    } else {
        uintptr_t soon = t->soon;
        for (int64_t s = 0; s < segments; s++) {
            const float *b = t->b + b_offsets[s];
            for (int64_t n = 0; n < t->soon_lines; n++, soon += FLRP_CACHE_LINE)
                __builtin_prefetch((const void *)soon, 0, 2);
#pragma GCC unroll 6
            for (int m = 0; m < rows; m++) a[m] = t->a[m] + a_offsets[s];
            for (int64_t k = 0, i = 0; k < length; k++, i += a_step, b += b_step)
                tile_step(rows, vectors, acc, a, i, b);
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) v_store(out + (m * vectors + v) * VW, acc[m][v]);
}

/* Wide blocks have up to 6 rows of a panel; narrow ones of 1 to 4 vectors up to NARROW_ROWS rows. */
#define NARROW_ROWS {6, 6, PANEL_VECTORS == 4 ? 6 : 4, PANEL_VECTORS == 4 ? 6 : 3}
#define ROWS(r, v) case 8 * r + v: tile_block(r, v, t, acc); return;
#define WIDE(v) ROWS(1, v) ROWS(2, v) ROWS(3, v) ROWS(4, v) ROWS(5, v) ROWS(6, v)
#define NARROW(v) ROWS(1, v) ROWS(2, v) ROWS(3, v)

static void tile(int rows, int vectors, const flrp_tile *t, float *acc) {
    switch (8 * rows + vectors) {
        WIDE(1)
        WIDE(2)
#if PANEL_VECTORS == 4
        WIDE(3)
        WIDE(4)
#else
        NARROW(3) ROWS(4, 3)
        NARROW(4)
#endif
    }
}

/* As a block of the above whose rows of a are neighbours, one float apart, in each of a few lines: fewer addresses leave
 * room for larger blocks. */
FLRP_INLINE void lines_block(const int lines, const int rows, const int vectors, const flrp_lines *t, float *out) {
    vf acc[FLRP_LINES_ROWS][FLRP_MAX_VECTORS];
    const float *a[FLRP_LINES_ROWS], *b = t->b;
#pragma GCC unroll 9
    for (int l = 0; l < lines; l++) a[l] = t->a[l];
#pragma GCC unroll 13
    for (int m = 0; m < lines * rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[m][v] = t->more ? v_load(out + (m * vectors + v) * VW) : v_set1(0);
    for (int64_t s = 0; s < t->count; s++, b += t->b_step) {
        const int64_t at = t->offsets[s];
        vf bv[FLRP_MAX_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) bv[v] = v_load(b + v * VW);
#pragma GCC unroll 13
        for (int m = 0; m < lines * rows; m++) {
            const vf x = v_set1(a[m / rows][at + m % rows]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[m][v] = v_fma(x, bv[v], acc[m][v]);
        }
    }
#pragma GCC unroll 13
    for (int m = 0; m < lines * rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) v_store(out + (m * vectors + v) * VW, acc[m][v]);
}

/* One line of up to LINE_ROWS rows; of one vector also several lines of up to 12 rows together. */
#define LINE_ROWS {12, PANEL_VECTORS == 4 ? 13 : 6, 6, 6}
#define LINES(l, r, v) case 1024 * l + 16 * r + v: lines_block(l, r, v, t, acc); return;
#define SIX(l, v) LINES(l, 1, v) LINES(l, 2, v) LINES(l, 3, v) LINES(l, 4, v) LINES(l, 5, v) LINES(l, 6, v)
#define TWELVE(v) \
    SIX(1, v) LINES(1, 7, v) LINES(1, 8, v) LINES(1, 9, v) LINES(1, 10, v) LINES(1, 11, v) LINES(1, 12, v)

static void lines(int count, int rows, int vectors, const flrp_lines *t, float *acc) {
    switch (1024 * count + 16 * rows + vectors) {
        TWELVE(1)
        SIX(2, 1)
        LINES(3, 1, 1) LINES(3, 2, 1) LINES(3, 3, 1) LINES(3, 4, 1)
        LINES(4, 1, 1) LINES(5, 1, 1) LINES(6, 1, 1) LINES(7, 1, 1) LINES(8, 1, 1) LINES(9, 1, 1)
#if PANEL_VECTORS == 4
        TWELVE(2) LINES(1, 13, 2) SIX(1, 3) SIX(1, 4)
#else
        SIX(1, 2)
#endif
    }
}

/* The machine's limit, to measure kernels against: independent multiply-adds that never leave the registers. */
static void fma_loop(int64_t iterations) {
    vf acc[12];
    const vf factor = v_set1(0.5f), term = v_set1(1);
    volatile float sink;
    float last[VW];
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) acc[i] = v_set1((float)i);
    for (int64_t n = 0; n < iterations; n++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) acc[i] = v_fma(acc[i], factor, term);
#pragma GCC unroll 12
    for (int i = 1; i < 12; i++) acc[0] = v_add(acc[0], acc[i]);
    v_store(last, acc[0]);
    sink = last[0];
    (void)sink;
}
