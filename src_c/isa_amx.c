#ifdef FLRP_HAS_AMX /* elsewhere this file is empty */
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "simd/tile_amx.h"
#define LIMB_TABLE flrp_limb_kernels_amx
#include "body/limbs.h"
#endif
