/* program_table.cu - programs of weights in records of codes that a table gives values. */
#include "backend/cuda/program.cuh"

PROGRAMS(n4, CLASS_N4)
