/* The source of a product on bf16 tiles: numbers are sums of limbs (body/limbs.h).
 *
 * A task's source goes into planes, one for each limb and chunk of 32 channels: [position][32], lines one after the
 * other with zeros between them that both sides share, so that borders need no cases and a tap is one shift for all
 * positions. It comes line by line of each operand and plane.
 */
#include <stdlib.h>
#include <string.h>

#include "planes.h"


static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -flrp_ceil_div(-a, b); }

/* Elements [*first, *last) of n from `start` on have data in a plane. */
static void data_in_plane(const flrp_layout *l, int64_t plane, int64_t start, int64_t n, int64_t *first,
                          int64_t *last) {
    const int64_t step = l->axis->step, before = l->lead + start;
    *first = flrp_min(n, flrp_max(0, -before));
    *last = flrp_min(n, flrp_max(*first, flrp_ceil_div(l->size - l->remainder[plane], step) - before));
}

static int64_t remainder_of(const flrp_axis *a, int64_t tap) {
    return a->offsets[tap] - floor_div(a->offsets[tap], a->step) * a->step;
}

static int64_t plane_of(const flrp_layout *l, int64_t tap) {
    int64_t i = 0;
    while (i < l->planes && l->remainder[i] != remainder_of(l->axis, tap)) i++;
    return i;
}

static int64_t shift_of(const flrp_layout *l, int64_t tap) {
    return floor_div(l->axis->offsets[tap], l->axis->step) - l->lead;
}

/* `remainder` has room for one number per tap. */
static void plan_axis(flrp_layout *l, const flrp_axis *axis, int64_t size, int64_t *remainder) {
    *l = (flrp_layout){.axis = axis, .size = size, .remainder = remainder};
    if (axis->taps) {
        l->lead = floor_div(axis->offsets[0], axis->step);
        l->reach = shift_of(l, axis->taps - 1);
    }
    for (int64_t tap = 0; tap < axis->taps; tap++)
        if (plane_of(l, tap) == l->planes) remainder[l->planes++] = remainder_of(axis, tap);
    /* The zeros after one line serve as those before the next, as far as every plane has both. */
    const int64_t n = axis->count + l->reach;
    int64_t shared = l->reach;
    for (int64_t i = 0; i < l->planes; i++) {
        int64_t first, last;
        data_in_plane(l, i, 0, n, &first, &last);
        shared = flrp_min(shared, flrp_min(first, n - last));
    }
    l->pitch = n - shared;
}

int flrp_planes_init(flrp_planes *l, const flrp_kernels *kernels, const flrp_limb_kernels *limbs,
                     const flrp_product *p, const flrp_operand *operands) {
    const int64_t taps = p->rows.taps * p->cols.taps;
    *l = (flrp_planes){.kernels = kernels, .limbs = limbs, .p = p, .operands = operands};
    l->numbers = malloc((size_t)(taps + p->rows.taps + p->cols.taps + 1) * sizeof(int64_t));
    if (!l->numbers) return FLRP_NO_MEMORY;
    l->taps = l->numbers;
    plan_axis(&l->rows, &p->rows, p->src_h, l->numbers + taps);
    plan_axis(&l->cols, &p->cols, p->src_w, l->numbers + taps + p->rows.taps);
    l->image = l->rows.pitch * l->cols.pitch;
    l->part_chunks = flrp_ceil_div(p->src_c, FLRP_CHUNK);
    l->chunks = p->parts * l->part_chunks;
    return FLRP_OK;
}

int64_t flrp_planes_fit(flrp_planes *l, int64_t samples, int64_t rows) {
    const flrp_product *p = l->p;
    const int64_t positions = (samples - 1) * l->image + (rows + l->rows.reach) * l->cols.pitch;
    /* A tile reads up to its full size from its first position on. */
    l->plane = (positions + l->cols.reach + FLRP_LIMB_ROWS) * FLRP_CHUNK;
    l->chunk_size = flrp_planes_count(l) * flrp_stored_limbs(l->p->limbs) * l->plane;
    for (int64_t tap = 0; tap < p->rows.taps * p->cols.taps; tap++) {
        const int64_t row = tap / p->cols.taps, col = tap % p->cols.taps;
        const int64_t plane = plane_of(&l->rows, row) * l->cols.planes + plane_of(&l->cols, col);
        l->taps[tap] = plane * flrp_stored_limbs(l->p->limbs) * l->plane +
                       (shift_of(&l->rows, row) * l->cols.pitch + shift_of(&l->cols, col)) * FLRP_CHUNK;
    }
    return flrp_whole_lines(l->chunks * l->chunk_size * (int64_t)sizeof(uint16_t));
}

/* One line of one operand in one plane, with the zeros around it. */
typedef struct {
    const flrp_operand *operand;
    const float *x, *bound;      /* of the first position that has data */
    uint16_t *dst;               /* of position 0 */
    int64_t first, last, length; /* positions with data, and all */
} plane_line;

