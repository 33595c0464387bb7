/* silu.cuh - the function of gated values. */
#pragma once

/* x / (1 + exp(-x)), to a few units in the last place */
__device__ static inline float silu(float x)
{
#ifdef __CUDA_ARCH__
    return __fdividef(x, 1 + __expf(-x));
#else
    return x / (1 + expf(-x));
#endif
}
