/* train.cu - training (ops/train.def): gradients, and attention over rows that lie end to end. Every sum has one owner and one order: no atomics, the same bits each time.
 *
 * Activations are float32 or bf16: a kernel of both is a template, NAME_f32 and NAME_b16. */
#include "backend/cuda/block.cuh"
#include "backend/cuda/mma.cuh"
#include "backend/cuda/train_act.cuh"
#include "backend/cuda/train_dev.h"
#include "backend/cuda/unit.cuh"
#include "base/rng.h"
#include "format/enc/act.h"

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
    max = block_max(max);
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

/* y[t, k] = w[k, ids[t]]. grid: rows r / 256 */
template <class T>
__device__ static inline void columns(T *y, const float *w, const int32_t *ids, int rows, int r, size_t V)
{
    const size_t i = thread_of_grid();

    if (i < (size_t)rows * r)
        put(y + i, w[i % r * V + ids[i / r]]);
}
BOTH(train_columns, columns, (T * y, const float *w, const int32_t *ids, int rows, int r, size_t V),
     (y, w, ids, rows, r, V))

/* dw[ids[t] rs + i cs] += dy[t, i]: the first row of an id owns all of them, in the order of t. grid:
 * rows, 256 threads */
template <class T, int N>
__device__ static inline void embed_rows(float *dw, size_t rs, size_t cs, const T *dy,
                                         const int32_t *ids, int rows, int D)
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

                    load_n(a, dw + (size_t)id * rs + i * cs);
                    load_n(b, from + i);
#pragma unroll
                    for (int e = 0; e < N; e++)
                        a[e] += b[e];
                    store_n(dw + (size_t)id * rs + i * cs, a);
                }
            }
    }
}

template <class T>
__device__ static inline void embed_bwd(float *dw, size_t rs, size_t cs, const T *dy,
                                        const int32_t *ids, int rows, int D)
{
    BY_EIGHT(cs == 1 ? D : 1, (embed_rows<T, N>(dw, rs, cs, dy, ids, rows, D)));
}
BOTH(train_embed, embed_bwd,
     (float *dw, size_t rs, size_t cs, const T *dy, const int32_t *ids, int rows, int D),
     (dw, rs, cs, dy, ids, rows, D))

/* y = x / sqrt(mean(x^2) + eps) w. grid: rows */
template <int N>
__device__ static inline void norm_fwd(uint16_t *y, const uint16_t *x, const float *w, int D, float eps)
{
    const size_t at = (size_t)blockIdx.x * D;
    float xx = 0, v[N], u[N];

    for (int i = threadIdx.x * N; i < D; i += blockDim.x * N) {
        load_n(v, x + at + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            xx += v[k] * v[k];
    }
    const float r = 1 / sqrtf(block_sum(xx) / (float)D + eps);

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
    xx = block_sum(xx);
    dx_x = block_sum(dx_x);
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
                                          float smooth, int dft, int V)
{
    const int t = blockIdx.x;
    float max = -INFINITY, sum = 0, total = 0, v[N];

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
        for (int k = 0; k < N; k++) {
            sum += top == -INFINITY ? 0 : expf(v[k] - top);
            total += v[k];
        }
    }
    const float all = block_max(max);

    sum = block_sum(max == -INFINITY ? 0 : sum * expf(max - all));
    const float mine = get(z + own), loss = all - mine + logf(sum);

    if (!coef) {
        if (threadIdx.x == 0)
            nll[t] = loss;
        return;
    }
    const float p = dft ? expf(-loss) : 1, c = coef[t] * p, by = c / sum;
    const float each = c * smooth / (float)V;

    if (smooth > 0)
        total = block_sum(total);
    if (threadIdx.x == 0)
        nll[t] = p * (loss + (smooth > 0 ? smooth * (mine - total / (float)V) : 0));
    __syncthreads(); /* z[own] is read */

    for (int i = threadIdx.x * N; i < V; i += blockDim.x * N) {
        load_n(v, z + i);
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = by * expf(v[k] - all) - each - (i + k == own ? c * (1 - smooth) : 0);
        store_n(z + i, v);
    }
}

template <class T>
__device__ static inline void entropy(float *nll, T *z, const int32_t *label, const float *coef,
                                      float smooth, int dft, int V)
{
    BY_EIGHT(V, (entropy_row<T, N>(nll, z, label, coef, smooth, dft, V)));
}
BOTH(train_entropy, entropy,
     (float *nll, T *z, const int32_t *label, const float *coef, float smooth, int dft, int V),
     (nll, z, label, coef, smooth, dft, V))

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
