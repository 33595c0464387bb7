/* train.cu - training (ops/train.def): gradients, the optimiser, and attention over rows that lie end
 * to end. Every sum has one owner and one order: no atomics, the same bits each time.
 *
 * Activations are float32 or bf16: a kernel of both is a template, NAME_f32 and NAME_b16. */
#include "backend/cuda/mma.cuh"
#include "backend/cuda/train_act.cuh"
#include "backend/cuda/train_dev.h"
#include "backend/cuda/unit.cuh"
#include "base/rng.h"
#include "format/enc/act.h"

__device__ static inline size_t thread_of_grid()
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ static inline float warp_sum(float v)
{
    for (int d = WARP / 2; d; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

__device__ static inline float warp_max(float v)
{
    for (int d = WARP / 2; d; d /= 2)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* Of all threads of the block; room is free again when this returns. */
template <bool MAX> __device__ static inline float block_all(float v, float room[WARP])
{
    const int lane = threadIdx.x % WARP;

    v = MAX ? warp_max(v) : warp_sum(v);
    if (lane == 0)
        room[threadIdx.x / WARP] = v;
    __syncthreads();
    v = lane < blockDim.x / WARP ? room[lane] : MAX ? -INFINITY : 0;
    v = MAX ? warp_max(v) : warp_sum(v);
    __syncthreads();
    return v;
}

/* Rows of D values eight at a time where they can be. */
#define BY_EIGHT(D, call)                                                                          \
    if ((D) % 8 == 0) {                                                                            \
        enum { N = 8 };                                                                            \
        call;                                                                                      \
    } else {                                                                                       \
        enum { N = 1 };                                                                            \
        call;                                                                                      \
    }

/* ---- operands of products ---- */

/* lines of `len` values, ld apart, as bf16, to apart, zeros between. grid: (to / 256, lines or fewer) */
extern "C" __global__ void train_half(uint16_t *y, const float *x, size_t lines, int len, size_t ld,
                                      int to)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= to)
        return;
    for (size_t l = blockIdx.y; l < lines; l += gridDim.y)
        y[l * to + i] = i < len ? f32_to_bf16(x[l * ld + i]) : 0;
}

/* Rows first .. first + gridDim.y of a weight as float32 [rows][cols]. grid: (units / 128, rows) */
extern "C" __global__ void train_decode(float *y, dev_weight w, int first)
{
    const size_t u = (size_t)blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y;
    float v[UNIT];

    if (u * UNIT >= w.cols)
        return;
    unit_decode(v, w, first + r, u);
    for (int k = 0; k < UNIT && u * UNIT + k < w.cols; k++) {
        const size_t i = u * UNIT + k;

        y[r * w.cols + (w.order ? w.order[i] : i)] = v[k];
    }
}

/* Packed columns where their inputs are. grid: (kp / 128, rows) */
extern "C" __global__ void train_order(uint16_t *y, const uint16_t *x, const int32_t *order, int cols,
                                       int kp)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x;

    if (k < cols)
        y[(size_t)blockIdx.y * kp + order[k]] = x[(size_t)blockIdx.y * kp + k];
}

/* Eight values, times by[i .. i + 8] unless it is NULL. */
__device__ static inline void scaled_eight(float (&v)[8], const uint4 &x, const float *by, int i)
{
    float f[8];

    load_n(v, (const uint16_t *)&x);
    if (!by)
        return;
    load_n(f, by + i);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] *= f[k];
}

/* cols: a multiple of 8. grid: rows, 256 threads */
extern "C" __global__ void train_f8(const __grid_constant__ train_f8_args a)
{
    enum { STEP = 8 * 256, KEPT = 7 }; /* what lies behind is read twice */
    __shared__ float room[WARP];
    const uint16_t *x = a.x + (size_t)blockIdx.x * a.cols;
    uint8_t *y = a.y + (size_t)blockIdx.x * a.kp;
    const int first = 8 * threadIdx.x;
    uint4 kept[KEPT];
    float max = 0, v[8];

#pragma unroll
    for (int k = 0; k < KEPT; k++)
        kept[k] = first + k * STEP < a.cols ? *(const uint4 *)(x + first + k * STEP)
                                            : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        if (first + k * STEP >= a.cols)
            break;
        scaled_eight(v, kept[k], a.by, first + k * STEP);
#pragma unroll
        for (int e = 0; e < 8; e++)
            max = fmaxf(max, fabsf(v[e]));
    }
    for (int i = first + KEPT * STEP; i < a.cols; i += STEP) {
        scaled_eight(v, *(const uint4 *)(x + i), a.by, i);
        for (int e = 0; e < 8; e++)
            max = fmaxf(max, fabsf(v[e]));
    }
    max = block_all<true>(max, room);
    const float s = a.by ? (max > 0 ? max / F8_E4M3_MAX : 1) : act_scale(ACT_F8, a.bound, 0, max);
    const float one = 1 / s;

