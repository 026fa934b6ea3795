/* Products over samples that lie side by side: lanes are samples, weights are scalars. Whatever the channels, no lane is
 * empty, and a weight of zero need not be multiplied. */

#include <string.h>

FLRP_INLINE vf first_of(int mode, const float *out) { return mode == FLRP_LANES_GO_ON ? v_load(out) : v_set1(0); }

FLRP_INLINE void put(int mode, float *out, vf sum) {
    v_store(out, mode == FLRP_LANES_ADD ? v_add(sum, v_load(out)) : sum);
}

/* Vectors of `rows` outputs at `places` places, in registers over the whole sum. */
FLRP_INLINE void lane_block_of(const int rows, const int places, const flrp_lane_block *t) {
    vf acc[FLRP_LANE_ROWS][2];
    const float *w = t->w;
    const int64_t length = t->length, w_step = t->w_step, x_step = t->x_step, place = t->x_place;
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < places; v++) acc[m][v] = first_of(t->mode, t->out + m * t->out_row + v * t->out_place);
    for (int64_t s = 0; s < t->segments; s++) {
        const float *x = t->x + t->offsets[s];
        for (int64_t k = 0; k < length; k++, x += x_step, w += w_step) {
            vf xv[2];
#pragma GCC unroll 2
            for (int v = 0; v < places; v++) xv[v] = v_load(x + v * place);
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++) {
                const vf factor = v_set1(w[m]);
#pragma GCC unroll 2
                for (int v = 0; v < places; v++) acc[m][v] = v_fma(factor, xv[v], acc[m][v]);
            }
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int v = 0; v < places; v++) put(t->mode, t->out + m * t->out_row + v * t->out_place, acc[m][v]);
}

static void lane_block(int rows, int places, const flrp_lane_block *t) {
#define BLOCK(m, v) case 2 * (m) + (v) - 1: lane_block_of(m, v, t); return;
    switch (2 * rows + places - 1) {
        BLOCK(1, 1) BLOCK(2, 1) BLOCK(3, 1) BLOCK(4, 1) BLOCK(5, 1) BLOCK(6, 1)
        BLOCK(7, 1) BLOCK(8, 1) BLOCK(9, 1) BLOCK(10, 1) BLOCK(11, 1) BLOCK(12, 1)
        BLOCK(1, 2) BLOCK(2, 2) BLOCK(3, 2) BLOCK(4, 2) BLOCK(5, 2) BLOCK(6, 2)
    }
#undef BLOCK
}

/* Loads are what the loop over a list waits for: the compiler would make two of this one. */
static inline flrp_term one_load(const flrp_term *at) {
    uint64_t both;
    flrp_term found;
    _Static_assert(sizeof both == sizeof found, "a term is what one load takes");
    memcpy(&both, at, sizeof both);
    __asm__("" : "+r"(both));
    memcpy(&found, &both, sizeof found);
    return found;
}

/* The values v places on, v being an odd number times 1, 2, 4 or 8: odd has those times one place, in bytes. So addresses
 * are what loads can add up, and none waits for its neighbour's. */
FLRP_INLINE vf load_at(const char *x, const int64_t *odd, const int v) {
    const int n = v & 1 ? 1 : v & 2 ? 2 : v & 4 ? 4 : 8;
    return v_load((const float *)(v ? x + n * odd[v / n / 2] : x));
}

/* Output by output at `places` places, each in registers over its whole list. */
FLRP_INLINE void lane_lists_at(const int places, const flrp_lane_lists *t, const int64_t x_place) {
    const int64_t *starts = t->starts, step = t->step, span = t->span, out_row = t->out_row, out_place = t->out_place;
    const int mode = t->mode;
    float *out = t->out;
    int64_t odd[FLRP_LANE_PLACES / 2];
#pragma GCC unroll 7
    for (int i = 0; i < FLRP_LANE_PLACES / 2; i++) {
        odd[i] = (2 * i + 1) * x_place * (int64_t)sizeof(float);
        if (!__builtin_constant_p(x_place)) __asm__("" : "+r"(odd[i])); /* the compiler would make sums of these */
    }
    for (int64_t i = 0; i < t->outputs; i++, starts += step, out += out_row) {
        vf acc[FLRP_LANE_PLACES];
#pragma GCC unroll 14
        for (int v = 0; v < places; v++) acc[v] = first_of(mode, out + v * out_place);
        for (const flrp_term *at = t->terms + starts[0], *end = t->terms + starts[span]; at < end; at++) {
            const flrp_term term = one_load(at);
            const vf factor = v_set1(term.weight);
            const char *x = (const char *)(t->x + term.offset);
#pragma GCC unroll 14
            for (int v = 0; v < places; v++) acc[v] = v_fma(factor, load_at(x, odd, v), acc[v]);
        }
#pragma GCC unroll 14
        for (int v = 0; v < places; v++) put(mode, out + v * out_place, acc[v]);
    }
}

static void lane_lists(int places, const flrp_lane_lists *t) {
#define PLACES(n, step) case n: lane_lists_at(n, t, step); return;
#define ALL_PLACES(step) \
    PLACES(1, step) PLACES(2, step) PLACES(3, step) PLACES(4, step) PLACES(5, step) PLACES(6, step) PLACES(7, step) \
    PLACES(8, step) PLACES(9, step) PLACES(10, step) PLACES(11, step) PLACES(12, step) PLACES(13, step) PLACES(14, step)
    if (t->x_place == VW) /* known: no sums of addresses in the loop */
        switch (places) { ALL_PLACES(VW) }
    else
        switch (places) { ALL_PLACES(t->x_place) }
#undef ALL_PLACES
#undef PLACES
}

/* Whether a sum of zero times numbers says that all of these are finite. */
static inline int were_finite(vf sum) {
    float lanes[VW];
    v_store(lanes, sum);
    int finite = 1;
    for (int k = 0; k < VW; k++) finite &= lanes[k] == 0;
    return finite;
}

/* Whether none of n values, whole places of them, is infinite or NaN. */
static int is_finite(int64_t n, const float *x) {
    vf sums[8]; /* so many that none waits for itself */
    int64_t i = 0;
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) sums[k] = v_set1(0);
    for (; i + 8 * VW <= n; i += 8 * VW)
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) sums[k] = v_fma(v_set1(0), v_load(x + i + k * VW), sums[k]);
    for (; i < n; i += VW) sums[0] = v_fma(v_set1(0), v_load(x + i), sums[0]);
#pragma GCC unroll 7
    for (int k = 1; k < 8; k++) sums[0] = v_add(sums[0], sums[k]);
    return were_finite(sums[0]);
}