static plane_line line_of(const flrp_splitting *s, int64_t sample, int64_t line, int64_t plane, int64_t part) {
    const flrp_planes *l = s->in;
    const flrp_product *p = l->p;
    const int64_t row_plane = plane / l->cols.planes, col_plane = plane % l->cols.planes;
    plane_line found = {.operand = &l->operands[part], .length = p->cols.count + l->cols.reach};
    int64_t first, last;
    data_in_plane(&l->rows, row_plane, s->region.row, s->region.rows + l->rows.reach, &first, &last);
    const int64_t position = sample * l->image + line * l->cols.pitch;
    found.dst = s->data + part * l->part_chunks * l->chunk_size + position * FLRP_CHUNK +
                plane * flrp_stored_limbs(l->p->limbs) * l->plane;
    if (line < first || line >= last) return found; /* no data: zeros alone */
    const int64_t y = (l->rows.lead + s->region.row + line) * p->rows.step + l->rows.remainder[row_plane];
    data_in_plane(&l->cols, col_plane, 0, found.length, &found.first, &found.last);
    const int64_t x = (l->cols.lead + found.first) * p->cols.step + l->cols.remainder[col_plane];
    const int64_t at = (y * p->src_w + x) * p->src_c;
    found.x = found.operand->data + (s->region.sample + sample) * p->src_h * p->src_w * p->src_c + at;
    found.bound = found.operand->bound ? found.operand->bound + at : 0;
    return found;
}

static void clear(const flrp_planes *l, uint16_t *dst, int64_t n) {
    for (int64_t chunk = 0; n > 0 && chunk < l->part_chunks; chunk++)
        for (int64_t limb = 0; limb < l->p->limbs; limb++)
            memset(dst + chunk * l->chunk_size + limb * l->plane, 0, (size_t)n * FLRP_CHUNK * sizeof(uint16_t));
}

static void split_line(flrp_splitting *s, const plane_line *from) {
    const flrp_planes *l = s->in;
    const int64_t c = l->p->src_c, step = l->p->cols.step * c, n = from->last - from->first;
    const float *x = from->x;
    int64_t x_step = step;
    clear(l, from->dst, from->first);
    clear(l, from->dst + from->last * FLRP_CHUNK, from->length - from->last);
    if (n <= 0) return;
    if (from->operand->read != FLRP_PLAIN) {
        const int64_t whole = l->p->cols.step == 1 ? n : 1; /* pixels side by side */
        for (int64_t i = 0; i < n; i += whole)
            l->kernels->gather(whole, c, x + i * step, from->bound ? from->bound + i * step : 0, from->operand->read,
                               s->read + i * c, c);
        x = s->read, x_step = c;
    }
    s->special |= l->limbs->split(l->p->limbs, n, c, x, x_step, from->dst + from->first * FLRP_CHUNK, l->chunk_size,
                                  l->plane);
}

void flrp_copy_finite(uint16_t *data, int64_t planes, int64_t limbs, int64_t plane) {
    for (int64_t i = 0; i < planes; i++, data += flrp_stored_limbs(limbs) * plane)
        for (int64_t k = 0; k < plane; k++) data[limbs * plane + k] = (data[k] & 0x7f80) == 0x7f80 ? 0 : data[k];
}

/* How many lines of the next region are in the planes. */
static int64_t lines_left(const flrp_splitting *s, const flrp_region *next) {
    const flrp_region *r = &s->region;
    const int follows = r->samples == 1 && next->sample == r->sample && next->row == r->row + r->rows;
    return follows ? s->in->rows.reach : 0;
}

void flrp_split(flrp_splitting *s, flrp_region region) {
    const flrp_planes *l = s->in;
    const int64_t planes = flrp_planes_count(l), moved = lines_left(s, &region), pitch = l->cols.pitch * FLRP_CHUNK;
    for (int64_t i = 0; i < l->chunks * planes; i++)
        for (int64_t limb = 0; moved && limb < l->p->limbs; limb++) {
            uint16_t *to = s->data + (i * flrp_stored_limbs(l->p->limbs) + limb) * l->plane;
            memmove(to, to + s->region.rows * pitch, (size_t)(moved * pitch) * sizeof(uint16_t));
        }
    s->region = region;
    s->special = s->special && moved;
    for (int64_t sample = 0; sample < region.samples; sample++)
        for (int64_t line = moved; line < region.rows + l->rows.reach; line++)
            for (int64_t i = 0; i < planes * l->p->parts; i++) {
                const plane_line from = line_of(s, sample, line, i / l->p->parts, i % l->p->parts);
                split_line(s, &from);
            }
    if (s->special && l->p->limbs > 1) flrp_copy_finite(s->data, l->chunks * planes, l->p->limbs, l->plane);
}

void flrp_fetch_source(const flrp_splitting *s, flrp_region next, int64_t steps, flrp_fetch *fetches) {
    const flrp_planes *l = s->in;
    const flrp_product *p = l->p;
    const int64_t line = p->src_w * p->src_c, image = p->src_h * line, first = l->rows.lead + next.row;
    const int64_t top = flrp_max(0, (first + lines_left(s, &next)) * p->rows.step);
    const int64_t bottom = flrp_min(p->src_h, (first + next.rows + l->rows.reach) * p->rows.step);
    for (int64_t part = 0; part < p->parts; part++)
        fetches[part] = flrp_fetch_rows(l->operands[part].data + next.sample * image + top * line,
                                        ((next.samples - 1) * image + (bottom - top) * line) * (int64_t)sizeof(float),
                                        0, 1, steps);
}
