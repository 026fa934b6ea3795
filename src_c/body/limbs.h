/* Products on tiles of bf16: float numbers as sums of one to three limbs, each the bf16 number nearest to what the
 * limbs before leave of it. Three limbs h + m + l hold a float exactly.
 *
 * Of the products of two numbers' limbs those below the accumulator's last bit are left out; the others are added from
 * small to large: lh mh mm hm hl hh, or mh hm hh, or hh. Limbs may have either sign, and yet sums of terms of one
 * sign keep it: h is at least 128 times m, so that all other products of a step are a small part of hh, which comes
 * last, and rounding is monotonic. (Truncation would give limbs of one sign and five times the error of two limbs.)
 */
#define LIMB_INLINE static inline __attribute__((always_inline))

#define EXPONENT 0x7f800000u
#define FRACTION 0x007fffffu
#define QUIET_NAN 0x00400000u

LIMB_INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
LIMB_INLINE float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A finite float's nearest bf16 number, even on ties; downward where that would be infinite. */
LIMB_INLINE uint32_t nearest(uint32_t bits) {
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    return ((rounded & EXPONENT) == EXPONENT ? bits : rounded) & 0xffff0000u;
}

/* One limb more, and what it leaves. */
LIMB_INLINE void split_rest(float *restrict rest, uint16_t *restrict limb) {
    for (int i = 0; i < FLRP_CHUNK; i++) {
        const uint32_t bits = nearest(bits_of(rest[i]));
        limb[i] = (uint16_t)(bits >> 16);
        rest[i] -= from_bits(bits);
    }
}

/* Infinities and NaN are their own first limb, the others 0. Returns the largest exponent: theirs, if there is one. */
LIMB_INLINE uint32_t split_chunk(const int limbs, const float *x, uint16_t *dst, int64_t dst_limb) {
    uint32_t most = 0;
    float rest[FLRP_CHUNK];
    for (int i = 0; i < FLRP_CHUNK; i++) {
        const uint32_t bits = bits_of(x[i]), exponent = bits & EXPONENT;
        const uint32_t finite = bits & -(uint32_t)(exponent != EXPONENT), high = nearest(finite);
        const uint32_t special = bits | (bits & FRACTION ? QUIET_NAN : 0);
        dst[i] = (uint16_t)((exponent == EXPONENT ? special : high) >> 16);
        rest[i] = from_bits(finite) - from_bits(high); /* without a condition, so that it is done on vectors */
        most = most > exponent ? most : exponent;
    }
    if (limbs > 1) split_rest(rest, dst + dst_limb);
    if (limbs > 2) split_rest(rest, dst + 2 * dst_limb);
    return most;
}

LIMB_INLINE uint32_t split_pixels(const int limbs, int64_t pixels, int64_t channels, const float *x, int64_t step,
                                  uint16_t *dst, int64_t dst_chunk, int64_t dst_limb) {
    uint32_t most = 0, found;
    for (int64_t i = 0; i < pixels; i++, x += step, dst += FLRP_CHUNK) {
        int64_t c = 0;
        for (; c + FLRP_CHUNK <= channels; c += FLRP_CHUNK) {
            found = split_chunk(limbs, x + c, dst + c / FLRP_CHUNK * dst_chunk, dst_limb);
            most = most > found ? most : found;
        }
        if (c < channels) {
            float rest[FLRP_CHUNK] = {0};
            memcpy(rest, x + c, (size_t)(channels - c) * sizeof(float));
            found = split_chunk(limbs, rest, dst + c / FLRP_CHUNK * dst_chunk, dst_limb);
            most = most > found ? most : found;
        }
    }
    return most;
}

static int split(int limbs, int64_t pixels, int64_t channels, const float *x, int64_t step, uint16_t *dst,
                 int64_t dst_chunk, int64_t dst_limb) {
    switch (limbs) {
    case 1: return split_pixels(1, pixels, channels, x, step, dst, dst_chunk, dst_limb) == EXPONENT;
    case 2: return split_pixels(2, pixels, channels, x, step, dst, dst_chunk, dst_limb) == EXPONENT;
    default: return split_pixels(3, pixels, channels, x, step, dst, dst_chunk, dst_limb) == EXPONENT;
    }
}

