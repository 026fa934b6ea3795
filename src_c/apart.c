/* Threads that wake on processors of their own.
 *
 * To the Linux of a KVM guest, an idle processor seems taken: its host has put it to sleep. So a worker of OpenMP's
 * wakes on the processor of the thread that wakes it, and waits until that has done its share, all of it as a rule:
 * two threads take as long as one. Before a region its workers are therefore told to keep off this processor; each
 * takes that back as soon as it runs. Elsewhere the scheduler sees which processors are idle.
 */
#if defined(__linux__) && defined(__x86_64__) && defined(_OPENMP)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define FLRP_APART
#endif
#include "kernels.h"

#ifdef FLRP_APART
#include <cpuid.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_WORKERS 7   /* telling each takes some microseconds: with more, longer than a short region */
#define STILL_AWAKE 3e-6 /* seconds after a region that its workers spin, where they are, whatever the settings */
#define SPIN 5e-9        /* seconds: no spin is shorter (PAUSE takes 10 cycles and more) */

typedef struct {
    pid_t id, came;       /* the thread that was this worker last, and the one that is in this region; 0: none */
    int told;             /* 1: to keep off the team's processor, and not taken back yet */
    int began;            /* the processor that it began on, before it took that back */
    cpu_set_t processors; /* that it may run on otherwise */
} worker;

struct flrp_team {
    int told;        /* whether workers have been told anything in this region */
    int here, apart; /* the processor to keep off, and how many did */
    double left;     /* when the last region ended */
    worker workers[MOST_WORKERS];
};

static _Thread_local flrp_team own_team; /* of the thread that begins regions, as OpenMP's workers are */
static int is_guest;
static double still_awake = STILL_AWAKE;

void flrp_init_apart(void) {
    unsigned a, b, c, d, name[3];
    const char *asked = getenv("FASTLRP_KEEP_APART"), *spins = getenv("GOMP_SPINCOUNT");
    if ((asked && !strcmp(asked, "0")) || !__get_cpuid(1, &a, &b, &c, &d) || !(c >> 31)) return;
    __cpuid(0x40000000, a, name[0], name[1], name[2]);
    is_guest = !memcmp(name, "KVMKVMKVM\0\0", sizeof name);
    if (spins && SPIN * strtod(spins, 0) > STILL_AWAKE) still_awake = SPIN * strtod(spins, 0);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Numbers of ended threads are given to others: never a thread of another process. */
static int is_ours(pid_t id) { return id && !syscall(SYS_tgkill, getpid(), id, 0); }

/* All processors, if that comes to the same: then the thread also gets those that its container is given later. */
static void take_back(pid_t id, worker *w) {
    cpu_set_t found;
    memset(&found, 0xff, sizeof found);
    w->told = 0;
    if (sched_setaffinity(id, sizeof found, &found) || sched_getaffinity(id, sizeof found, &found) ||
        !CPU_EQUAL(&found, &w->processors))
        sched_setaffinity(id, sizeof(cpu_set_t), &w->processors);
}

/* A worker that may run nowhere else, or on too few processors for all, stays as it is. */
static void tell(worker *w, int processor, int workers) {
    w->came = w->told = 0;
    if (!is_ours(w->id) || sched_getaffinity(w->id, sizeof(cpu_set_t), &w->processors)) return;
    if (!CPU_ISSET(processor, &w->processors) || CPU_COUNT(&w->processors) <= workers) return;
    cpu_set_t others = w->processors;
    CPU_CLR(processor, &others);
    w->told = !sched_setaffinity(w->id, sizeof(cpu_set_t), &others);
}

flrp_team *flrp_keep_apart(int threads) {
    flrp_team *team = &own_team;
    if (!is_guest) return 0;
    team->here = sched_getcpu();
    team->told = threads <= MOST_WORKERS + 1 && team->here >= 0 && team->here < CPU_SETSIZE &&
                 seconds() - team->left > still_awake;
    for (int i = 1; i < threads && team->told; i++) tell(&team->workers[i - 1], team->here, threads - 1);
    return team;
}

void flrp_enter(flrp_team *team, int thread) {
    if (!team || !team->told || thread == 0) return;
    worker *w = &team->workers[thread - 1];
    w->came = (pid_t)syscall(SYS_gettid), w->began = sched_getcpu();
    if (w->told && w->came == w->id) take_back(0, w);
}

void flrp_leave(flrp_team *team, int threads) {
    if (!team) return;
    if (team->told) team->apart = 0;
    for (int i = 1; i < threads && team->told; i++) {
        worker *w = &team->workers[i - 1];
        team->apart += w->came && w->began != team->here;
        if (w->told && is_ours(w->id)) take_back(w->id, w); /* another thread came */
        w->id = w->came;
    }
    for (int i = threads; i <= MOST_WORKERS; i++) team->workers[i - 1].id = 0; /* a smaller team lets the others go */
    team->left = seconds();
}

int flrp_began_apart(void) { return is_guest ? own_team.apart : -1; }

#else

void flrp_init_apart(void) {}

flrp_team *flrp_keep_apart(int threads) {
    (void)threads;
    return 0;
}

void flrp_enter(flrp_team *team, int thread) { (void)team, (void)thread; }

void flrp_leave(flrp_team *team, int threads) { (void)team, (void)threads; }

int flrp_began_apart(void) { return -1; }

#endif
