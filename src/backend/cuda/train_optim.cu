/* train_optim.cu - the optimisers' steps and the norm of gradients. Every sum has one owner and one
 * order: no atomics, the same bits each time. */
#include "backend/cuda/block.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/train_act.cuh"
#include "backend/cuda/train_dev.h"
#include "base/rng.h"

__device__ static inline float adamw_one(const train_adamw_args &a, float w, float &m, float &v, float g)
{
    const float x = g * a.clip;

    m = a.beta1 * m + a.rest1 * x;
    v = a.beta2 * v + a.rest2 * x * x;
    return w * a.keep - a.lr * m / (sqrtf(v * a.grow2) + a.eps);
}

/* The list that the block has values of. */
__device__ static inline const train_list &list_of_block(const train_lists &l)
{
    int at = 0;

#pragma unroll
    for (int step = 32; step; step /= 2)
        if (at + step < l.count && l.of[at + step].first <= blockIdx.x)
            at += step;
    return l.of[at];
}
static_assert(TRAIN_LISTS <= 64, "six steps find a list");

/* Four neighbours, of which the first n count. */
__device__ static inline float4 load_4(const float *p, int n)
{
    if (n >= 4)
        return *(const float4 *)p;
    return make_float4(p[0], n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0);
}

__device__ static inline float4 load_4(const uint16_t *p, int n)
{
    if (n < 4)
        return make_float4(get(p), n > 1 ? get(p + 1) : 0, n > 2 ? get(p + 2) : 0, 0);
    const uint2 u = *(const uint2 *)p;

    return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000),
                       __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000));
}

__device__ static inline void store_4(float *p, float4 v, int n)
{
    if (n >= 4) {
        *(float4 *)p = v;
        return;
    }
    p[0] = v.x;
    if (n > 1)
        p[1] = v.y;
    if (n > 2)
        p[2] = v.z;
}

/* grid: blocks of all lists, 256 threads; arrays begin at multiples of 16 bytes */
extern "C" __global__ void train_adamw(const __grid_constant__ train_lists l,
                                       const __grid_constant__ train_adamw_args args)
{
    const train_list &x = list_of_block(l);
    const size_t i = (size_t)(blockIdx.x - x.first) * TRAIN_ADAMW_VALUES + 4 * threadIdx.x;
    train_adamw_args a = args;

    if (i >= x.n)
        return;
    const int n = (int)min(4ull, x.n - i);
    const float4 g = load_4((const float *)x.g + i, n);
    float4 w = load_4(x.w + i, n), m = load_4(x.m + i, n), v = load_4(x.v + i, n);

    if (!x.decays)
        a.keep = 1;
    w.x = adamw_one(a, w.x, m.x, v.x, g.x);
    w.y = adamw_one(a, w.y, m.y, v.y, g.y);
    w.z = adamw_one(a, w.z, m.z, v.z, g.z);
    w.w = adamw_one(a, w.w, m.w, v.w, g.w);
    store_4(x.w + i, w, n);
    store_4(x.m + i, m, n);
    store_4(x.v + i, v, n);
    if (x.half) /* whole lines of eight values */
        *(uint2 *)(x.half + i) = make_uint2(pair16<true>(w.x, w.y), pair16<true>(w.z, w.w));
}

enum { EACH_LANE = TRAIN_ADAMW_BLOCK / WARP };

/* The lane's n moments of a block, from codes and the block's largest magnitude. */
__device__ static inline void moments_from(float m[EACH_LANE], const uint8_t *code, float max,
                                           const float *map, int n)
{
    __align__(8) uint8_t c[EACH_LANE];

    if (n == EACH_LANE)
        *(uint2 *)c = *(const uint2 *)code;
    else
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++) /* nothing is indexed by what is not known: registers */
            c[k] = k < n ? code[k] : 0;
#pragma unroll
    for (int k = 0; k < EACH_LANE; k++)
        m[k] = k < n ? map[c[k]] * max : 0;
}

/* The code of v, -1 to 1, in bitsandbytes' dynamic map: as bnb_encode8 finds it, but where a last bit
 * decides. Seven decades of magnitudes below 1 have B, 2 B, 4 B ... values, each in the middle of an
 * equal part of 0.1 to 1 times its power of ten; then come zero and 1. */
