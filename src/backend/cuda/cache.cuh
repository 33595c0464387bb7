/* cache.cuh - the paged key/value cache: where a value lies, and writing one. */
#pragma once

#include "backend/cuda/unit.cuh"

enum { KV_BLOCK = 64 };

__device__ static inline void store(uint8_t *cache, size_t at, float v, int enc)
{
    if (enc == DEV_ENC_F32)
        ((float *)cache)[at] = v;
    else if (enc == DEV_ENC_F8_E4M3)
        cache[at] = f32_to_f8_e4m3(v);
    else
        ((uint16_t *)cache)[at] = enc == DEV_ENC_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
}

/* Where slot s of a sequence lies in the cache, head h. */
__device__ static inline size_t cache_at(const int32_t *table, int s, int K, int h, int hd)
{
    return (((size_t)table[s / KV_BLOCK] * K + h) * KV_BLOCK + s % KV_BLOCK) * hd;
}
