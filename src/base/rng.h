/* rng.h - random numbers as a pure function of (seed, counter), so that a
 * request's draws do not depend on what runs beside it (Philox4x32-10: Salmon
 * et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). */
#ifndef PUNA_BASE_RNG_H
#define PUNA_BASE_RNG_H

#include "base/num.h"

/* The generator itself, the same for the C compiler and nvcc. */
HD static inline uint64_t rng_philox(uint64_t seed, uint64_t counter)
{
    uint32_t c[4] = { (uint32_t)counter, (uint32_t)(counter >> 32), 0, 0 };
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];

        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (uint64_t)c[1] << 32 | c[0];
}

/* Uniform in [0, 1) with 53 random bits. */
double rng_uniform(uint64_t seed, uint64_t counter);
/* 64 random bits. */
uint64_t rng_u64(uint64_t seed, uint64_t counter);
/* A seed from the system, for those who gave none. */
uint64_t rng_fresh_seed(void);

#endif
