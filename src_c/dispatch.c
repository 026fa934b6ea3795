/* Which instruction sets this processor and system allow. Compiled at the baseline. */
#ifdef __linux__
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef FLRP_HAS_AMX
#include <cpuid.h>
#endif

#include "kernels.h"

const flrp_kernels *flrp_kernels_of(int isa) {
    switch (isa) {
#ifdef FLRP_X86
    case FLRP_AVX2: return &flrp_kernels_avx2;
    case FLRP_AVX512:
    case FLRP_AMX: return &flrp_kernels_avx512; /* AMX has tiles beside them */
#endif
    default: return &flrp_kernels_portable;
    }
}

const flrp_limb_kernels *flrp_limb_kernels_of(int isa) {
#ifdef FLRP_HAS_AMX
    if (isa == FLRP_AMX) return &flrp_limb_kernels_amx;
#endif
    (void)isa;
    return 0;
}

#ifdef FLRP_EMULATE_AMX
static int amx_is_allowed(void) { return 1; }
#elif defined(FLRP_HAS_AMX)
#define AMX_BITS (1u << 24 | 1u << 22) /* AMX-TILE, AMX-BF16 in EDX of leaf 7 */
#define BW_BIT (1u << 30)              /* AVX512-BW in EBX of leaf 7 */
#define BF16_BIT (1u << 5)             /* AVX512-BF16 in EAX of leaf 7, subleaf 1 */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* The system saves tiles for processes that ask, once, before a thread of theirs uses one; else they raise SIGILL. */
static int amx_is_allowed(void) {
    static int answer = -1;
    unsigned a, b, c, d;
    if (answer >= 0) return answer;
    const int present = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BITS) == AMX_BITS && (b & BW_BIT) &&
                        __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BF16_BIT);
    return answer = present && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}
#else
static int amx_is_allowed(void) { return 0; }
#endif

int flrp_supported(int isa) {
    if (isa == FLRP_PORTABLE) return 1;
    if (isa == FLRP_AMX) return flrp_supported(FLRP_AVX512) && amx_is_allowed();
#ifdef FLRP_EMULATE_AVX512
    if (isa == FLRP_AVX512) return 1;
#endif
#ifdef FLRP_X86
    /* The compiler's run-time library reads cpuid and checks by XGETBV that the system saves the registers. */
    __builtin_cpu_init();
    if (isa == FLRP_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == FLRP_AVX512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2");
#endif
    return 0;
}

const char *flrp_isa_name(int isa) { return isa == FLRP_AMX ? "amx" : flrp_kernels_of(isa)->name; }
int flrp_lanes(int isa) { return flrp_kernels_of(isa)->lanes; }
int flrp_panel_width(int isa) { return flrp_kernels_of(isa)->lanes * flrp_kernels_of(isa)->panel_vectors; }
int flrp_has_limbs(int isa) { return flrp_limb_kernels_of(isa) != 0; }
