/* program_fed8.cu - programs of E4M3 by E4M3 on Hopper (fed_f8.cuh). */
#include "backend/cuda/fed_f8.cuh"
#include "backend/cuda/program.cuh"

PROGRAMS(fed_f8, CLASS_FED8)
