/* small.cu - everything that is neither a product nor attention: one formula of ops.def each. */
#include "backend/cuda/block.cuh"
#include "backend/cuda/cache.cuh"
#include "backend/cuda/image.cuh"
#include "backend/cuda/silu.cuh"
#include "backend/cuda/turn.cuh"

/* A column of an input in 16 bits, if the next product is likely to want it; zeros up to kp. */
struct copy16 {
    uint16_t *p; /* [T][kp]; NULL = not wanted */
    int mode, kp, image;
};

/* A batch's arrays in host memory, to where kernels expect them: as many times 16 bytes as the
 * first 32 bits say. from NULL: they are there. */
struct batch_copy {
    const void *from;
    void *to;
};

__device__ static void put16(const copy16 &c, int t, int i, float f)
{
    if (c.p)
        c.p[input_at(c.image, c.kp, t, i)] = to16(f, c.mode);
}

/* Eight values of bf16. */
__device__ static inline void get8(float *v, uint4 w)
{
    const uint32_t pair[4] = { w.x, w.y, w.z, w.w };

#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = __uint_as_float(i % 2 ? pair[i / 2] & 0xFFFF0000 : pair[i / 2] << 16);
}

__device__ static inline void get8(float *v, const uint16_t *p)
{
    get8(v, *(const uint4 *)p);
}

/* Row r of packed codes, eight columns of a thread at a time: the kind, which is told, spares what
 * a unit's place takes to divide. */
template <int KIND>
__device__ static inline void packed_row(float *y, const dev_weight &w, size_t r)
{
    dev_weight told = w;

    told.kind = KIND;
    for (int i = 8 * threadIdx.x; i < w.cols; i += 8 * blockDim.x)
#pragma unroll 1 /* a row alone waits for this to come from memory */
        for (int k = i; k < min(i + 8, w.cols); k++)
            y[k] = packed_value(told, r, k);
}

/* Row t of y: row ids[t] of the table w, by all threads. */
__device__ static inline void embed_row(float *y, const dev_weight &w, const int32_t *ids, size_t t)
{
    const size_t r = ids[t];
    const bool placed = w.kind == DEV_B16;
    const uint8_t *const row = w.q + r * (placed ? 2 * (size_t)w.kp : w.row_bytes);

    if ((placed || (w.kind == DEV_RAW && w.enc == DEV_ENC_BF16)) && w.cols % 8 == 0 &&
        (uintptr_t)row % 16 == 0) {
        for (int i = 8 * threadIdx.x; i < w.cols; i += 8 * blockDim.x) {
            float4 *const to = (float4 *)(y + t * w.cols + i);
            float v[8];

            get8(v, (const uint16_t *)row + i);
            to[0] = make_float4(v[0], v[1], v[2], v[3]);
            to[1] = make_float4(v[4], v[5], v[6], v[7]);
        }
        return;
    }
    if (w.kind == DEV_U4 || w.kind == DEV_U6 || w.kind == DEV_U8) {
        float *const to = y + t * w.cols;

        if (w.kind == DEV_U4)
            packed_row<DEV_U4>(to, w, r);
        else if (w.kind == DEV_U6)
            packed_row<DEV_U6>(to, w, r);
        else
            packed_row<DEV_U8>(to, w, r);
        return;
    }
    for (int u = threadIdx.x; u * UNIT < w.cols; u += blockDim.x) {
        float v[UNIT];

        unit_decode(v, w, r, u);
#pragma unroll
        for (int k = 0; k < UNIT; k++)
            if (u * UNIT + k < w.cols)
                y[t * w.cols + u * UNIT + k] = v[k];
    }
}

/* grid: rows */
extern "C" __global__ void embed(float *y, dev_weight w, const int32_t *ids)
{
    embed_row(y, w, ids, blockIdx.x);
}

/* grid: (columns, rows) */
extern "C" __global__ void gather(float *y, const float *x, const int32_t *rows, int D)
{
    const size_t from = (size_t)rows[blockIdx.y] * D, to = (size_t)blockIdx.y * D;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < D)
        y[to + i] = x[from + i];
}

extern "C" __global__ void scale(float *x, size_t n, float by)
{
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        x[i] *= by;
}

/* x and w are read together and kept: a second journey to memory would be half of the time. grid:
 * rows */
