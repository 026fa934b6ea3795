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

#ifdef __AVX512BF16__ /* all processors with tiles have it; not the emulation */
LIMB_INLINE __m512 widened(__m256i limb) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(limb), 16));
}

/* The same, but for numbers just below the least normal one, by the processor's own rounding, which takes denormal
 * numbers for 0 as tiles do. It would make large numbers infinite: left to the code above, as what is not finite is. */
LIMB_INLINE uint32_t split_vectors(const int limbs, __m512 low, __m512 high, uint16_t *dst, int64_t dst_limb) {
    const __m512i exponent = _mm512_set1_epi16((short)(EXPONENT >> 16));
    __m512i found = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    if (_mm512_cmpeq_epi16_mask(_mm512_and_si512(found, exponent), exponent)) {
        float x[FLRP_CHUNK];
        _mm512_storeu_ps(x, low);
        _mm512_storeu_ps(x + FLRP_CHUNK / 2, high);
        return split_chunk(limbs, x, dst, dst_limb);
    }
    for (int limb = 1; limb < limbs; limb++, dst += dst_limb) {
        _mm512_storeu_si512(dst, found);
        low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(found)));
        high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(found, 1)));
        found = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    }
    _mm512_storeu_si512(dst, found);
    return 0;
}
LIMB_INLINE uint32_t split_next(const int limbs, const float *x, uint16_t *dst, int64_t dst_limb) {
    return split_vectors(limbs, _mm512_loadu_ps(x), _mm512_loadu_ps(x + FLRP_CHUNK / 2), dst, dst_limb);
}

LIMB_INLINE __m512 winograd_value(const float *const x[4], int64_t at, __m512 down, __m512 right) {
    const __m512 left = _mm512_fmadd_ps(down, _mm512_loadu_ps(x[1] + at), _mm512_loadu_ps(x[0] + at));
    return _mm512_fmadd_ps(right, _mm512_fmadd_ps(down, _mm512_loadu_ps(x[3] + at), _mm512_loadu_ps(x[2] + at)), left);
}

LIMB_INLINE uint32_t split_value(const int limbs, const float *const x[4], int64_t at, float down, float right,
                                 uint16_t *dst, int64_t dst_limb) {
    const __m512 d = _mm512_set1_ps(down), r = _mm512_set1_ps(right);
    return split_vectors(limbs, winograd_value(x, at, d, r), winograd_value(x, at + FLRP_CHUNK / 2, d, r), dst, dst_limb);
}
#else
#define split_next split_chunk

LIMB_INLINE uint32_t split_value(const int limbs, const float *const x[4], int64_t at, float down, float right,
                                 uint16_t *dst, int64_t dst_limb) {
    float value[FLRP_CHUNK];
    for (int64_t k = 0; k < FLRP_CHUNK; k++)
        value[k] = (x[0][at + k] + down * x[1][at + k]) + right * (x[2][at + k] + down * x[3][at + k]);
    return split_chunk(limbs, value, dst, dst_limb);
}
#endif

