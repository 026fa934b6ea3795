/* Programs: the steps of a forward pass and an explanation, recorded once, run over a whole batch by one call.
 *
 * Small samples are shared out among the threads: each takes a few samples through every step, so that nothing
 * leaves its L2 cache and no thread waits for another. Large samples, and too few to lie side by side where the weights
 * would not stay in L2 from block to block, go through step by step, all threads on each.
 * Kernels give the same bits for any block of samples and any number of threads, so both ways do.
 * Sums over samples are made section by section where a program has sections, and added up in order.
 * Where a program has a twin for samples side by side (lanes.c), it takes the blocks that are full, while all their
 * numbers are finite.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#define ROOM 16 /* floats: a cache line, and the largest vector */

typedef struct {
    const flrp_program *p, *twin; /* twin: takes whole blocks; NULL: none does */
    int isa;
    int64_t samples, block, piece; /* samples of a block, and of what comes after whole blocks */
    float *const *external;
    int64_t *classes;
    float *arena, *sums; /* sums: of all sections */
    atomic_llong next;
    atomic_int status;
} job;

/* What a step works on, whole samples or, in a stretch, pixels; and where each slot's values of theirs lie. */
typedef struct {
    const job *j;
    int64_t first, count; /* samples */
    int64_t grid, pixel, pixels, room; /* grid: pixels of a sample, 0 outside stretches; room: pixels of scratch */
    float *scratch;
} frame;

static float *slot(const frame *f, int i) {
    const flrp_slot *s = &f->j->p->slots[i];
    if (s->in_scratch) return f->scratch + s->offset * f->room;
    if (f->j->sums && s->sum >= 0) return f->j->sums + f->first / f->j->p->section * f->j->p->sum_floats + s->sum;
    float *values = s->offset < 0 ? f->j->external[i] + f->first * s->size : f->j->arena + s->offset * f->j->block;
    return f->grid ? values + f->pixel * (s->size / f->grid) : values;
}

/* Floats of a sample; in a stretch, of the pixels, which are one sample. */
static int64_t size_of(const frame *f, int i) {
    const int64_t size = f->j->p->slots[i].size;
    return f->grid ? f->pixels * (size / f->grid) : size;
}

static int64_t samples_of(const frame *f) { return f->grid ? 1 : f->count; }

static flrp_operand operand(const frame *f, const flrp_source *s) {
    return (flrp_operand){s->slot < 0 ? 0 : slot(f, s->slot), s->bound, s->read};
}

static flrp_ratio ratio(const frame *f, const flrp_step *s) {
    flrp_ratio r = s->ratio;
    r.relevance = s->relevance < 0 ? 0 : slot(f, s->relevance);
    return r;
}

/* A product with one tap, over one row of pixels. */
static flrp_product along(const flrp_product *p, int64_t pixels) {
    flrp_product row = *p;
    row.rows.count = row.src_h = row.dst_h = 1;
    row.cols.count = row.src_w = row.dst_w = pixels;
    return row;
}

static flrp_pooled pool_of(const frame *f, const flrp_step *s) {
    return (flrp_pooled){.window = s->window, .winner = s->winner < 0 ? 0 : (const int32_t *)slot(f, s->winner),
                         .winner_out = s->out[1] < 0 ? 0 : (int32_t *)slot(f, s->out[1])};
}

static int run_product(const frame *f, const flrp_step *s, int threads) {
    const flrp_operand operands[2] = {operand(f, &s->in[0]), operand(f, &s->in[1])};
    const flrp_epilogue e = {.out = slot(f, s->out[0]), .bias = s->constants[0], .ratio = ratio(f, s),
                             .factors = {operand(f, &s->factors[0]), operand(f, &s->factors[1])},
                             .factor_period = size_of(f, s->out[0]), .relu = s->kind, .sign = s->sign,
                             .pool = pool_of(f, s)};
    int status = FLRP_OK;
    for (int64_t i = 0; i < s->sweeps && status == FLRP_OK; i++) {
        const flrp_product p = f->grid ? along(&s->product[i], f->pixels) : s->product[i];
        status = flrp_product_run(f->j->isa, threads, &p, samples_of(f), operands, &e);
    }
    return status;
}

/* The class that each sample's relevance starts from: given, or (negative) the largest output, the first on ties;
 * a NaN wins. */