#pragma unroll
    for (int k = 0; k < KEPT; k++) {
        const int i = first + k * STEP;

        if (i >= a.kp)
            break;
        scaled_eight(v, kept[k], i < a.cols ? a.by : NULL, i);
        *(uint2 *)(y + i) = make_uint2(four_f8(v, one), four_f8(v + 4, one));
    }
    for (int i = first + KEPT * STEP; i < a.kp; i += STEP) {
        scaled_eight(v, i < a.cols ? *(const uint4 *)(x + i) : make_uint4(0, 0, 0, 0),
                     i < a.cols ? a.by : NULL, i);
        *(uint2 *)(y + i) = make_uint2(four_f8(v, one), four_f8(v + 4, one));
    }
    if (threadIdx.x == 0)
        a.scale[blockIdx.x] = s;
}

/* y [cols][n] = x [n][kp] of bytes, and ones to one [cols]: whole multiples of 16. grid: (cols / 128,
 * n / 128), 256 threads */
extern "C" __global__ void train_turn(uint8_t *y, float *one, const uint8_t *x, int n, int cols, int kp)
{
    enum { SIDE = 128, PAD = 4 };
    __shared__ uint8_t tile[SIDE][SIDE + PAD];
    const int c0 = blockIdx.x * SIDE, r0 = blockIdx.y * SIDE;

#pragma unroll
    for (int i = threadIdx.x; i < SIDE * SIDE / 16; i += 256) {
        const int r = i / (SIDE / 16), c = i % (SIDE / 16) * 16;

        if (r0 + r >= n || c0 + c >= cols)
            continue;
        const uint4 v = *(const uint4 *)(x + (size_t)(r0 + r) * kp + c0 + c);
        uint32_t *to = (uint32_t *)&tile[r][c];

        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < SIDE * SIDE / 16; i += 256) {
        const int c = i / (SIDE / 16), r = i % (SIDE / 16) * 16;
        uint32_t v[4] = {};

        if (r0 + r >= n || c0 + c >= cols)
            continue;
#pragma unroll
        for (int k = 0; k < 16; k++)
            v[k / 4] |= (uint32_t)tile[r + k][c] << k % 4 * 8;
        *(uint4 *)(y + (size_t)(c0 + c) * n + r0 + r) = make_uint4(v[0], v[1], v[2], v[3]);
    }
    if (blockIdx.y == 0 && threadIdx.x < SIDE && c0 + threadIdx.x < cols)
        one[c0 + threadIdx.x] = 1;
}

template <class T>
__device__ static inline void put_sum(void *c, const void *to, size_t at, float v)
{
    put((T *)c + at, v + (to ? get((const T *)to + at) : 0));
}

/* c[M, N] = to + by a b, where cuBLASLt cannot: tiles of 32 x 32. Operands are bf16 where
 * `half`. grid: (columns / 32, rows / 32), 256 threads */
extern "C" __global__ void train_product(const __grid_constant__ train_product_args a)
{
    enum { N = 32, EACH = 4 };
    __shared__ float left[N][N + 1], right[N][N + 1];
    const int x = threadIdx.x % N, y = threadIdx.x / N;
    const size_t i0 = (size_t)blockIdx.y * N, j0 = (size_t)blockIdx.x * N;
    float sum[EACH] = { 0 };

    for (size_t k0 = 0; k0 < a.K; k0 += N) {
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            const int line = y + e * (N / EACH);
            /* neighbouring threads along what is contiguous */
            const size_t ai = a.a_cs == 1 ? line : x, ak = a.a_cs == 1 ? x : line;
            const size_t bk = a.b_cs == 1 ? line : x, bj = a.b_cs == 1 ? x : line;
            const size_t at = (i0 + ai) * a.a_rs + (k0 + ak) * a.a_cs;
            const size_t to = (k0 + bk) * a.b_rs + (j0 + bj) * a.b_cs;
            const bool in = i0 + ai < a.M && k0 + ak < a.K, there = k0 + bk < a.K && j0 + bj < a.N;

            left[ai][ak] = !in       ? 0
                           : a.half  ? bf16_to_f32(((const uint16_t *)a.a)[at])
                                     : ((const float *)a.a)[at];
            right[bk][bj] = !there   ? 0
                            : a.half ? bf16_to_f32(((const uint16_t *)a.b)[to])
                                     : ((const float *)a.b)[to];
        }
        __syncthreads();
        for (int k = 0; k < N; k++)
            for (int e = 0; e < EACH; e++)
                sum[e] = fmaf(left[y + e * (N / EACH)][k], right[k][x], sum[e]);
    }
    for (int e = 0; e < EACH; e++) {
        const size_t i = i0 + y + e * (N / EACH), j = j0 + x;

        if (i >= a.M || j >= a.N)
            continue;
        if (a.half_c)
            put_sum<uint16_t>(a.c, a.to, i * a.ldc + j, sum[e] * a.by);
        else
            put_sum<float>(a.c, a.to, i * a.ldc + j, sum[e] * a.by);
    }
}