template <bool SIGNED> __device__ static inline int dynamic_code(float v)
{
    constexpr float B = SIGNED ? 1 : 2;
    const float a = SIGNED ? fabsf(v) : v;
    float power = 1e-6f, values = B, count = B, scale = B * (1e6f / 0.9f); /* of the first */

#pragma unroll
    for (int i = 1; i < 7; i++) { /* halfway from the last of the decade before to the first */
        const bool above = a > (power * (1 - 0.45f / values) + power * (1 + 2.25f / values)) / 2;

        power *= 10;
        values *= 2;
        count = above ? values : count;
        scale = above ? values / (power * 0.9f) : scale;
    }
    const float part = ceilf(fmaf(a, scale, count * (-1 / 9.0f))) - 1;
    int at = (int)(count - B + fminf(fmaxf(part, 0), count - 1));

    at = a > 1 - 0.225f / (64 * B) ? 127 * (int)B : at;
    if (a <= 1e-6f * (0.1f + 0.45f / B) / 2)
        return SIGNED ? 127 : 0;
    return !SIGNED ? at + 1 : v > 0 ? 128 + at : 126 - min(at, 126);
}

/* Back, a block, one warp. Returns its largest magnitude. */
template <bool SIGNED>
__device__ static inline float moments_to(uint8_t *code, const float m[EACH_LANE], int n)
{
    __align__(8) uint8_t c[EACH_LANE];
    float max = 0;

#pragma unroll
    for (int k = 0; k < EACH_LANE; k++)
        max = fmaxf(max, fabsf(m[k])); /* past the end they are zero */
    max = warp_max(max);
    const float by = 1 / fmaxf(max, 1e-38f);

#pragma unroll
    for (int k = 0; k < EACH_LANE; k++)
        c[k] = (uint8_t)dynamic_code<SIGNED>(m[k] * by);
    if (n == EACH_LANE)
        *(uint2 *)code = *(const uint2 *)c;
    else
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++)
            if (k < n)
                code[k] = c[k];
    return max;
}

/* To bf16, up with the probability of what is cut off: bits are 16 random ones. */
__device__ static inline uint16_t at_random(float v, uint32_t bits)
{
    return isfinite(v) ? (uint16_t)((__float_as_uint(v) + bits) >> 16) : f32_to_bf16(v);
}

/* A warp has a block of 256 values, a lane eight neighbours. grid: blocks / 8, 256 threads */
extern "C" __global__ void train_adamw_packed(const __grid_constant__ train_packed_args p)
{
    __shared__ float map[2][256];
    const size_t block = thread_of_grid() / WARP;
    const size_t at = block * TRAIN_ADAMW_BLOCK + threadIdx.x % WARP * EACH_LANE;
    float m[EACH_LANE], v[EACH_LANE], w[EACH_LANE], g[EACH_LANE];

    if (p.m_code) {
        for (int k = 0; k < 2; k++)
            map[k][threadIdx.x] = p.map[k][threadIdx.x]; /* of 256 */
        __syncthreads();
    }
    if (block * TRAIN_ADAMW_BLOCK >= p.n)
        return;
    const int n = at >= p.n ? 0 : (int)min((unsigned long long)EACH_LANE, p.n - at);

    if (n == EACH_LANE) {
        if (p.half_g)
            load_n(g, (const uint16_t *)p.g + at);
        else
            load_n(g, (const float *)p.g + at);
        if (p.half)
            load_n(w, p.half + at);
        else
            load_n(w, p.w + at);
    } else {
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++) {
            g[k] = k >= n     ? 0
                   : p.half_g ? get((const uint16_t *)p.g + at + k)
                              : get((const float *)p.g + at + k);
            w[k] = k >= n ? 0 : p.half ? get(p.half + at + k) : p.w[at + k];
        }
    }
    if (p.m_code) {
        moments_from(m, p.m_code + at, p.m_max[block], map[0], n);
        moments_from(v, p.v_code + at, p.v_max[block], map[1], n);
    } else if (n == EACH_LANE) {
        load_n(m, p.m + at);
        load_n(v, p.v + at);
    } else {
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++)
            m[k] = k < n ? p.m[at + k] : 0, v[k] = k < n ? p.v[at + k] : 0;
    }