static void pick(const frame *f, const flrp_step *s) {
    const int64_t width = f->j->p->width, n = f->j->p->slots[s->out[0]].size / width, step = width > 1 ? 1 : n;
    const float *x = slot(f, s->in[0].slot);
    float *out = slot(f, s->out[0]);
    int64_t *classes = f->j->classes + f->first * width;
    for (int64_t i = 0; i < f->count * width; i++, x += step, out += step) {
        int64_t best = classes[i] < 0 ? 0 : classes[i];
        if (classes[i] < 0)
            for (int64_t c = 1; c < n && x[best * width] == x[best * width]; c++)
                if (!(x[c * width] <= x[best * width])) best = c;
        for (int64_t c = 0; c < n; c++) out[c * width] = 0;
        out[best * width] = s->kind ? 1 : x[best * width];
        classes[i] = best;
    }
}

/* Between samples one by one and samples side by side. */
static void turn(const frame *f, const flrp_step *s) {
    const int64_t width = f->j->p->width, n = f->j->p->slots[s->out[0]].size / width;
    const int64_t rows = s->kind ? n : width, cols = s->kind ? width : n;
    flrp_kernels_of(f->j->isa)->transpose(rows, cols, slot(f, s->in[0].slot), cols, slot(f, s->out[0]), rows);
}

static int run_step(const frame *f, const flrp_step *s, int threads) {
    const int isa = f->j->isa;
    const int64_t n = samples_of(f), size = size_of(f, s->out[0]);
    float *out = slot(f, s->out[0]);
    const flrp_operand a = operand(f, &s->in[0]), b = operand(f, &s->in[1]), c = operand(f, &s->in[2]);
    const flrp_ratio r = ratio(f, s);
    switch (s->op) {
    case FLRP_STEP_PRODUCT: return run_product(f, s, threads);
    case FLRP_STEP_SUM_POOL: flrp_sum_pool(isa, threads, s->window, n, &a, s->constants[0], out); break;
    case FLRP_STEP_SUM_POOL_BACKWARD:
        flrp_sum_pool_backward(isa, threads, s->window, n, a.data, s->constants[0], &b, out);
        break;
    case FLRP_STEP_MAX_POOL:
        flrp_max_pool(isa, threads, s->window, n, a.data, out, (int32_t *)slot(f, s->out[1]));
        break;
    case FLRP_STEP_MAX_POOL_BACKWARD:
        flrp_max_pool_backward(isa, threads, s->window, n, a.data, (const int32_t *)b.data, out);
        break;
    case FLRP_STEP_MAX_POOL_SHARE: flrp_max_pool_share(threads, s->window, n, a.data, b.data, c.data, out); break;
    case FLRP_STEP_RATIO:
        if (a.data) flrp_ratio_map(isa, threads, n, size, s->channels, a.data, size, s->constants[0], &r, out);
        else flrp_ratio_map(isa, threads, n, size, s->channels, s->constants[1], 0, s->constants[0], &r, out);
        break;
    case FLRP_STEP_GAMMA:
        flrp_gamma_map(isa, threads, n, size, s->channels, a.data, b.data, c.data, s->constants[0], s->parameter, &r,
                       out, slot(f, s->out[1]));
        break;
    case FLRP_STEP_ACTIVATION: flrp_activation(isa, threads, s->kind, s->parameter, n * size, a.data, out); break;
    case FLRP_STEP_ACTIVATION_BACKWARD:
        flrp_activation_backward(isa, threads, s->kind, s->parameter, n * size, a.data, b.data, out);
        break;
    case FLRP_STEP_PICK: pick(f, s); break;
    case FLRP_STEP_AFFINE: flrp_affine(threads, n * size, s->channels, a.data, s->constants, out); break;
    case FLRP_STEP_COMBINE: flrp_combine(threads, s->kind, n * size, a.data, b.data, out); break;
    case FLRP_STEP_COPY:
        flrp_copy_run(threads, s->copy, n, f->j->p->slots[s->in[0].slot].size, size, a.data,
                      s->kind ? &s->parameter : 0, out);
        break;
    case FLRP_STEP_TURN: turn(f, s); break;
    case FLRP_STEP_WEIGHT_GRADIENT:
        return flrp_weight_gradient(isa, threads, s->window, s->kind, s->channels, n, a.data, b.data,
                                    f->j->p->slots[s->in[1].slot].offset >= 0, out);
    case FLRP_STEP_CHANNEL_SUM:
        return flrp_channel_sum(isa, n, size_of(f, s->in[0].slot) / s->channels, s->channels, a.data, out);
    case FLRP_STEP_GROUP_SUM:
        flrp_group_sum(isa, threads, n * size / f->j->p->width, s->channels / f->j->p->width, f->j->p->width, a.data,
                       out);
        break;
    }
    return FLRP_OK;
}

