/* Which instruction sets this processor and system allow. Compiled at the baseline. */
#include "kernels.h"

const flrp_kernels *flrp_kernels_of(int isa) {
    switch (isa) {
#ifdef FLRP_X86
    case FLRP_AVX2: return &flrp_kernels_avx2;
    case FLRP_AVX512: return &flrp_kernels_avx512;
#endif
    default: return &flrp_kernels_portable;
    }
}

int flrp_supported(int isa) {
    if (isa == FLRP_PORTABLE) return 1;
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

const char *flrp_isa_name(int isa) { return flrp_kernels_of(isa)->name; }
int flrp_lanes(int isa) { return flrp_kernels_of(isa)->lanes; }
int flrp_panel_width(int isa) { return flrp_kernels_of(isa)->lanes * flrp_kernels_of(isa)->panel_vectors; }