extern "C" __global__ void rmsnorm(float *y, const float *x, const float *w, int D, float eps,
                                   copy16 c)
{
    enum { KEPT = 8 };
    const int t = blockIdx.x, first = threadIdx.x, step = blockDim.x;
    float s = 0, kept[KEPT];

    next_may_begin();
    x += (size_t)t * D;
    if (y)
        y += (size_t)t * D;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * step;
        const float v = i < D ? x[i] : 0;

        kept[k] = i < D ? v * w[i] : 0;
        s += v * v;
    }
    for (int i = first + KEPT * step; i < D; i += step)
        s += x[i] * x[i];
    const float r = 1 / sqrtf(block_sum(s) / (float)D + eps);

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * step;

        if (i < D) {
            if (y)
                y[i] = kept[k] * r;
            put16(c, t, i, kept[k] * r);
        }
    }
    for (int i = first + KEPT * step; i < D; i += step) {
        const float v = x[i] * w[i] * r;

        if (y)
            y[i] = v;
        put16(c, t, i, v);
    }
    for (int i = D + first; c.p && i < c.kp; i += step)
        put16(c, t, i, 0);
}

/* grid: (columns, rows) */
extern "C" __global__ void swiglu(float *h, const float *g, const float *u, int F, copy16 c)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t at = (size_t)blockIdx.y * F + i;

    next_may_begin();
    if (i < F) {
        const float v = g[at] / (1 + expf(-g[at])) * u[at];

        if (h)
            h[at] = v;
        put16(c, blockIdx.y, i, v);
    } else if (i < c.kp) {
        put16(c, blockIdx.y, i, 0);
    }
}

/* grid: (pairs of all heads, rows). The angle is the float32 product. */
extern "C" __global__ void rope(float *x, int heads, int hd, const int32_t *pos,
                                const float *inv_freq, int interleaved)
{
    const int half = hd / 2, n = blockIdx.x * blockDim.x + threadIdx.x, h = n / half, i = n % half;
    float s, c;

    if (h >= heads)
        return;
    sincosf((float)pos[blockIdx.y] * inv_freq[i], &s, &c);
    rotate(x + ((size_t)blockIdx.y * heads + h) * hd, interleaved ? 2 * i : i,
           interleaved ? 2 * i + 1 : i + half, s, c);
}

/* grid: (columns, rows) */
extern "C" __global__ void kv_write(const float *k, const float *v, uint8_t *kc, uint8_t *vc,
                                    int enc, int K, int hd, const int32_t *slot,
                                    const int32_t *seq, const int32_t *const *table)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y, h = i / hd;

    if (h >= K)
        return;
    const size_t to = cache_at(table[seq[t]], slot[t], K, h, hd) + i % hd;
    const size_t from = (size_t)t * K * hd + i;

    store(kc, to, k[from], enc);
    store(vc, to, v[from], enc);
}

/* rope of queries and keys, and kv_write: a thread has one pair of several heads, whose angle is the
 * same. grid: (parts of the H + 2 K heads, rows), 256 threads, at least hd / 2 */
extern "C" __global__ void rope_kv(const __grid_constant__ rope_args a)
{
    const int half = a.hd / 2, beside = blockDim.x / half, i = threadIdx.x % half, t = blockIdx.y;
    const bool inter = a.interleaved;
    const int lo = inter ? 2 * i : i, hi = inter ? 2 * i + 1 : i + half;
    float s, c;

    if (threadIdx.x >= beside * half)
        return;
    sincosf((float)a.pos[t] * a.inv_freq[i], &s, &c);
    const size_t to = cache_at(a.table[a.seq[t]], a.slot[t], a.K, 0, a.hd);

    for (int n = blockIdx.x * beside + threadIdx.x / half; n < a.H + 2 * a.K; n += gridDim.x * beside) {
        const int h = n - a.H; /* of keys, then of values */

        if (h < 0) {
            rotate(a.q + ((size_t)t * a.H + n) * a.hd, lo, hi, s, c);
            continue;
        }
        const size_t at = to + (size_t)h % a.K * KV_BLOCK * a.hd;

        if (h < a.K) {
            float *k = a.k + ((size_t)t * a.K + h) * a.hd;

            rotate(k, lo, hi, s, c);
            store(a.kc, at + lo, k[lo], a.enc);
            store(a.kc, at + hi, k[hi], a.enc);
        } else {
            const float *v = a.v + ((size_t)t * a.K + h - a.K) * a.hd;

            store(a.vc, at + lo, v[lo], a.enc);
            store(a.vc, at + hi, v[hi], a.enc);
        }
    }
}