typedef struct {
    const frame *f;
    const flrp_stretch *s;
    int64_t pixels, block; /* of all samples; of a task */
    int threads;           /* of one task */
    float *scratch;
    atomic_int status;
} stretch_job;

static void run_pixels(void *context, int64_t task, int thread) {
    stretch_job *j = context;
    frame f = *j->f;
    f.grid = j->s->pixels, f.room = j->block;
    f.pixel = task * j->block, f.pixels = flrp_min(j->block, j->pixels - f.pixel);
    f.scratch = j->scratch + thread * j->block * j->s->floats;
    int status = FLRP_OK;
    for (int64_t i = 0; i < j->s->count && status == FLRP_OK; i++)
        status = run_step(&f, &f.j->p->steps[j->s->first + i], j->threads);
    if (status != FLRP_OK) atomic_store(&j->status, status);
}

/* As many pixels at a time as fill the blocks of lists.c; all of them where there are too few for every thread. */
static int run_stretch(const frame *f, const flrp_stretch *s, int threads) {
    stretch_job j = {.f = f, .s = s, .pixels = f->count * s->pixels, .threads = 1};
    const int64_t lanes = flrp_lanes(f->j->isa), most = FLRP_LANE_PLACES * lanes;
    j.block = flrp_ceil_div(flrp_even_block(j.pixels, most, threads), lanes) * lanes;
    if (j.pixels < most * threads / 2) {
        j.block = flrp_ceil_div(j.pixels, lanes) * lanes;
        j.threads = threads, threads = 1;
    }
    void *scratch = malloc((size_t)(threads * j.block * s->floats) * sizeof(float) + FLRP_CACHE_LINE);
    if (!scratch) return FLRP_NO_MEMORY;
    j.scratch = flrp_aligned(scratch);
    flrp_parallel(threads, flrp_ceil_div(j.pixels, j.block), 1e12, run_pixels, &j);
    free(scratch);
    return atomic_load(&j.status);
}

static int run_steps(const job *j, const flrp_program *p, int64_t first, int64_t count, float *arena, int threads) {
    job own = {.p = p, .isa = j->isa, .block = p->width > 1 ? 1 : j->block, .external = j->external,
               .classes = j->classes, .arena = arena, .sums = j->sums};
    const frame f = {.j = &own, .first = first / p->width, .count = count / p->width};
    const flrp_stretch *next = p->stretches, *end = p->stretches + p->stretch_count;
    int status = FLRP_OK;
    for (int64_t i = 0; i < p->count && status == FLRP_OK;) {
        if (next < end && next->first == i) {
            status = run_stretch(&f, next, threads);
            i += next++->count;
        } else status = run_step(&f, &p->steps[i++], threads);
    }
    return status;
}

static void run_block(const job *j, int64_t first, int64_t most, float *arena, int threads, atomic_int *status) {
    const int64_t count = flrp_min(most, j->samples - first);
    const int whole = j->twin && count == j->block;
    int found = whole ? run_steps(j, j->twin, first, count, arena, threads) : FLRP_NOT_FINITE;
    if (found == FLRP_NOT_FINITE) found = run_steps(j, j->p, first, count, arena, threads);
    if (found != FLRP_OK) atomic_store(status, found);
}

/* Floats of arena for a block, and room for a vector that is read past the last value. */
static int64_t block_floats(const flrp_program *p, const flrp_program *twin, int64_t block) {
    return flrp_max(block * p->arena, twin ? twin->arena : 0) + ROOM;
}

/* A thread's share: blocks as they come, since a busy machine may hold one thread up; then pieces. */
static void run_share(void *context, int64_t task, int thread) {
    job *j = context;
    float *arena = j->arena + thread * block_floats(j->p, j->twin, j->block);
    const int64_t blocks = j->samples / j->block;
    (void)task;
    for (;;) {
        const int64_t i = atomic_fetch_add(&j->next, 1), rest = flrp_max(0, i - blocks);
        const int64_t first = (i - rest) * j->block + rest * j->piece;
        if (first >= j->samples) return;
        run_block(j, first, i < blocks ? j->block : j->piece, arena, 1, &j->status);
    }
}

