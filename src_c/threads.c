/* The one place where threads are made. Kernels never see them; drivers hand their tasks in here. */
#include "kernels.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

/* OpenMP's workers do not survive fork, and a region in the child may wait for them for ever. */
static int in_forked_child = 0;

static void mark_forked(void) { in_forked_child = 1; }

void flrp_init(void) {
    flrp_init_apart();
#ifndef _WIN32
    pthread_atfork(0, 0, mark_forked);
#else
    (void)mark_forked;
#endif
}

/* Processors of all places that the runtime binds threads to: of its first thread the system tells one place alone. */
int flrp_processors(void) {
    int found = 0;
#if defined(_OPENMP) && _OPENMP >= 201511
    for (int i = 0; i < omp_get_num_places(); i++) found += omp_get_place_num_procs(i);
#endif
    return found;
}

/* Below about 50 microseconds of work, waking a thread costs more than it brings. */
#define MIN_WORK_PER_THREAD 4e5

int flrp_threads_for(int threads, int64_t tasks, double work) {
    if (in_forked_child || threads < 1) return 1;
    if (work / MIN_WORK_PER_THREAD < threads) threads = (int)(work / MIN_WORK_PER_THREAD);
    if (tasks < threads) threads = (int)tasks;
    return threads < 1 ? 1 : threads;
}

void flrp_parallel(int threads, int64_t tasks, double work, flrp_task task, void *context) {
    threads = flrp_threads_for(threads, tasks, work);
#ifdef _OPENMP
    if (threads > 1) {
        flrp_team *team = flrp_keep_apart(threads);
#pragma omp parallel num_threads(threads)
        {
            int thread = omp_get_thread_num();
            flrp_enter(team, thread);
#pragma omp for schedule(dynamic, 1) nowait /* a busy machine may hold one thread up */
            for (int64_t i = 0; i < tasks; i++) task(context, i, thread);
        }
        flrp_leave(team, threads);
        return;
    }
#endif
    for (int64_t i = 0; i < tasks; i++) task(context, i, 0);
}