#pragma unroll
    for (int k = 0; k < EACH_LANE; k++)
        w[k] = adamw_one(p.a, w[k], m[k], v[k], g[k]);
    if (p.m_code) {
        const float m_max = moments_to<true>(p.m_code + at, m, n);
        const float v_max = moments_to<false>(p.v_code + at, v, n);

        if (threadIdx.x % WARP == 0)
            p.m_max[block] = m_max, p.v_max[block] = v_max;
    } else if (n == EACH_LANE) {
        store_n(p.m + at, m);
        store_n(p.v + at, v);
    } else {
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++)
            if (k < n)
                p.m[at + k] = m[k], p.v[at + k] = v[k];
    }
    if (!p.half && n == EACH_LANE)
        store_n(p.w + at, w);
    if (!p.half) {
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++)
            if (n < EACH_LANE && k < n)
                p.w[at + k] = w[k];
        return;
    }
    __align__(16) uint16_t to[EACH_LANE];

#pragma unroll
    for (int k = 0; k < EACH_LANE; k += 4) {
        uint64_t bits = rng_philox(p.seed, p.first + (at + k) / 4);

#pragma unroll
        for (int i = 0; i < 4; i++, bits >>= 16)
            to[k + i] = at_random(w[k + i], (uint32_t)(bits & 0xffff));
    }
    if (n == EACH_LANE)
        *(uint4 *)(p.half + at) = *(const uint4 *)to;
    else
#pragma unroll
        for (int k = 0; k < EACH_LANE; k++)
            if (k < n)
                p.half[at + k] = to[k];
}

enum { SQUARES = 256 };

__device__ static inline double block_sum_double(double v)
{
    __shared__ double room[SQUARES];

    room[threadIdx.x] = v;
    for (int d = SQUARES / 2; d; d /= 2) {
        __syncthreads();
        if (threadIdx.x < d)
            room[threadIdx.x] += room[threadIdx.x + d];
    }
    return room[0]; /* of thread 0 */
}

/* part[block] = sum of the squares of `per` gradients, a multiple of 4. grid: blocks of all lists, 256
 * threads */
extern "C" __global__ void train_squares(double *part, const __grid_constant__ train_lists l, int per)
{
    const train_list &x = list_of_block(l);
    const size_t from = (size_t)(blockIdx.x - x.first) * per, to = from + per < x.n ? from + per : x.n;
    double s = 0;

#pragma unroll 4
    for (size_t i = from + 4 * threadIdx.x; i < to; i += 4 * SQUARES) {
        const int n = (int)min((size_t)4, to - i);
        const float4 g = x.half_g ? load_4((const uint16_t *)x.g + i, n) : load_4((const float *)x.g + i, n);

        s += (double)g.x * (double)g.x + (double)g.y * (double)g.y;
        s += (double)g.z * (double)g.z + (double)g.w * (double)g.w;
    }
    s = block_sum_double(s);
    if (threadIdx.x == 0)
        part[blockIdx.x] = s;
}

/* grid: 1, 256 threads */
extern "C" __global__ void train_squares_all(double *out, const double *part, int n)
{
    double s = 0;

    for (int i = threadIdx.x; i < n; i += SQUARES)
        s += part[i];
    s = block_sum_double(s);
    if (threadIdx.x == 0)
        *out = s;
}

/* ---- Adafactor ---- */

__device__ static inline float gradient_of(const train_factor_args &p, size_t i)
{
    return p.clip * (p.half_g ? get((const uint16_t *)p.g + i) : ((const float *)p.g)[i]);
}

/* Means of squares by row. grid: rows, 256 threads */
extern "C" __global__ void train_factor_rows(const __grid_constant__ train_factor_args p)
{
    const size_t at = (size_t)blockIdx.x * p.cols;
    float s = 0;

    for (size_t i = threadIdx.x; i < p.cols; i += blockDim.x) {
        const float g = gradient_of(p, at + i);

        s += g * g + TRAIN_LEAST_SQUARE;
    }
    s = block_sum(s);
    if (threadIdx.x == 0)
        p.row[blockIdx.x] = p.beta2 * p.row[blockIdx.x] + p.rest2 * (s / (float)p.cols);
}