/* ---- rows ---- */

/* Row ids[t] of a weight. grid: rows */
extern "C" __global__ void train_lookup(uint16_t *y, dev_weight w, const int32_t *ids)
{
    const size_t t = blockIdx.x, r = ids[t];

    for (int u = threadIdx.x; u * UNIT < w.cols; u += blockDim.x) {
        float v[UNIT];

        unit_decode(v, w, r, u);
#pragma unroll
        for (int k = 0; k < UNIT; k++)
            if (u * UNIT + k < w.cols)
                put(y + t * w.cols + u * UNIT + k, v[k]);
    }
}

/* y[to] = x[from] of rows whose numbers are in `to`, or in `from`; NULL = the block's own. grid: (D / 8
 * / 256, rows) or more */
template <class T, int N>
__device__ static inline void move_row(T *y, const T *x, const int32_t *to, const int32_t *from, int D)
{
    const size_t t = blockIdx.y, into = to ? to[t] : t, out = from ? from[t] : t;
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    float v[N];

    if (i >= D)
        return;
    load_n(v, x + out * D + i);
    store_n(y + into * D + i, v);
}

template <class T> __device__ static inline void scatter(T *y, const T *x, const int32_t *rows, int D)
{
    BY_EIGHT(D, (move_row<T, N>(y, x, rows, NULL, D)));
}
BOTH(train_scatter, scatter, (T * y, const T *x, const int32_t *rows, int D), (y, x, rows, D))

extern "C" __global__ void train_gather(uint16_t *y, const uint16_t *x, const int32_t *rows, int D)
{
    BY_EIGHT(D, (move_row<uint16_t, N>(y, x, NULL, rows, D)));
}

/* dw[ids[t]] += dy[t]: the first row of an id owns all of them, in the order of t. grid: rows, 256
 * threads */
template <class T, int N>
__device__ static inline void embed_rows(float *dw, const T *dy, const int32_t *ids, int rows, int D)
{
    enum { MANY = 256 };
    __shared__ uint32_t same[MANY / WARP];
    const int t = blockIdx.x;
    int before = 0;

    const int32_t id = ids[t];

    for (int j = threadIdx.x; j < t; j += MANY)
        before |= ids[j] == id;
    if (__syncthreads_or(before))
        return;
    for (int j = t; j < rows; j += MANY) {
        const int k = j + threadIdx.x;
        const uint32_t warp = __ballot_sync(~0u, k < rows && ids[k] == id);

        if (!__syncthreads_or(warp)) /* and the last ones are read */
            continue;
        if (threadIdx.x % WARP == 0)
            same[threadIdx.x / WARP] = warp;
        __syncthreads();
        for (int w = 0; w < MANY / WARP; w++)
            for (uint32_t left = same[w]; left; left &= left - 1) {
                const T *from = dy + (size_t)(j + w * WARP + __ffs(left) - 1) * D;

                for (int i = threadIdx.x * N; i < D; i += MANY * N) {
                    float a[N], b[N];

                    load_n(a, dw + (size_t)id * D + i);
                    load_n(b, from + i);
#pragma unroll
                    for (int e = 0; e < N; e++)
                        a[e] += b[e];
                    store_n(dw + (size_t)id * D + i, a);
                }
            }
    }
}

template <class T>
__device__ static inline void embed_bwd(float *dw, const T *dy, const int32_t *ids, int rows, int D)
{
    BY_EIGHT(D, (embed_rows<T, N>(dw, dy, ids, rows, D)));
}
BOTH(train_embed, embed_bwd, (float *dw, const T *dy, const int32_t *ids, int rows, int D),
     (dw, dy, ids, rows, D))

