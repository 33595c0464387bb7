/* program_rows.cu - programs of weights in rows whose warps have a ring each: 16 bits on what is not
 * Hopper, and E4M3. */
#include "backend/cuda/program.cuh"

PROGRAMS(w16, CLASS_W16)
PROGRAMS(f8, CLASS_F8)
