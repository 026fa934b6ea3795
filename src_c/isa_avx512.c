#ifdef FLRP_X86 /* elsewhere this file is empty */
#include "kernels.h"
#include "simd/vec_avx512.h"
#define TABLE flrp_kernels_avx512
#include "body/table.h"
#endif