/* y = x / sqrt(mean(x^2) + eps) w. grid: rows */
template <int N>
__device__ static inline void norm_fwd(uint16_t *y, const uint16_t *x, const float *w, int D, float eps)
{
    __shared__ float room[WARP];
    const size_t at = (size_t)blockIdx.x * D;
    float xx = 0, v[N], u[N];

    for (int i = threadIdx.x * N; i < D; i += blockDim.x * N) {
        load_n(v, x + at + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            xx += v[k] * v[k];
    }
    const float r = 1 / sqrtf(block_all<false>(xx, room) / (float)D + eps);

    for (int i = threadIdx.x * N; i < D; i += blockDim.x * N) {
        load_n(v, x + at + i);
        load_n(u, w + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] *= u[k] * r;
        store_n(y + at + i, v);
    }
}

extern "C" __global__ void train_rmsnorm(uint16_t *y, const uint16_t *x, const float *w, int D, float eps)
{
    BY_EIGHT(D, (norm_fwd<N>(y, x, w, D, eps)));
}

/* dx += r (dy w - x r^2 / D sum(dy w x)), and r. grid: rows */
template <class T, int N>
__device__ static inline void norm_row(T *dx, float *r_out, const T *dy, const T *x, const float *w,
                                       int D, float eps)
{
    __shared__ float room[WARP];
    const size_t at = (size_t)blockIdx.x * D;
    float xx = 0, dx_x = 0, vx[N], vy[N], vw[N], vd[N];

    for (int i = threadIdx.x * N; i < D; i += blockDim.x * N) {
        load_n(vx, x + at + i);
        load_n(vy, dy + at + i);
        load_n(vw, w + i);
#pragma unroll
        for (int k = 0; k < N; k++) {
            xx += vx[k] * vx[k];
            dx_x += vy[k] * vw[k] * vx[k];
        }
    }
    xx = block_all<false>(xx, room);
    dx_x = block_all<false>(dx_x, room);
    const float r = 1 / sqrtf(xx / (float)D + eps), by = r * r * r / (float)D * dx_x;

    for (int i = threadIdx.x * N; i < D; i += blockDim.x * N) {
        load_n(vx, x + at + i);
        load_n(vy, dy + at + i);
        load_n(vw, w + i);
        load_n(vd, dx + at + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            vd[k] += r * (vy[k] * vw[k]) - by * vx[k];
        store_n(dx + at + i, vd);
    }
    if (threadIdx.x == 0)
        r_out[blockIdx.x] = r;
}

template <class T>
__device__ static inline void norm_bwd(T *dx, float *r_out, const T *dy, const T *x, const float *w,
                                       int D, float eps)
{
    BY_EIGHT(D, (norm_row<T, N>(dx, r_out, dy, x, w, D, eps)));
}
BOTH(train_norm, norm_bwd,
     (T * dx, float *r_out, const T *dy, const T *x, const float *w, int D, float eps),
     (dx, r_out, dy, x, w, D, eps))

/* part[chunk][i] = sum of x y r over `per` rows; r NULL: of x y. grid: (columns / 128, chunks), 128
 * threads */
template <class T>
__device__ static inline void dot_rows(float *part, const T *x, const T *y, const float *r, int rows,
                                       int D, int per)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, t0 = blockIdx.y * per;
    float s = 0;

    if (i >= D)
        return;
    for (int t = t0; t < min(t0 + per, rows); t++)
        s += get(x + (size_t)t * D + i) * get(y + (size_t)t * D + i) * (r ? r[t] : 1);
    part[(size_t)blockIdx.y * D + i] = s;
}
BOTH(train_dot_rows, dot_rows,
     (float *part, const T *x, const T *y, const float *r, int rows, int D, int per),
     (part, x, y, r, rows, D, per))

/* y[i] += by[i] times the sum of n rows; by NULL = 1. grid: columns / 128 */
extern "C" __global__ void train_add_rows(float *y, const float *part, const float *by, int n, int D)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float s = 0;

    if (i >= D)
        return;
    for (int k = 0; k < n; k++)
        s += part[(size_t)k * D + i];
    y[i] += s * (by ? by[i] : 1);
}

/* y = or += x by. grid: (columns / 8 / 256 or columns / 256, rows) */
template <class T, int N>
__device__ static inline void scale_row(T *y, const T *x, const float *by, int D, int add)
{
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    const size_t at = (size_t)blockIdx.y * D + i;
    float v[N], f[N], w[N] = {};

    if (i >= D)
        return;
    load_n(v, x + at);
    load_n(f, by + i);
    if (add)
        load_n(w, y + at);
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = v[k] * f[k] + w[k];
    store_n(y + at, v);
}

template <class T>
__device__ static inline void col_scale(T *y, const T *x, const float *by, int D, int add)
{
    BY_EIGHT(D, (scale_row<T, N>(y, x, by, D, add)));
}
BOTH(train_col_scale, col_scale, (T * y, const T *x, const float *by, int D, int add),
     (y, x, by, D, add))