/* Eight. */
__device__ static inline uint4 eight16(const float *v, int mode)
{
    return make_uint4(two16(v, mode), two16(v + 2, mode), two16(v + 4, mode), two16(v + 6, mode));
}

/* What rows' pairs turn by, [T][half], of odd rows with eights of pairs changed about, so that neighbours'
 * are in other banks where they are read; and where a row's first head is in the cache, in heads. grid: rows,
 * half threads */
extern "C" __global__ void turns(float2 *turn, int32_t *line, const __grid_constant__ rope_args a)
{
    const int t = blockIdx.x, s = a.slot[t];
    float2 *const to = turn + (size_t)t * blockDim.x + (threadIdx.x ^ t % 2 * 8);

    sincosf((float)a.pos[t] * a.inv_freq[threadIdx.x], &to->y, &to->x);
    if (threadIdx.x == 0)
        line[t] = (int)cache_at(a.table[a.seq[t]], s, a.K, 0, 1);
}

/* Eight of bf16 to 16 bits. */
__device__ static inline void put8(uint16_t *y, uint4 w, int mode)
{
    float v[8];

    if (mode != PREP_BF16) {
        get8(v, w);
        w = eight16(v, mode);
    }
    *(uint4 *)y = w;
}

/* Eight values to a cache of 16 or 8 bits. */
__device__ static inline void store8(uint8_t *cache, size_t at, const float *v, int enc)
{
    if (enc == DEV_ENC_F8_E4M3)
        *(uint2 *)(cache + at) = make_uint2(four_f8(v, 1), four_f8(v + 4, 1));
    else
        *(uint4 *)(cache + 2 * at) = eight16(v, mode_of(enc));
}

/* rope_kv of bf16. A thread has two times eight values of a head in each of the block's rows at a time,
 * whose pairs they are; they are asked for before the rows' angles are found. grid: rows / ROPE_ROWS,
 * ROPE_THREADS */
extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope16(const __grid_constant__ rope16_args f)
{
    enum { HALF_MOST = 128 };
    __shared__ float2 turn[ROPE_ROWS][HALF_MOST];
    const rope_args &a = f.to;
    const int t0 = blockIdx.x * ROPE_ROWS, rows = min(ROPE_ROWS, f.T - t0), half = a.hd / 2;
    const int each = half / 8, queries = f.q ? a.H : 0, items = (queries + 2 * a.K) * each;
    const bool inter = a.interleaved;
    uint4 kept[ROPE_ROWS][2];

    for (int n = threadIdx.x; n < items || n == threadIdx.x; n += ROPE_THREADS) {
        const int j = n % each * 8, lo = inter ? 2 * j : j, hi = inter ? lo + 8 : lo + half;
        const int h = n / each - queries; /* of keys, then of values */
        const int ld = h < 0 ? f.ld_q : f.ld_kv, head = h < 0 ? n / each : h < a.K ? h : h - a.K;
        const uint16_t *const from = h < 0 ? f.q : h < a.K ? f.k : f.v;

#pragma unroll
        for (int r = 0; r < ROPE_ROWS; r++)
            if (r < rows && n < items) {
                const uint16_t *const x = from + (size_t)(t0 + r) * ld + head * a.hd;

                kept[r][0] = *(const uint4 *)(x + lo), kept[r][1] = *(const uint4 *)(x + hi);
            }
        if (n == threadIdx.x) {
            for (int i = threadIdx.x; i < rows * half; i += ROPE_THREADS) {
                float2 *const to = &turn[i / half][i % half];

                sincosf((float)a.pos[t0 + i / half] * a.inv_freq[i % half], &to->y, &to->x);
            }
            __syncthreads();
        }
#pragma unroll
        for (int r = 0; r < ROPE_ROWS; r++) {
            const int t = t0 + r;
            float v[16];

            if (r >= rows || n >= items)
                break;
            get8(v, kept[r][0]);
            get8(v + 8, kept[r][1]);
#pragma unroll
            for (int i = 0; i < 8 && h < a.K; i += 2) {
                const float4 by = *(const float4 *)&turn[r][j + i];

                if (inter) {
                    rotate(v, 2 * i, 2 * i + 1, by.y, by.x);
                    rotate(v, 2 * i + 2, 2 * i + 3, by.w, by.z);
                } else {
                    rotate(v, i, i + 8, by.y, by.x);
                    rotate(v, i + 1, i + 9, by.w, by.z);
                }
            }
            if (h >= 0) {
                uint8_t *const cache = h < a.K ? a.kc : a.vc;
                const size_t at = cache_at(a.table[a.seq[t]], a.slot[t], a.K, head, a.hd);

                store8(cache, at + lo, v, a.enc);
                store8(cache, at + hi, v + 8, a.enc);
                continue;
            }
            const size_t row = ((size_t)t * a.H + head) * a.hd;

            if (a.q)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    *(float4 *)(a.q + row + (i < 2 ? lo : hi - 8) + 4 * i) =
                        make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
            if (f.q16) {
#pragma unroll
                for (int i = 0; i < 16; i++)
                    v[i] *= f.scale;
                *(uint4 *)(f.q16 + row + lo) = eight16(v, f.mode16);
                *(uint4 *)(f.q16 + row + hi) = eight16(v + 8, f.mode16);
            }
        }
    }
}

