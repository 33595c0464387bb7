/* rng.h - random numbers as a pure function of (seed, counter), so that a
 * request's draws do not depend on what runs beside it (Philox4x32-10: Salmon
 * et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). */
#ifndef PUNA_BASE_RNG_H
#define PUNA_BASE_RNG_H

#include <stdint.h>

/* Uniform in [0, 1) with 53 random bits. */
double rng_uniform(uint64_t seed, uint64_t counter);
/* 64 random bits. */
uint64_t rng_u64(uint64_t seed, uint64_t counter);
/* A seed from the system, for those who gave none. */
uint64_t rng_fresh_seed(void);

#endif