LIMB_INLINE uint32_t split_pixels(const int limbs, int64_t pixels, int64_t channels, const float *x, int64_t step,
                                  uint16_t *dst, int64_t dst_chunk, int64_t dst_limb) {
    uint32_t most = 0, found;
    for (int64_t i = 0; i < pixels; i++, x += step, dst += FLRP_CHUNK) {
        int64_t c = 0;
        for (; c + FLRP_CHUNK <= channels; c += FLRP_CHUNK) {
            found = split_next(limbs, x + c, dst + c / FLRP_CHUNK * dst_chunk, dst_limb);
            most = most > found ? most : found;
        }
        if (c < channels) {
            float rest[FLRP_CHUNK] = {0};
            memcpy(rest, x + c, (size_t)(channels - c) * sizeof(float));
            found = split_next(limbs, rest, dst + c / FLRP_CHUNK * dst_chunk, dst_limb);
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

/* The last chunk's channels, zeros past their end. */
LIMB_INLINE uint32_t split_last_value(const int limbs, const float *const x[4], int64_t at, int64_t n, float down,
                                      float right, uint16_t *dst, int64_t dst_limb) {
    float pixels[4][FLRP_CHUNK] = {{0}};
    const float *const copies[4] = {pixels[0], pixels[1], pixels[2], pixels[3]};
    for (int i = 0; i < 4; i++) memcpy(pixels[i], x[i] + at, (size_t)n * sizeof(float));
    return split_value(limbs, copies, 0, down, right, dst, dst_limb);
}

LIMB_INLINE int split_values(const int limbs, int64_t channels, const float *const x[4], float down, float right,
                             uint16_t *dst, int64_t dst_chunk, int64_t dst_limb) {
    uint32_t most = 0, found;
    int64_t c = 0;
    for (; c + FLRP_CHUNK <= channels; c += FLRP_CHUNK, dst += dst_chunk) {
        found = split_value(limbs, x, c, down, right, dst, dst_limb);
        most = most > found ? most : found;
    }
    if (c < channels) {
        found = split_last_value(limbs, x, c, channels - c, down, right, dst, dst_limb);
        most = most > found ? most : found;
    }
    return most == EXPONENT;
}

static int split_winograd(int limbs, int64_t channels, const float *const x[4], float down, float right, uint16_t *dst,
                          int64_t dst_chunk, int64_t dst_limb) {
    switch (limbs) {
    case 1: return split_values(1, channels, x, down, right, dst, dst_chunk, dst_limb);
    case 2: return split_values(2, channels, x, down, right, dst, dst_chunk, dst_limb);
    default: return split_values(3, channels, x, down, right, dst, dst_chunk, dst_limb);
    }
}

static void add_winograd(int64_t tiles, const float *acc, const float *factors, float *out, int64_t out_pixel) {
    for (int64_t i = 0; i < tiles; i++, acc += FLRP_LIMB_OUTPUTS)
        for (int q = 0; q < 4; q++, out += out_pixel) {
            const float factor = factors[q];
            if (factor != 0)
                for (int n = 0; n < FLRP_LIMB_OUTPUTS; n++) out[n] += factor * acc[n];
        }
}

/* Registers: sums 0 1 over 2 3 (positions x outputs), input 4 over 5, weights 6 7. */
LIMB_INLINE void load(const int tiles, const uint16_t *a, int64_t below, const uint16_t *b) {
    _tile_loadd(4, a, TILE_BYTES);
    _tile_loadd(6, b, TILE_BYTES);
    _tile_loadd(7, b + FLRP_LIMB_SIZE / 2, TILE_BYTES);
    if (tiles > 1) _tile_loadd(5, a + below, TILE_BYTES);
}

/* Products, and at once what the next ones need, each as soon as its register is free. NULL: it stays. */
LIMB_INLINE void multiply(const int tiles, const uint16_t *a, int64_t below, const uint16_t *b) {
    _tile_dpbf16ps(0, 4, 6);
    if (b && !a && tiles > 1) _tile_dpbf16ps(2, 5, 6);
    if (b && !a) _tile_loadd(6, b, TILE_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    if (a) _tile_loadd(4, a, TILE_BYTES);
    if ((a || !b) && tiles > 1) _tile_dpbf16ps(2, 5, 6);
    if (a && b) _tile_loadd(6, b, TILE_BYTES);
    if (tiles > 1) _tile_dpbf16ps(3, 5, 7);
    if (a && tiles > 1) _tile_loadd(5, a + below, TILE_BYTES);
    if (b) _tile_loadd(7, b + FLRP_LIMB_SIZE / 2, TILE_BYTES);
}

/* One chunk of one tap: the last limb of a and limb 0 of b are loaded already; then the next step's are. From one
 * product to the next only one side changes its limb, so that half the loads stay. */
LIMB_INLINE void limb_step(const int tiles, const int limbs, const int finite, const flrp_limb_block *t,
                           const uint16_t *a, const uint16_t *b, const uint16_t *next_a, const uint16_t *next_b) {
    const uint16_t *const high = finite ? a + limbs * t->a_limb : a; /* infinity times a limb of 0 would be NaN */
    const int64_t below = t->below;
    if (limbs == 3) {
        multiply(tiles, a + t->a_limb, below, 0);              /* lh */
        multiply(tiles, 0, below, b + FLRP_LIMB_SIZE);      /* mh */
        multiply(tiles, high, below, 0);                    /* mm */
        multiply(tiles, 0, below, b + 2 * FLRP_LIMB_SIZE);  /* hm */
        multiply(tiles, finite ? a : 0, below, b);          /* hl */
    } else if (limbs == 2) {
        multiply(tiles, high, below, b + FLRP_LIMB_SIZE);   /* mh */
        multiply(tiles, finite ? a : 0, below, b);          /* hm */
    }
    multiply(tiles, next_a, below, next_b); /* hh */
}

LIMB_INLINE void fetch_some(flrp_fetch *f) {
    for (int64_t i = 0; i < f->lines && f->next < f->end; i++) {
        __builtin_prefetch(f->next, 0, 2);
        f->next += FLRP_CACHE_LINE;
        if (f->next < f->row_end) continue;
        f->next = f->row_end + f->pitch - f->row;
        f->row_end += f->pitch;
    }
}

LIMB_INLINE void limb_block(const int tiles, const int limbs, const int finite, const flrp_limb_block *t, float *acc) {
    const int64_t row = t->acc_row * (int64_t)sizeof(float), last = (limbs - 1) * t->a_limb;
    float *const right = acc + FLRP_LIMB_OUTPUTS / 2, *const below = acc + TILE_ROWS * t->acc_row;
    int64_t steps = t->chunks * t->tap_count, tap = 0;
    if (t->more) {
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
    const uint16_t *chunk = t->a, *a = steps ? chunk + t->taps[0] : 0, *b = t->b;
    if (steps) load(tiles, a + last, t->below, b);
    while (steps) {
        const uint16_t *next_a = a, *next_b = b; /* after the last step nothing is needed: what is in L1 */
        if (--steps) {
            if (++tap == t->tap_count) tap = 0, chunk += t->a_chunk;
            next_a = chunk + t->taps[tap];
            next_b = b + limbs * FLRP_LIMB_SIZE;
        }
        limb_step(tiles, limbs, finite, t, a, b, next_a + last, next_b);
        for (int i = 0; i < t->fetch_count; i++) fetch_some(t->fetches[i]);
        if (t->aside) t->aside(t->context);
        tile_stay_awake();
        a = next_a, b = next_b;
    }
    _tile_stored(0, acc, row);
    _tile_stored(1, right, row);
    if (tiles > 1) _tile_stored(2, below, row);
    if (tiles > 1) _tile_stored(3, below + FLRP_LIMB_OUTPUTS / 2, row);
}

static void block(const flrp_limb_block *t, float *acc) {
#define CASE(tiles, limbs, finite) \
    case 8 * tiles + 2 * limbs + finite: limb_block(tiles, limbs, finite, t, acc); return;
    switch (8 * t->tiles + 2 * t->limbs + t->finite) {
        CASE(1, 1, 0) CASE(1, 2, 0) CASE(1, 3, 0) CASE(1, 2, 1) CASE(1, 3, 1)
        CASE(2, 1, 0) CASE(2, 2, 0) CASE(2, 3, 0) CASE(2, 2, 1) CASE(2, 3, 1)
    }
#undef CASE
}

/* Sums and input have so many rows, weights all. */
static void start(int rows) {
    tile_shapes shapes = whole_tiles;
    for (int tile = 0; tile < 6; tile++) shapes.rows[tile] = (uint8_t)rows;
    __asm__ volatile("" : : "r"(&shapes) : "memory"); /* GCC's intrinsic does not say that it reads them */
    _tile_loadconfig(&shapes);
}
static void stop(void) {
    _tile_release();
    fence_streams();
}

/* The machine's limit, to measure kernels against: numbers with as many bits as others, since zeros need less power. */
static void tile_loop(int64_t iterations) {
    uint16_t a[FLRP_LIMB_SIZE], b[FLRP_LIMB_SIZE];
    for (int i = 0; i < FLRP_LIMB_SIZE; i++) {
        a[i] = (uint16_t)(0x3f00 + i * 37 % 128 + (i * 11 % 2 << 15));
        b[i] = (uint16_t)(0x3f00 + i * 53 % 128 + (i * 7 % 3 % 2 << 15));
    }
    __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    load(2, a, FLRP_LIMB_SIZE / 2, b);
    for (int64_t n = 0; n < iterations; n++) multiply(2, 0, 0, 0);
}

const flrp_limb_kernels LIMB_TABLE = {
    .start = start, .stop = stop, .split = split, .block = block, .split_winograd = split_winograd,
    .add_winograd = add_winograd, .tile_loop = tile_loop};