/* What a checkpoint's own library makes of inputs (format/enc/act.h): the values, in 32 or 16 bits,
 * or E4M3 and their scale. grid: (groups, rows) */
extern "C" __global__ void act(act_args a)
{
    const int from = blockIdx.x * a.group, n = min(a.group, a.cols - from);
    const float *x = a.x + (size_t)blockIdx.y * a.cols + from;
    float *y = a.y + (size_t)blockIdx.y * a.cols + from, max = 0;
    __shared__ float part[WARP];

    for (int i = threadIdx.x; i < n; i += blockDim.x)
        max = fmaxf(max, act_magnitude(a.act, a.bound, x[i]));
    for (int d = WARP / 2; d; d /= 2)
        max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = max;
    __syncthreads();
    max = 0;
    for (int i = 0; i < blockDim.x / WARP; i++)
        max = fmaxf(max, part[i]);
    const float s = act_scale(a.act, a.bound, a.scale, max);

    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float v = act_round(a.act, a.bound, s, x[i]);

        if (a.bf16)
            v = bf16_to_f32(f32_to_bf16(v));
        if (a.y)
            y[i] = v;
        if (a.y16)
            a.y16[input_at(a.image, a.kp, blockIdx.y, from + i)] = to16(v, a.mode16);
        if (a.y8)
            a.y8[(size_t)blockIdx.y * a.kp + from + i] = f32_to_f8_e4m3(v / s);
    }
    if (a.scales && threadIdx.x == 0)
        a.scales[blockIdx.y] = s;
    for (int i = a.cols + threadIdx.x; blockIdx.x + 1 == gridDim.x && i < a.kp; i += blockDim.x) {
        if (a.y16)
            a.y16[input_at(a.image, a.kp, blockIdx.y, i)] = 0;
        if (a.y8)
            a.y8[(size_t)blockIdx.y * a.kp + i] = 0;
    }
}

enum { NORM_STEP = 4 * NORM_THREADS }; /* columns of a block at a time */

template <int KEPT>
__device__ static inline void norm_body(const act_args &a, const float *w, float eps)
{
    enum { STEP = NORM_STEP };
    const size_t t = a.T - 1 - blockIdx.x; /* what was written last may be near still */
    const int first = 4 * threadIdx.x;
    float kept[KEPT][4], sum = 0, max = 0;

    next_may_begin();
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * STEP;
        const float4 v =
            i < a.cols ? *(const float4 *)(a.x + t * a.cols + i) : make_float4(0, 0, 0, 0);

        kept[k][0] = v.x, kept[k][1] = v.y, kept[k][2] = v.z, kept[k][3] = v.w;
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum += kept[k][j] * kept[k][j];
    if (w) {
        const float r = 1 / sqrtf(block_sum(sum) / (float)a.cols + eps);

#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int i = first + k * STEP;

            if (i >= a.cols)
                break;
            const float4 by = *(const float4 *)(w + i);

            kept[k][0] *= by.x * r, kept[k][1] *= by.y * r;
            kept[k][2] *= by.z * r, kept[k][3] *= by.w * r;
            if (a.y)
                *(float4 *)(a.y + t * a.cols + i) =
                    make_float4(kept[k][0], kept[k][1], kept[k][2], kept[k][3]);
        }
    }
    if (a.y16)
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            const int i = first + k * STEP;

            if (i >= a.kp) /* what is padding was read as zeros */
                break;
            const uint2 v = make_uint2(two16(kept[k], a.mode16), two16(kept[k] + 2, a.mode16));

            if (a.image) {
                *(uint32_t *)(a.y16 + input_at(a.image, a.kp, t, i)) = v.x;
                *(uint32_t *)(a.y16 + input_at(a.image, a.kp, t, i + 2)) = v.y;
            } else {
                *(uint2 *)(a.y16 + t * a.kp + i) = v;
            }
        }
    if (!a.y8)
        return;
