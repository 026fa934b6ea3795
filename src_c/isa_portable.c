#include "kernels.h"
#include "simd/vec_portable.h"
#define TABLE flrp_kernels_portable
#include "body/table.h"
