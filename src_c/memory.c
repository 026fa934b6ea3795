/* Memory of arrays. Large blocks ask for huge pages where the system has them on request: first touch of 4 KB pages
 * costs up to a sixth of a large network's explanation. free() takes every block. */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels.h"

#define HUGE_PAGE ((size_t)2 << 20)

void *flrp_allocate(int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if ((size_t)bytes >= 2 * HUGE_PAGE) {
        const size_t size = ((size_t)bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        void *block;
        if (posix_memalign(&block, HUGE_PAGE, size)) return 0;
        madvise(block, size, MADV_HUGEPAGE); /* a wish: where it is refused, small pages serve */
        return block;
    }
#endif
    return malloc((size_t)bytes);
}

void flrp_leave_idle(void *block, int64_t bytes) {
#if defined(__linux__) && defined(MADV_FREE)
    if ((size_t)bytes >= 2 * HUGE_PAGE) madvise(block, (size_t)bytes / HUGE_PAGE * HUGE_PAGE, MADV_FREE);
#else
    (void)block, (void)bytes;
#endif
}
