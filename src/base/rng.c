#include "base/rng.h"

#include <sys/random.h>
#include <time.h>

uint64_t rng_u64(uint64_t seed, uint64_t counter)
{
    return rng_philox(seed, counter);
}

double rng_uniform(uint64_t seed, uint64_t counter)
{
    return (double)(rng_u64(seed, counter) >> 11) * 0x1p-53;
}

uint64_t rng_fresh_seed(void)
{
    uint64_t s;

    if (getrandom(&s, sizeof(s), GRND_NONBLOCK) != (ssize_t)sizeof(s))
        s = (uint64_t)time(NULL) * 0x9E3779B97F4A7C15u;
    return s;
}