#pragma unroll
    for (int k = 0; k < KEPT; k++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            max = fmaxf(max, fabsf(kept[k][j]));
    const float s = act_scale(a.act, a.bound, a.scale, block_max(max)), one = 1 / s;

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * STEP;

        if (i < a.kp)
            *(uint32_t *)(a.y8 + t * a.kp + i) = four_f8(kept[k], one);
    }
    if (threadIdx.x == 0)
        a.scales[t] = s;
}

/* Rows of x or, with weights w, of its norm: as E4M3 with a scale for each (act), in 16 bits, and as
 * they are to y, each if it is wanted; at most ROWS_MOST columns, a multiple of 4, or half as many.
 * What a multiprocessor has under way is what counts: blocks of 1024 threads took twice as long, what
 * is kept for columns that are not there a fifth longer. grid: rows, NORM_THREADS */
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(const __grid_constant__ act_args a, const float *w, float eps)
{
    norm_body<ROWS_MOST / NORM_STEP>(a, w, eps);
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    norm_rows_half(const __grid_constant__ act_args a, const float *w, float eps)
{
    norm_body<ROWS_MOST / 2 / NORM_STEP>(a, w, eps);
}

/* By `blocks` blocks, of which this is number `block`. */
__device__ static inline void bring_batch(const batch_copy &c, int block, int blocks)
{
    enum { BESIDE = 4 };
    const uint4 *const from = (const uint4 *)c.from;
    const int n = *(const int32_t *)c.from, step = blocks * blockDim.x;

    for (int i = block * blockDim.x + threadIdx.x; i < n; i += BESIDE * step) {
        uint4 v[BESIDE];

#pragma unroll
        for (int k = 0; k < BESIDE; k++)
            if (i + k * step < n)
                v[k] = from[i + k * step];
#pragma unroll
        for (int k = 0; k < BESIDE; k++)
            if (i + k * step < n)
                ((uint4 *)c.to)[i + k * step] = v[k];
    }
}

extern "C" __global__ void bring(batch_copy c)
{
    bring_batch(c, blockIdx.x, gridDim.x);
}

/* The batch's arrays, embed, and the norm of what that made: of few rows, which wait for launches
 * more than for anything. grid: rows, and as many again where there is a batch to bring;
 * NORM_THREADS */
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    embed_norm(const __grid_constant__ act_args a, const float *norm, float eps, float *x,
               const __grid_constant__ dev_weight w, const int32_t *ids, batch_copy c)
{
    if (blockIdx.x >= a.T) {
        bring_batch(c, blockIdx.x - a.T, gridDim.x - a.T);
        return;
    }
    if (c.from) /* where ids come from */
        ids = (const int32_t *)((const uint8_t *)c.from + ((const uint8_t *)ids - (uint8_t *)c.to));
    embed_row(x, w, ids, a.T - 1 - blockIdx.x); /* that norm_body takes */
    __syncthreads();
    norm_body<ROWS_MOST / NORM_STEP>(a, norm, eps);
}

/* Eight gated values, in bf16. */
__device__ static inline uint4 gate8(const uint16_t *g, const uint16_t *u)
{
    float x[8], y[8];

    get8(x, g);
    get8(y, u);
#pragma unroll
    for (int i = 0; i < 8; i++)
        x[i] = silu(x[i]) * y[i];
    return eight16(x, PREP_BF16);
}

/* A block of THREADS has a row, KEPT times eight values a thread. */
template <int THREADS, int KEPT> __device__ static inline void gated_body(const gated_args &a)
{
    enum { PER = 8, STEP = PER * THREADS };
    const size_t t = blockIdx.x;
    const uint16_t *const g = a.g + t * a.F, *const u = a.u ? a.u + t * a.F : NULL;
    const int first = PER * threadIdx.x;
    uint4 kept[KEPT];
    uint32_t most = 0; /* magnitudes of bf16 are in the order of their bits: two at a time */

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * STEP;

        kept[k] = i >= a.F ? make_uint4(0, 0, 0, 0)
                  : u      ? gate8(g + i, u + i)
                           : *(const uint4 *)(g + i);
    }
    if (a.y16) {
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * STEP < a.kp)
                put8(a.y16 + t * a.kp + first + k * STEP, kept[k], a.mode16);
        return;
    }
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const uint32_t pair[4] = { kept[k].x, kept[k].y, kept[k].z, kept[k].w };