/* Sums of squares by column, of `per` rows. grid: (columns / 256, chunks), 256 threads */
extern "C" __global__ void train_factor_cols(const __grid_constant__ train_factor_args p)
{
    const size_t i = thread_of_grid(), r0 = (size_t)blockIdx.y * p.per;
    const size_t r1 = min(p.rows, (unsigned long long)(r0 + p.per));
    float s = 0;

    if (i >= p.cols)
        return;
    for (size_t r = r0; r < r1; r++) {
        const float g = gradient_of(p, r * p.cols + i);

        s += g * g + TRAIN_LEAST_SQUARE;
    }
    ((float *)p.part)[blockIdx.y * p.cols + i] = s;
}

/* Means by column of n sums each; the first block makes the mean of the rows' too. grid: columns /
 * 256, 256 threads */
extern "C" __global__ void train_factor_means(const __grid_constant__ train_factor_args p, int n)
{
    const size_t i = thread_of_grid();
    double s = 0;

    if (i < p.cols) {
        for (int k = 0; k < n; k++)
            s += (double)((const float *)p.part)[k * p.cols + i];
        p.col[i] = p.beta2 * p.col[i] + p.rest2 * (float)(s / (double)p.rows);
    }
    if (blockIdx.x)
        return;
    s = 0;
    for (size_t r = threadIdx.x; p.row && r < p.rows; r += SQUARES)
        s += (double)p.row[r];
    s = block_sum_double(s);
    if (threadIdx.x == 0)
        p.sums[0] = s / (double)p.rows;
}

/* u of four neighbours, of which n count. */
__device__ static inline void scaled_four(float u[4], const train_factor_args &p, size_t at, int n)
{
    const float mean = p.row ? (float)p.sums[0] : 1;
    size_t r = at / p.cols, c = at % p.cols;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (c == p.cols)
            r++, c = 0;
        u[k] = k < n ? gradient_of(p, at + k) * sqrtf(p.row ? mean / p.row[r] : 1) / sqrtf(p.col[c]) : 0;
        c++;
    }
}

/* part[block] = sum of the squares of its u. grid: values / TRAIN_FACTOR_VALUES, 256 threads */
extern "C" __global__ void train_factor_squares(const __grid_constant__ train_factor_args p)
{
    const size_t n = p.rows * p.cols, from = (size_t)blockIdx.x * TRAIN_FACTOR_VALUES;
    const size_t to = from + TRAIN_FACTOR_VALUES < n ? from + TRAIN_FACTOR_VALUES : n;
    double s = 0;
    float u[4];

    for (size_t i = from + 4 * threadIdx.x; i < to; i += 4 * SQUARES) {
        scaled_four(u, p, i, (int)min((size_t)4, to - i));
#pragma unroll
        for (int k = 0; k < 4; k++)
            s += (double)u[k] * (double)u[k];
    }
    s = block_sum_double(s);
    if (threadIdx.x == 0)
        ((double *)p.part)[blockIdx.x] = s;
}

/* grid: values / 4 / 256, 256 threads */
extern "C" __global__ void train_factor_step(const __grid_constant__ train_factor_args p)
{
    const size_t n = p.rows * p.cols, at = 4 * thread_of_grid();
    float u[4];

    if (at >= n)
        return;
    const int some = (int)min((size_t)4, n - at);
    const float rms = sqrtf((float)(p.sums[1] / (double)n)), lr = p.lr / fmaxf(rms, 1);
    uint64_t bits = p.half ? rng_philox(p.seed, p.first + at / 4) : 0;

    scaled_four(u, p, at, some);
#pragma unroll
    for (int k = 0; k < 4; k++, bits >>= 16) {
        if (k >= some)
            break;
        if (p.half)
            p.half[at + k] = at_random(get(p.half + at + k) * p.keep - lr * u[k], (uint32_t)(bits & 0xffff));
        else
            p.w[at + k] = p.w[at + k] * p.keep - lr * u[k];
    }
}