/* Registers: sums 0 1 over 2 3 (positions x outputs), input 4 over 5, weights 6 7. */
LIMB_INLINE void load_input(const int tiles, const uint16_t *a) {
    _tile_loadd(4, a, TILE_BYTES);
    if (tiles > 1) _tile_loadd(5, a + TILE_ROWS * FLRP_CHUNK, TILE_BYTES);
}
LIMB_INLINE void load_weights(const uint16_t *b) {
    _tile_loadd(6, b, TILE_BYTES);
    _tile_loadd(7, b + FLRP_LIMB_SIZE / 2, TILE_BYTES);
}
LIMB_INLINE void multiply(const int tiles) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (tiles > 1) _tile_dpbf16ps(2, 5, 6);
    if (tiles > 1) _tile_dpbf16ps(3, 5, 7);
}

/* One chunk of one tap. From one product to the next only one side changes its limb, so that half the loads stay. */
LIMB_INLINE void limb_step(const int tiles, const int limbs, const flrp_limb_block *t, const uint16_t *a,
                           const uint16_t *b) {
    const uint16_t *const finite = a + t->finite * t->a_limb; /* infinity times a limb of 0 would be NaN */
    if (limbs == 3) {
        load_input(tiles, a + 2 * t->a_limb);
        load_weights(b);
        multiply(tiles); /* lh */
        load_input(tiles, a + t->a_limb);
        multiply(tiles); /* mh */
        load_weights(b + FLRP_LIMB_SIZE);
        multiply(tiles); /* mm */
        load_input(tiles, finite);
        multiply(tiles); /* hm */
        load_weights(b + 2 * FLRP_LIMB_SIZE);
        multiply(tiles); /* hl */
    } else if (limbs == 2) {
        load_input(tiles, a + t->a_limb);
        load_weights(b);
        multiply(tiles); /* mh */
        load_input(tiles, finite);
        load_weights(b + FLRP_LIMB_SIZE);
        multiply(tiles); /* hm */
    }
    if (limbs == 1 || t->finite) load_input(tiles, a);
    load_weights(b);
    multiply(tiles); /* hh */
}

LIMB_INLINE void limb_block(const int tiles, const int limbs, const flrp_limb_block *t, int more, float *acc) {
    const int64_t row = FLRP_LIMB_OUTPUTS * sizeof(float);
    float *const right = acc + FLRP_LIMB_OUTPUTS / 2, *const below = acc + TILE_ROWS * FLRP_LIMB_OUTPUTS;
    const uint16_t *b = t->b;
    if (more) {
        _tile_loadd(0, acc, row);
        _tile_loadd(1, right, row);
        if (tiles > 1) _tile_loadd(2, below, row);
        if (tiles > 1) _tile_loadd(3, below + FLRP_LIMB_OUTPUTS / 2, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t chunk = 0; chunk < t->chunks; chunk++)
        for (int64_t tap = 0; tap < t->tap_count; tap++, b += limbs * FLRP_LIMB_SIZE)
            limb_step(tiles, limbs, t, t->a + chunk * t->a_chunk + t->taps[tap], b);
    _tile_stored(0, acc, row);
    _tile_stored(1, right, row);
    if (tiles > 1) _tile_stored(2, below, row);
    if (tiles > 1) _tile_stored(3, below + FLRP_LIMB_OUTPUTS / 2, row);
}

static void block(int positions, const flrp_limb_block *t, int more, float *acc) {
#define LIMBS(n) case n: if (positions > TILE_ROWS) limb_block(2, n, t, more, acc); else limb_block(1, n, t, more, acc); return;
    switch (t->limbs) {
        LIMBS(1)
        LIMBS(2)
        LIMBS(3)
    }
}

static void start(void) { _tile_loadconfig(&whole_tiles); }
static void stop(void) { _tile_release(); }

const flrp_limb_kernels LIMB_TABLE = {.start = start, .stop = stop, .split = split, .block = block};
