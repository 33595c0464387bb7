/* program_codes.cu - programs of weights in records of whole codes. */
#include "backend/cuda/program.cuh"

PROGRAMS(u48, CLASS_U48)
PROGRAMS(u6, CLASS_U6)
PROGRAM(u48, CLASS_U48, 0)
PROGRAM(u6, CLASS_U6, 0)
