/* Memory of arrays. Large blocks ask for huge pages where the system has them on request: first touch of 4 KB pages
 * costs up to a sixth of a large network's explanation. free() takes every block. */
#define _DEFAULT_SOURCE
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define LEAST_HUGE (2 * HUGE_PAGE) /* bytes of a block that asks for such pages */
#define MOST_IDLE ((int64_t)32 << 20) /* bytes of scratch that wait for the next product */

void *flrp_allocate(int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if ((size_t)bytes >= LEAST_HUGE) {
        const size_t size = ((size_t)bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        void *block;
        if (posix_memalign(&block, HUGE_PAGE, size)) return 0;
        madvise(block, size, MADV_HUGEPAGE); /* a wish: where it is refused, small pages serve */
        return block;
    }
#endif
#ifdef _WIN32
    return malloc((size_t)bytes); /* which free() takes */
#else
    void *block;
    return posix_memalign(&block, FLRP_CACHE_LINE, (size_t)bytes) ? 0 : block;
#endif
}

void flrp_leave_idle(void *block, int64_t bytes) {
#if defined(__linux__) && defined(MADV_FREE)
    if ((size_t)bytes >= LEAST_HUGE) madvise(block, (size_t)bytes / HUGE_PAGE * HUGE_PAGE, MADV_FREE);
#else
    (void)block, (void)bytes;
#endif
}

/* Scratch that nobody uses; its size stands at its beginning. One is kept: where threads run products at the same time,
 * the others allocate theirs. It is always large enough for huge pages: 4 KB pages lie anywhere, and parts of a task's
 * scratch would meet in the same sets of L2. */
static _Atomic(int64_t *) idle;

flrp_scratch flrp_take_scratch(int64_t bytes) {
    const int64_t size = flrp_max(bytes + 2 * FLRP_CACHE_LINE, (int64_t)LEAST_HUGE);
    int64_t *block = atomic_exchange(&idle, NULL);
    if (block && *block < size) {
        free(block);
        block = 0;
    }
    if (!block && (block = flrp_allocate(size))) *block = size;
    return (flrp_scratch){.block = block, .data = block ? flrp_aligned(block + 1) : 0};
}

void flrp_give_scratch(flrp_scratch s) {
    if (s.block && *s.block <= MOST_IDLE) s.block = atomic_exchange(&idle, s.block);
    free(s.block);
}
