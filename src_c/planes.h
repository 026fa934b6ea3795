/* The source of a product on tiles: split into limbs, in planes (planes.c). Private to src_c. */
#ifndef FLRP_PLANES_H
#define FLRP_PLANES_H

#include "kernels.h"

/* How one axis lies in the planes. Source elements with the same remainder by the step are neighbours in a plane of
 * their own: element i of the plane is source element (lead + i) * step + remainder. */
typedef struct {
    const flrp_axis *axis;
    int64_t size;        /* of the source */
    int64_t planes;      /* remainders that occur among the taps */
    int64_t lead, reach; /* least quotient of a tap's offset by the step, and from there to the largest */
    int64_t pitch;       /* elements from the start of one line (of positions) or sample (of lines) to the next */
    int64_t *remainder;  /* of each plane */
} flrp_layout;

typedef struct {
    const flrp_kernels *kernels;
    const flrp_limb_kernels *limbs;
    const flrp_product *p;
    const flrp_operand *operands;
    flrp_layout rows, cols;
    int64_t image;               /* positions from one sample to the next */
    int64_t chunks, part_chunks; /* part_chunks: of one operand */
    int64_t plane, chunk_size;   /* elements from one limb, and one chunk, to the next */
    int64_t *taps;               /* offset of each tap in the planes */
    int64_t *numbers;            /* what is to be freed */
} flrp_planes;

/* The planes of one task's source after the other. */
typedef struct {
    const flrp_planes *in;
    uint16_t *data;
    float *read; /* pixels of one operand as they are read: a line's */
    flrp_region region;
    int special; /* whether they may have NaN or infinities */
} flrp_splitting;

/* Layout alone, without sizes of a task; FLRP_OK or FLRP_NO_MEMORY. */
int flrp_planes_init(flrp_planes *l, const flrp_kernels *kernels, const flrp_limb_kernels *limbs,
                     const flrp_product *p, const flrp_operand *operands);
/* For tasks of so many samples and rows; returns bytes. */
int64_t flrp_planes_fit(flrp_planes *l, int64_t samples, int64_t rows);
static inline int64_t flrp_planes_count(const flrp_planes *l) { return l->rows.planes * l->cols.planes; }
/* Limb 0 of planes of several limbs without NaN and infinities, behind the other limbs. */
void flrp_copy_finite(uint16_t *data, int64_t planes, int64_t limbs, int64_t plane);
/* The source of a region. What the region before, if it is of the same sample, has of it is moved. */
void flrp_split(flrp_splitting *s, flrp_region region);
/* In `steps` steps, what flrp_split will read of the next region: one piece of memory for each operand. */
void flrp_fetch_source(const flrp_splitting *s, flrp_region next, int64_t steps, flrp_fetch *fetches);

#endif
