/* flash.cu - attention of prompts on the tensor cores: bf16, f16 or E4M3 cache, heads of 64 or 128
 * values.
 *
 * A block has 128 rows, which are `tokens` neighbouring rows of the batch that belong to one sequence,
 * each with the query heads that share one kv head: keys and values are read once for all of them.
 * A warp has 16 rows. Blocks of the cache (64 slots) go through shared memory, the next one on its way
 * while this one is used; scores, maxima and sums are float32, queries and probabilities are rounded to
 * the cache's type. E4M3 becomes f16 in shared memory, exactly, and all else is as for f16. Blocks
 * beyond a row's own slot are never read. */
#include "backend/cuda/flash.cuh"

enum { WARPS = 8 };

/* Block number `block` of the cache, keys or values of one head, to shared memory; E4M3 as it lies. */
template <int SIZE, bool F8>
__device__ static inline void fetch(uint32_t to, const uint8_t *from, size_t block, int K, int kh)
{
    constexpr int bytes = KV_BLOCK * SIZE * (F8 ? 1 : 2);
    const uint8_t *p = from + (block * K + kh) * bytes;

#pragma unroll
    for (int i = threadIdx.x; i < bytes / 16; i += WARPS * WARP)
        copy_async(to + (F8 ? i * 16 : place<SIZE>(i / (SIZE / 8), i % (SIZE / 8))), p + i * 16);
}

/* A block in E4M3 to where f16 is read. */
template <int SIZE> __device__ static inline void widen(uint8_t *to, const uint8_t *from)
{
    const __half2 by = __float2half2_rn(F8_BY);

#pragma unroll
    for (int i = threadIdx.x; i < KV_BLOCK * SIZE / 16; i += WARPS * WARP) {
        const uint4 v = ((const uint4 *)from)[i];
        const uint32_t word[4] = { v.x, v.y, v.z, v.w };
        uint32_t pair[8];

#pragma unroll
        for (int k = 0; k < 8; k++) {
            const uint32_t small = f8_pair(word[k / 2], k % 2);
            const __half2 p = __hmul2(*(const __half2 *)&small, by);

            pair[k] = *(const uint32_t *)&p;
        }
#pragma unroll
        for (int k = 0; k < 2; k++)
            *(uint4 *)(to + place<SIZE>(i / (SIZE / 16), i % (SIZE / 16) * 2 + k)) =
                make_uint4(pair[4 * k], pair[4 * k + 1], pair[4 * k + 2], pair[4 * k + 3]);
    }
}