/* struct dora (ops/train.h), a thread for each row. grid: rows / 128, 128 threads */
extern "C" __global__ void train_dora(const __grid_constant__ train_dora_args d)
{
    const size_t o = thread_of_grid();

    if (o >= d.out)
        return;
    const float *b = d.b + o * d.r;
    double sum = d.squares[o];

    for (int k = 0; k < d.r; k++) {
        double square = 0;

        for (int j = 0; j < d.r; j++)
            square += (double)b[j] * (double)d.aa[k * d.r + j];
        sum += (double)b[k] *
               (2 * (double)d.scale * (double)d.aw[k * d.out + o] + (double)d.scale * d.scale * square);
    }
    const float length = sum > 0 ? (float)(1 / sqrt(sum)) : 0;

    d.length[o] = length;
    d.gain[o] = d.mag[o] * length;
    d.gain_less[o] = d.gain[o] - 1;
}

/* A head's pairs i .. i + N turned. */
template <int N>
__device__ static inline void turn_pairs(uint16_t *head, int i, int half, const float2 *turn,
                                         bool interleaved)
{
    float v[2 * N], lo[N], hi[N];

    if (interleaved) {
#pragma unroll
        for (int k = 0; k < 2 * N; k += N) {
            load_n(lo, head + 2 * i + k);
#pragma unroll
            for (int e = 0; e < N; e++)
                v[k + e] = lo[e];
        }
    } else {
        load_n(lo, head + i);
        load_n(hi, head + half + i);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float a = interleaved ? v[2 * k] : lo[k], b = interleaved ? v[2 * k + 1] : hi[k];
        const float2 t = turn[i + k];

        lo[k] = a * t.x - b * t.y;
        hi[k] = b * t.x + a * t.y;
        v[2 * k] = lo[k], v[2 * k + 1] = hi[k];
    }
    if (!interleaved) {
        store_n(head + i, lo);
        store_n(head + half + i, hi);
        return;
    }
#pragma unroll
    for (int k = 0; k < 2 * N; k += N) {
#pragma unroll
        for (int e = 0; e < N; e++)
            lo[e] = v[k + e];
        store_n(head + 2 * i + k, lo);
    }
}

/* Every head of a row turned by its position; the angle is the float32 product. grid: rows /
 * TRAIN_ROPE_ROWS, 256 threads; shared memory: two floats for each of hd / 2 of those rows */
template <int N>
__device__ static inline void rope_rows(uint16_t *x, int heads, int hd, int rows, const int32_t *pos,
                                        const float *inv_freq, bool interleaved)
{
    extern __shared__ float2 turn[];
    const int half = hd / 2, parts = half / N, r0 = blockIdx.x * TRAIN_ROPE_ROWS;
    const int some = min((int)TRAIN_ROPE_ROWS, rows - r0);

    for (int i = threadIdx.x; i < some * half; i += blockDim.x)
        sincosf((float)pos[r0 + i / half] * inv_freq[i % half], &turn[i].y, &turn[i].x);
    __syncthreads();
    for (int n = threadIdx.x; n < some * heads * parts; n += blockDim.x) {
        const int row_head = n / parts;

        turn_pairs<N>(x + ((size_t)r0 * heads + row_head) * hd, n % parts * N, half,
                      turn + row_head / heads * half, interleaved);
    }
}

extern "C" __global__ void train_rope(uint16_t *x, int heads, int hd, int rows, const int32_t *pos,
                                      const float *inv_freq, int interleaved)
{
    BY_EIGHT(hd / 2, (rope_rows<N>(x, heads, hd, rows, pos, inv_freq, interleaved)));
}

/* h = silu(g) u. grid: n / 8 / 256 or n / 256 */
template <int N>
__device__ static inline void gate(uint16_t *h, const uint16_t *g, const uint16_t *u, size_t n)
{
    const size_t i = thread_of_grid() * N;
    float a[N], b[N];

    if (i >= n)
        return;
    load_n(a, g + i);
    load_n(b, u + i);
#pragma unroll
    for (int k = 0; k < N; k++)
        a[k] = a[k] / (1 + expf(-a[k])) * b[k];
    store_n(h + i, a);
}

extern "C" __global__ void train_gate(uint16_t *h, const uint16_t *g, const uint16_t *u, size_t n)
{
    BY_EIGHT(n, (gate<N>(h, g, u, n)));
}