#pragma unroll
        for (int j = 0; j < 4; j++)
            most = __vmaxu2(most, pair[j] & 0x7FFF7FFF);
    }
    const float max = fmaxf(__uint_as_float(most << 16), __uint_as_float(most & 0xFFFF0000));
    const float s = act_scale(a.act, a.bound, a.scale, block_max(max)), one = 1 / s;

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * STEP;
        float v[PER];

        if (i >= a.kp)
            break;
        get8(v, kept[k]);
        *(uint2 *)(a.y8 + t * a.kp + i) = make_uint2(four_f8(v, one), four_f8(v + 4, one));
    }
    if (threadIdx.x == 0)
        a.scales[t] = s;
}

/* The gated values, or g as it is without u, rounded to bf16 before they are to anything else, as
 * reference libraries have it; F is a multiple of 8. Kernels for rows of up to 8 * threads * kept
 * columns: 4096 in one for 32768 took 34 us where their own takes 14 (H200, 4096 rows). grid: rows */
#define GATED(name, threads, kept)                                                                 \
    extern "C" __global__ void __launch_bounds__(threads)                                          \
        name(const __grid_constant__ gated_args a)                                                 \
    {                                                                                              \
        gated_body<threads, kept>(a);                                                              \
    }
GATED(gated_4k, 256, 2)
GATED(gated_16k, 512, 4)
GATED(gated_32k, 512, 8)

/* Inputs of a product in 16 bits, padded with zeros to kp; image: how they lie. grid: (kp / 128, rows),
 * 128 threads */
extern "C" __global__ void prep(uint16_t *y, const float *x, int cols, int kp, const int32_t *order,
                                int mode, int image)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    const float v = k < cols ? x[(size_t)t * cols + (order ? order[k] : k)] : 0;

    next_may_begin();
    y[input_at(image, kp, t, k)] = to16(v, mode);
}

/* Rows first .. first + n of a weight as bf16 [n][kp]. grid: (units / 128, rows) */
extern "C" __global__ void dequant(uint16_t *y, dev_weight w, int first)
{
    const size_t u = (size_t)blockIdx.x * blockDim.x + threadIdx.x, r = first + blockIdx.y;
    float v[UNIT];

    if (u * UNIT >= w.kp)
        return;
#pragma unroll
    for (int k = 0; k < UNIT; k++)
        v[k] = 0;
    if (u * UNIT < w.cols)
        unit_decode(v, w, r, u);
    uint4 *out = (uint4 *)(y + (size_t)blockIdx.y * w.kp + u * UNIT);

#pragma unroll
    for (int k = 0; k < UNIT / 8; k++) {
        uint32_t p[4];

#pragma unroll
        for (int j = 0; j < 4; j++)
            p[j] = f32_to_bf16(v[8 * k + 2 * j]) | (uint32_t)f32_to_bf16(v[8 * k + 2 * j + 1]) << 16;
        out[k] = make_uint4(p[0], p[1], p[2], p[3]);
    }
}

/* n words of random numbers that are small bf16 pairs and E4M3 quadruples, never NaN: every byte's
 * exponent bits lie between. grid: any */
extern "C" __global__ void fill(uint32_t *p, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint64_t v = (i + 1) * 0x9E3779B97F4A7C15u;

        v = (v ^ v >> 31) * 0xBF58476D1CE4E5B9u;
        /* bf16 and f32: 2^-3 .. 1 and a sign; E4M3: 2^-1 .. 2^3 */
        p[i] = ((uint32_t)(v >> 32) & 0x80FF80FF & ~0x00800080) | 0x3E003E00 |
               ((uint32_t)v & 0x01800180);
    }
}

/* Sixteen bytes at a time for memory bandwidth: the yardstick of bench. */
extern "C" __global__ void read_all(const uint4 *p, size_t n, uint32_t *out)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t s = 0;

    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];

#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __ldcs(p + i + k * step);
#pragma unroll
        for (int k = 0; k < 8; k++)
            s ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (s == 0x12345678) /* so that the reads are needed */
        *out = s;
}
