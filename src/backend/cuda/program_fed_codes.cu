/* program_fed_codes.cu - programs of weights in records of whole codes on Hopper (fed.cuh). */
#include "backend/cuda/program.cuh"

PROGRAMS(fed_codes, CLASS_FED_CODES)
/* one row, codes of four bits in whole numbers (whole.cuh) */
PROGRAM(fed_codes, CLASS_FED_CODES, 0)