/* grid: (tiles, kv heads), 256 threads */
/* long: scores, softmax and sum share their registers */
template <int SIZE, bool BF16, bool F8>
__device__ static inline void flash_body(const flash_args &a)
{
    enum { BYTES = KV_BLOCK * SIZE * 2, STEPS = SIZE / 16, NS = KV_BLOCK / 8, NO = SIZE / 8 };
    /* shared memory: two blocks of keys and two of values; of E4M3 a block of each as f16 (FLAT), then
     * two and two as they lie */
    enum { KEYS = F8 ? 2 * BYTES : 0, FLAT = F8 ? BYTES : 2 * BYTES, EACH = F8 ? BYTES / 2 : BYTES };
    extern __shared__ __align__(128) uint8_t shared[];
    const uint32_t room = (uint32_t)__cvta_generic_to_shared(shared), keys = room + KEYS;
    const uint32_t values = keys + 2 * EACH;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    const int group = a.H / a.K, kh = blockIdx.y;
    int t0, n;

    find_tile(a, gridDim.x, blockIdx.x, &t0, &n);
    const int32_t *table = a.table[a.seq[t0]];
    const int blocks = a.slot[t0 + n - 1] / KV_BLOCK + 1, whole = (a.slot[t0] + 1) / KV_BLOCK;
    int token[2], head[2], slot[2];
    uint32_t q[STEPS][4];
    float o[NO][4] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int m = warp * 16 + i * 8 + g;
        const bool live = m / group < n;

        token[i] = t0 + m / group;
        head[i] = kh * group + m % group;
        slot[i] = live ? a.slot[token[i]] : -1;
        const float *from = a.q + ((size_t)token[i] * a.H + head[i]) * SIZE + 2 * c;

#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float2 f =
                    live ? *(const float2 *)(from + 16 * k + 8 * h) : make_float2(0, 0);

                q[k][i + 2 * h] = pair16<BF16>(f.x * a.scale, f.y * a.scale);
            }
    }
    fetch<SIZE, F8>(keys, a.k, table[0], a.K, kh);
    copy_commit();
    fetch<SIZE, F8>(values, a.v, table[0], a.K, kh);
    copy_commit();
    for (int b = 0; b < blocks; b++) {
        const uint32_t k_at = F8 ? room : keys + b % 2 * BYTES;
        const uint32_t v_at = F8 ? room + FLAT : values + b % 2 * BYTES;
        float s[NS][4] = {};

        copy_wait<1>(); /* the keys are there */
        __syncthreads();
        if (b + 1 < blocks)
            fetch<SIZE, F8>(keys + (b + 1) % 2 * EACH, a.k, table[b + 1], a.K, kh);
        copy_commit();
        if constexpr (F8) {
            widen<SIZE>(shared, shared + KEYS + b % 2 * EACH);
            __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int j = 0; j < NS; j += 2) {
                uint32_t r[4];

                load_matrices<false>(r, k_at + place<SIZE>(j * 8 + lane / 16 * 8 + lane % 8,
                                                         2 * k + lane / 8 % 2));
                mma<BF16>(s[j], q[k], r[0], r[1]);
                mma<BF16>(s[j + 1], q[k], r[2], r[3]);
            }
        if (b >= whole)
#pragma unroll
            for (int j = 0; j < NS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (b * KV_BLOCK + j * 8 + 2 * c + e % 2 > slot[e / 2])
                        s[j][e] = -INFINITY;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float m = max[i], part = 0;

#pragma unroll
            for (int j = 0; j < NS; j++)
                m = fmaxf(m, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
            m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
            const float base = m == -INFINITY ? 0 : m, by = exp2f(max[i] - base);

            max[i] = m;
#pragma unroll
            for (int j = 0; j < NS; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    s[j][2 * i + e] = exp2f(s[j][2 * i + e] - base);
                    part += s[j][2 * i + e];
                }
            sum[i] = sum[i] * by + part;
#pragma unroll
            for (int j = 0; j < NO; j++)
                o[j][2 * i] *= by, o[j][2 * i + 1] *= by;
        }
        copy_wait<1>(); /* the values are there */
        __syncthreads();
        if (b + 1 < blocks)
            fetch<SIZE, F8>(values + (b + 1) % 2 * EACH, a.v, table[b + 1], a.K, kh);
        copy_commit();
        if constexpr (F8) {
            widen<SIZE>(shared + FLAT, shared + KEYS + (2 + b % 2) * EACH);
            __syncthreads();
        }
#pragma unroll
        for (int k = 0; k < NS / 2; k++) {
            const uint32_t p[4] = { pair16<BF16>(s[2 * k][0], s[2 * k][1]),
                                    pair16<BF16>(s[2 * k][2], s[2 * k][3]),
                                    pair16<BF16>(s[2 * k + 1][0], s[2 * k + 1][1]),
                                    pair16<BF16>(s[2 * k + 1][2], s[2 * k + 1][3]) };

#pragma unroll
            for (int j = 0; j < NO; j += 2) {
                uint32_t r[4];

                load_matrices<true>(r, v_at + place<SIZE>(16 * k + lane % 16, j + lane / 16));
                mma<BF16>(o[j], p, r[0], r[1]);
                mma<BF16>(o[j + 1], p, r[2], r[3]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float l = sum[i];

        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        if (slot[i] < 0)
            continue;
        const float by = 1 / l;
        const size_t at = head[i] * SIZE + 2 * c;

#pragma unroll
        for (int j = 0; j < NO; j++) {
            const float x = o[j][2 * i] * by, y = o[j][2 * i + 1] * by;

            if (a.y)
                *(float2 *)(a.y + (size_t)token[i] * a.H * SIZE + at + j * 8) = make_float2(x, y);
            if (a.y16)
                *(uint32_t *)(a.y16 + (size_t)token[i] * a.kp16 + at + j * 8) =
                    to16(x, a.mode16) | (uint32_t)to16(y, a.mode16) << 16;
        }
    }
}

#define FLASH(name, hd, bf16, f8)                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS *WARP, 1)                                   \
        flash_##name##_##hd(const __grid_constant__ flash_args a)                                  \
    {                                                                                              \
        flash_body<hd, bf16, f8>(a);                                                               \
    }

FLASH(bf16, 64, true, false)
FLASH(bf16, 128, true, false)
FLASH(f16, 64, false, false)
FLASH(f16, 128, false, false)
FLASH(f8, 64, false, true)
FLASH(f8, 128, false, true)
