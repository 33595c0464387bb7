/* program_fed.cu - programs of weights of 16 bits on Hopper (fed.cuh). */
#include "backend/cuda/program.cuh"

PROGRAMS(fed, CLASS_FED)
