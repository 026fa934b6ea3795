/* Threads that wake on processors of their own.
 *
 * To the Linux of a virtual machine, an idle processor seems taken: its host has put it to sleep. So a worker of OpenMP's
 * wakes on the processor of the thread that wakes it, and waits until that has done its share, all of it as a rule:
 * two threads take as long as one. Before a region its workers are therefore told to keep off this processor; each
 * takes that back as soon as it runs. Where a machine is not virtual, the scheduler sees which processors are idle.
 */
#if defined(__linux__) && defined(__x86_64__)
#define _GNU_SOURCE
#endif
#include "kernels.h"

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_WORKERS 7   /* telling each takes some microseconds: with more, longer than a short region */
#define STILL_AWAKE 3e-6 /* seconds after a region: its workers still spin, where they are */

typedef struct {
    pid_t id, came;       /* the thread that was this worker last, and the one that is in this region; 0: none */
    int kept_off;         /* the processor of the thread that began the region */
    int began;            /* the region: on this processor */
    cpu_set_t processors; /* that it may run on otherwise */
} worker;

struct flrp_team {
    int told;        /* whether workers have been told to keep off */
    int here, apart; /* the processor to keep off, and how many did */
    double left;     /* when the last region ended */
    worker workers[MOST_WORKERS];
};

static _Thread_local flrp_team own_team; /* of the thread that begins regions, as OpenMP's workers are */

static int is_virtual(void) {
    static int known = -1; /* the same whoever writes it */
    unsigned a, b, c, d;
    if (known < 0) known = __get_cpuid(1, &a, &b, &c, &d) && c >> 31;
    return known;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A worker that may run nowhere else, or on too few processors for all, stays as it is. */
static void keep_off(worker *w, int processor, int workers) {
    w->came = w->kept_off = 0;
    if (!w->id || sched_getaffinity(w->id, sizeof(cpu_set_t), &w->processors)) return;
    if (!CPU_ISSET(processor, &w->processors) || CPU_COUNT(&w->processors) <= workers) return;
    cpu_set_t others = w->processors;
    CPU_CLR(processor, &others);
    w->kept_off = !sched_setaffinity(w->id, sizeof(cpu_set_t), &others);
}

flrp_team *flrp_keep_apart(int threads) {
    flrp_team *team = &own_team;
    const int here = sched_getcpu();
    if (!is_virtual() || threads > MOST_WORKERS + 1 || here < 0 || here >= CPU_SETSIZE) return 0;
    team->told = seconds() - team->left > STILL_AWAKE;
    team->here = here;
    for (int i = 1; i < threads && team->told; i++) keep_off(&team->workers[i - 1], here, threads - 1);
    return team;
}

void flrp_enter(flrp_team *team, int thread) {
    if (!team || !team->told || thread == 0) return;
    worker *w = &team->workers[thread - 1];
    w->came = (pid_t)syscall(SYS_gettid), w->began = sched_getcpu();
    if (w->kept_off && w->came == w->id) w->kept_off = sched_setaffinity(0, sizeof(cpu_set_t), &w->processors) != 0;
}

void flrp_leave(flrp_team *team, int threads) {
    if (!team) return;
    if (team->told) team->apart = 0;
    for (int i = 1; i < threads && team->told; i++) {
        worker *w = &team->workers[i - 1];
        team->apart += w->came && w->began != team->here;
        if (w->kept_off) sched_setaffinity(w->id, sizeof(cpu_set_t), &w->processors); /* another thread came */
        w->id = w->came;
    }
    team->left = seconds();
}

int flrp_began_apart(void) { return is_virtual() ? own_team.apart : -1; }

#else

flrp_team *flrp_keep_apart(int threads) {
    (void)threads;
    return 0;
}

void flrp_enter(flrp_team *team, int thread) { (void)team, (void)thread; }

void flrp_leave(flrp_team *team, int threads) { (void)team, (void)threads; }

int flrp_began_apart(void) { return -1; }

#endif
