/* program_fed_n4.cu - programs of one row by weights in records of codes that a table gives values,
 * on Hopper (fed.cuh): in 16 bits, where its values are far from a line or there is no room, and in
 * whole numbers (fed_n4.cuh). */
#include "backend/cuda/fed_n4.cuh"
#include "backend/cuda/program.cuh"

PROGRAM(fed_n4, CLASS_FED_N4, 1)
PROGRAM(fed_n4, CLASS_FED_N4, 0)