/* Gradients of h = silu(g) u. grid: n / 8 / 256 or n / 256 */
template <class T, int N>
__device__ static inline void gate_bwd(T *dg, T *du, const T *dh, const T *g, const T *u, size_t n)
{
    const size_t i = thread_of_grid() * N;
    float a[N], b[N], d[N];

    if (i >= n)
        return;
    load_n(a, g + i);
    load_n(b, u + i);
    load_n(d, dh + i);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const float s = 1 / (1 + expf(-a[k]));

        b[k] *= d[k] * s * (1 + a[k] * (1 - s));
        d[k] *= a[k] * s;
    }
    store_n(dg + i, b);
    store_n(du + i, d);
}

template <class T>
__device__ static inline void swiglu_bwd(T *dg, T *du, const T *dh, const T *g, const T *u, size_t n)
{
    BY_EIGHT(n, (gate_bwd<T, N>(dg, du, dh, g, u, n)));
}
BOTH(train_swiglu, swiglu_bwd, (T * dg, T *du, const T *dh, const T *g, const T *u, size_t n),
     (dg, du, dh, g, u, n))

/* nll, and the gradient in z's place where coef is given. grid: rows, 512 threads */
template <class T, int N>
__device__ static inline void entropy_row(float *nll, T *z, const int32_t *label, const float *coef,
                                          int V)
{
    __shared__ float room[WARP];
    const int t = blockIdx.x;
    float max = -INFINITY, sum = 0, v[N];

    const int own = label[t];

    z += (size_t)t * V;
    for (int i = threadIdx.x * N; i < V; i += blockDim.x * N) { /* as if all before it were summed */
        float top = max;

        load_n(v, z + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            top = fmaxf(top, v[k]);
        sum *= top > max ? expf(max - top) : 1;
        max = top;
#pragma unroll
        for (int k = 0; k < N; k++)
            sum += top == -INFINITY ? 0 : expf(v[k] - top);
    }
    const float all = block_all<true>(max, room);

    sum = block_all<false>(max == -INFINITY ? 0 : sum * expf(max - all), room);
    if (threadIdx.x == 0)
        nll[t] = all - get(z + own) + logf(sum);
    if (!coef)
        return;
    __syncthreads(); /* z[own] is read */
    const float c = coef[t], by = c / sum;

    for (int i = threadIdx.x * N; i < V; i += blockDim.x * N) {
        load_n(v, z + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = by * expf(v[k] - all) - (i + k == own ? c : 0);
        store_n(z + i, v);
    }
}

template <class T>
__device__ static inline void entropy(float *nll, T *z, const int32_t *label, const float *coef, int V)
{
    BY_EIGHT(V, (entropy_row<T, N>(nll, z, label, coef, V)));
}
BOTH(train_entropy, entropy, (float *nll, T *z, const int32_t *label, const float *coef, int V),
     (nll, z, label, coef, V))

/* Four values share 64 random bits. grid: n / 4 / 256 */
template <class T>
__device__ static inline void dropout(T *y, const T *x, size_t n, float p, uint64_t seed, int add)
{
    const size_t u = thread_of_grid();

    if (4 * u >= n)
        return;
    const uint64_t bits = rng_philox(seed, u);

    for (int k = 0; k < 4 && 4 * u + k < n; k++) {
        const size_t i = 4 * u + k;
        const float b = (float)(bits >> 16 * k & 0xffff);

        put(y + i, (add ? get(y + i) : 0) + (b < p * 65536 ? 0 : get(x + i) / (1 - p)));
    }
}
BOTH(train_dropout, dropout, (T * y, const T *x, size_t n, float p, uint64_t seed, int add),
     (y, x, n, p, seed, add))

template <class T>
__device__ static inline void noise(T *x, size_t n, uint64_t first, double by, uint64_t seed)
{
    const size_t i = thread_of_grid();

    if (i < n)
        put(x + i, get(x + i) + (float)((2 * ((double)(rng_philox(seed, first + i) >> 11) * 0x1p-53) -
                                         1) *
                                        by));
}
BOTH(train_noise, noise, (T * x, size_t n, uint64_t first, double by, uint64_t seed),
     (x, n, first, by, seed))

/* ---- the optimiser ---- */

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
    for (int k = 0; k < EACH_LANE; k += 4) { /* up with the probability of what is cut off */
        uint64_t bits = rng_philox(p.seed, p.first + (at + k) / 4);

#pragma unroll
        for (int i = 0; i < 4; i++, bits >>= 16)
            to[k + i] = isfinite(w[k + i])
                            ? (uint16_t)((__float_as_uint(w[k + i]) + (uint32_t)(bits & 0xffff)) >> 16)
                            : f32_to_bf16(w[k + i]);
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

/* ---- attention that train_attn.cu does not do: 16 queries by 16 keys at a time, in float32; thread
 * (r, c) = (query, key) ---- */

enum { TILE = 16, HEAD = TRAIN_HEAD, EACH = HEAD / TILE };

typedef float tile_rows[TILE][HEAD + 1];

/* Tile number i of all sequences: its sequence's rows t0 .. t0 + len, of which it is `at` .. at + 16.
 */
__device__ static inline bool find_tile(const train_attn_args &a, int i, int *t0, int *len, int *at)
{
    for (int s = 0; s < a.n_seq; s++) {
        const int n = a.cu[s + 1] - a.cu[s], tiles = (n + TILE - 1) / TILE;

        if (i < tiles) {
            *t0 = a.cu[s];
            *len = n;
            *at = i * TILE;
            return true;
        }
        i -= tiles;
    }
    return false;
}

/* n rows of head h from t on, zeros after them. */
template <class T>
__device__ static inline void load(tile_rows to, const void *from, int t, int n, int heads, int h,
                                   int hd)
{
    const T *p = (const T *)from;

    for (int i = threadIdx.x; i < TILE * hd; i += TILE * TILE) {
        const int r = i / hd, d = i % hd;

        to[r][d] = r < n ? get(p + ((size_t)(t + r) * heads + h) * hd + d) : 0;
    }
}

__device__ static inline float dot(const float *a, const float *b, int n)
{
    float s = 0;

    for (int d = 0; d < n; d++)
        s = fmaf(a[d], b[d], s);
    return s;
}

/* Over the 16 threads of a row, which are half a warp. */
template <bool MAX> __device__ static inline float row_all(float v)
{
    for (int d = TILE / 2; d; d /= 2) {
        const float o = __shfl_xor_sync(~0u, v, d);

        v = MAX ? fmaxf(v, o) : v + o;
    }
    return v;
}

/* grid: (tiles, H), 256 threads */
template <class T> __device__ static inline void attn(const train_attn_args &a)
{
    __shared__ tile_rows q, k, v;
    __shared__ float p[TILE][TILE + 1];
    const int r = threadIdx.x / TILE, c = threadIdx.x % TILE, h = blockIdx.y, kh = h / (a.H / a.K);
    int t0, len, at;
    float o[EACH] = { 0 }, max = -INFINITY, sum = 0;

    if (!find_tile(a, blockIdx.x, &t0, &len, &at))
        return;
    const int n = min(TILE, len - at);

    load<T>(q, a.q, t0 + at, n, a.H, h, a.hd);
    for (int j = 0; j < at + n; j += TILE) {
        __syncthreads();
        load<T>(k, a.k, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        load<T>(v, a.v, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        __syncthreads();
        const bool live = r < n && j + c <= at + r;
        const float s = live ? dot(q[r], k[c], a.hd) * a.scale : -INFINITY;
        const float top = fmaxf(max, row_all<true>(s)), e = live ? expf(s - top) : 0;
        const float keep = max == -INFINITY ? 0 : expf(max - top);

        sum = sum * keep + row_all<false>(e);
        max = top;
        p[r][c] = e;
        __syncthreads();
#pragma unroll
        for (int m = 0; m < EACH; m++) {
            const int d = c + m * TILE;

            if (d >= a.hd)
                break;
            o[m] *= keep;
            for (int i = 0; i < TILE; i++)
                o[m] = fmaf(p[r][i], v[i][d], o[m]);
        }
    }
    if (r >= n)
        return;
    const size_t row = (size_t)(t0 + at + r) * a.H + h;

#pragma unroll
    for (int m = 0; m < EACH; m++)
        if (c + m * TILE < a.hd)
            put((T *)a.o + row * a.hd + c + m * TILE, o[m] / sum);
    if (c == 0)
        a.lse[row] = max + logf(sum);
}
BOTH(train_attn, attn, (const __grid_constant__ train_attn_args a), (a))

/* What a row's probabilities give times their gradients: dy . o, by row and head. A warp has one.
 * grid: T H / 8, 256 threads */
template <class T>
__device__ static inline void attn_dot(float *dots, const T *dy, const T *o, size_t n, int hd)
{
    const size_t i = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    float s = 0;

    if (i >= n)
        return;
    for (int d = threadIdx.x % WARP; d < hd; d += WARP)
        s += get(dy + i * hd + d) * get(o + i * hd + d);
    s = warp_sum(s);
    if (threadIdx.x % WARP == 0)
        dots[i] = s;
}
BOTH(train_attn_dot, attn_dot, (float *dots, const T *dy, const T *o, size_t n, int hd),
     (dots, dy, o, n, hd))

/* grid: (tiles of queries, H), 256 threads */
template <class T> __device__ static inline void attn_dq(const train_attn_args &a)
{
    __shared__ tile_rows q, dy, k, v;
    __shared__ float ds[TILE][TILE + 1];
    const int r = threadIdx.x / TILE, c = threadIdx.x % TILE, h = blockIdx.y, kh = h / (a.H / a.K);
    int t0, len, at;
    float dq[EACH] = { 0 };

    if (!find_tile(a, blockIdx.x, &t0, &len, &at))
        return;
    const int n = min(TILE, len - at);
    const size_t row = (size_t)(t0 + at + r) * a.H + h;
    const float lse = r < n ? a.lse[row] : 0, less = r < n ? a.dots[row] : 0;

    load<T>(q, a.q, t0 + at, n, a.H, h, a.hd);
    load<T>(dy, a.dy, t0 + at, n, a.H, h, a.hd);
    for (int j = 0; j < at + n; j += TILE) {
        __syncthreads();
        load<T>(k, a.k, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        load<T>(v, a.v, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        __syncthreads();
        const bool live = r < n && j + c <= at + r;
        const float e = live ? expf(dot(q[r], k[c], a.hd) * a.scale - lse) : 0;

        ds[r][c] = e * (dot(dy[r], v[c], a.hd) - less) * a.scale;
        __syncthreads();
#pragma unroll
        for (int m = 0; m < EACH; m++) {
            const int d = c + m * TILE;

            if (d >= a.hd)
                break;
            for (int i = 0; i < TILE; i++)
                dq[m] = fmaf(ds[r][i], k[i][d], dq[m]);
        }
    }
#pragma unroll
    for (int m = 0; m < EACH; m++)
        if (r < n && c + m * TILE < a.hd)
            put((T *)a.dq + row * a.hd + c + m * TILE, dq[m]);
}
BOTH(train_attn_dq, attn_dq, (const __grid_constant__ train_attn_args a), (a))

/* Of one kv head: its query heads one after the other, their tiles in order. Sums belong to thread
 * (key, column). grid: (tiles of keys, K), 256 threads */
template <class T> __device__ static inline void attn_dkv(const train_attn_args &a)
{
    __shared__ tile_rows q, dy, k, v;
    __shared__ float p[TILE][TILE + 1], ds[TILE][TILE + 1];
    const int r = threadIdx.x / TILE, c = threadIdx.x % TILE, kh = blockIdx.y, group = a.H / a.K;
    int t0, len, at;
    float dk[EACH] = { 0 }, dv[EACH] = { 0 };

    if (!find_tile(a, blockIdx.x, &t0, &len, &at))
        return;
    const int n = min(TILE, len - at);

    load<T>(k, a.k, t0 + at, n, a.K, kh, a.hd);
    load<T>(v, a.v, t0 + at, n, a.K, kh, a.hd);
    for (int h = kh * group; h < (kh + 1) * group; h++)
        for (int i = at; i < len; i += TILE) {
            const int rows = min(TILE, len - i);
            const bool live = r < rows && c < n && at + c <= i + r;
            const size_t row = (size_t)(t0 + i + r) * a.H + h;

            __syncthreads();
            load<T>(q, a.q, t0 + i, rows, a.H, h, a.hd);
            load<T>(dy, a.dy, t0 + i, rows, a.H, h, a.hd);
            __syncthreads();
            const float e = live ? expf(dot(q[r], k[c], a.hd) * a.scale - a.lse[row]) : 0;
            const float less = live ? a.dots[row] : 0;

            p[r][c] = e;
            ds[r][c] = e * (dot(dy[r], v[c], a.hd) - less) * a.scale;
            __syncthreads();
#pragma unroll
            for (int m = 0; m < EACH; m++) {
                const int d = c + m * TILE;

                if (d >= a.hd)
                    break;
                for (int x = 0; x < TILE; x++) {
                    dk[m] = fmaf(ds[x][r], q[x][d], dk[m]);
                    dv[m] = fmaf(p[x][r], dy[x][d], dv[m]);
                }
            }
        }
#pragma unroll
    for (int m = 0; m < EACH; m++)
        if (r < n && c + m * TILE < a.hd) {
            const size_t to = ((size_t)(t0 + at + r) * a.K + kh) * a.hd + c + m * TILE;

            put((T *)a.dk + to, dk[m]);
            put((T *)a.dv + to, dv[m]);
        }
}
BOTH(train_attn_dkv, attn_dkv, (const __grid_constant__ train_attn_args a), (a))