/* What a twin's blocks leave: a piece for every thread. */
static int64_t piece_of(const job *j, int threads) {
    const int64_t left = j->twin ? j->samples % j->block : 0;
    return left ? flrp_ceil_div(left, threads) : j->block;
}

/* The sums of all samples, from those of the sections: each number's in their order. */
static void add_sections(const job *j) {
    const flrp_program *p = j->p;
    for (int64_t i = 0; i < p->count; i++) {
        const flrp_slot *s = &p->slots[p->steps[i].out[0]];
        if (s->sum < 0) continue;
        float *out = j->external[p->steps[i].out[0]];
        memcpy(out, j->sums + s->sum, (size_t)s->size * sizeof(float));
        const float *sums = j->sums + s->sum;
        for (int64_t first = p->section; first < j->samples; first += p->section) {
            sums += p->sum_floats;
            for (int64_t k = 0; k < s->size; k++) out[k] += sums[k];
        }
    }
}

#define SHARED_BYTES (512 * 1024)   /* of one thread's block: half of a common L2 cache */
#define MOST_SHARED_BYTES (1 << 20) /* of one sample: larger ones go step by step */
#define MOST_SHARED_WEIGHTS (1 << 18) /* of all products, each counted: more would not stay in L2 between blocks */
#define BLOCKS_PER_THREAD 4         /* at least, so that all threads finish at about the same time */

/* Floats that a sample's steps write outside the arena. */
static int64_t written_outside(const flrp_program *p) {
    int64_t floats = 0;
    for (int64_t i = 0; i < p->count; i++)
        for (int k = 0; k < 2; k++) {
            const int slot = p->steps[i].out[k];
            if (slot >= 0 && p->slots[slot].offset < 0) floats += p->slots[slot].size;
        }
    return floats;
}

int flrp_program_threads(const flrp_program *p, int threads, int64_t samples) {
    return flrp_threads_for(threads, samples, p->work * (double)samples);
}

int64_t flrp_program_plan(const flrp_program *p, int threads, int64_t samples, flrp_blocks *plan) {
    const int64_t bytes = flrp_max(1, p->arena + written_outside(p)) * (int64_t)sizeof(float);
    threads = flrp_program_threads(p, threads, samples);
    *plan = (flrp_blocks){.samples = samples};
    if (p->section) {
        plan->samples = p->section;
        return threads * block_floats(p, 0, p->section) + flrp_ceil_div(samples, p->section) * p->sum_floats + ROOM;
    }
    if (p->sums_up) return block_floats(p, 0, samples) + ROOM;
    const flrp_program *twin = p->lanes;
    while (twin && samples / twin->width < threads) twin = twin->lanes;
    plan->twin = twin;
    if (twin) plan->samples = twin->width;
    else if (p->stretch_count || bytes > MOST_SHARED_BYTES || p->weights > MOST_SHARED_WEIGHTS || samples < 2)
        threads = 1;
    else {
        const int64_t pieces = threads > 1 ? BLOCKS_PER_THREAD * threads : 1;
        plan->samples = flrp_max(1, flrp_min(SHARED_BYTES / bytes, flrp_ceil_div(samples, pieces)));
    }
    return threads * block_floats(p, twin, plan->samples) + ROOM;
}

int flrp_program_run(int isa, int threads, const flrp_program *p, const flrp_blocks *plan, int64_t samples,
                     float *const *external, int64_t *classes, float *arena) {
    arena = flrp_aligned(arena);
    job j = {.p = p, .twin = plan->twin, .isa = isa, .samples = samples, .block = plan->samples, .external = external,
             .classes = classes, .arena = arena};
    const int share = j.block < samples || p->section;
    threads = share ? flrp_program_threads(p, threads, samples) : threads;
    if (p->section) j.sums = arena + threads * block_floats(p, j.twin, j.block);
    j.piece = piece_of(&j, threads);
    if (share) flrp_parallel(threads, threads, 1e12, run_share, &j);
    else run_block(&j, 0, samples, arena, threads, &j.status);
    if (p->section && j.status == FLRP_OK) add_sections(&j);
    return atomic_load(&j.status);
}
