/* train.cu - training (ops/train.def): gradients, the optimiser, and attention over rows that lie end
 * to end. Every sum has one owner and one order: no atomics, the same bits each time. */
#include "backend/cuda/train_dev.h"
#include "backend/cuda/unit.cuh"
#include "base/rng.h"

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

/* c[M, N], ldc apart, = or += by a b, where cuBLASLt cannot: tiles of 32 x 32. Operands are bf16 where
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

        if (i < a.M && j < a.N) {
            float *c = a.c + i * a.ldc + j;

            *c = sum[e] * a.by + (a.add ? *c : 0);
        }
    }
}

/* ---- rows ---- */

/* y[rows[i]] = x[i]. grid: (D / 256, rows) */
extern "C" __global__ void train_scatter(float *y, const float *x, const int32_t *rows, int D)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < D)
        y[(size_t)rows[blockIdx.y] * D + i] = x[(size_t)blockIdx.y * D + i];
}

/* dw[ids[t]] += dy[t]: the first row of an id owns all of them, in the order of t. grid: rows, 256
 * threads */
extern "C" __global__ void train_embed(float *dw, const float *dy, const int32_t *ids, int T, int D)
{
    enum { N = 256 };
    __shared__ int same[N];
    const int t = blockIdx.x;
    int before = 0;

    const int32_t id = ids[t];

    for (int j = threadIdx.x; j < t; j += N)
        before |= ids[j] == id;
    if (__syncthreads_or(before))
        return;
    for (int j = t; j < T; j += N) {
        const int n = min(N, T - j);

        __syncthreads();
        if (threadIdx.x < n)
            same[threadIdx.x] = ids[j + threadIdx.x] == id;
        __syncthreads();
        for (int k = 0; k < n; k++) {
            if (!same[k])
                continue;
            for (int i = threadIdx.x; i < D; i += N)
                dw[(size_t)id * D + i] += dy[(size_t)(j + k) * D + i];
        }
    }
}

/* dx += r (dy w - x r^2 / D sum(dy w x)), and r. grid: rows */
extern "C" __global__ void train_norm(float *dx, float *r_out, const float *dy, const float *x,
                                      const float *w, int D, float eps)
{
    __shared__ float room[WARP];
    const size_t at = (size_t)blockIdx.x * D;
    float xx = 0, dx_x = 0;

    for (int i = threadIdx.x; i < D; i += blockDim.x) {
        const float v = x[at + i];

        xx += v * v;
        dx_x += dy[at + i] * w[i] * v;
    }
    xx = block_all<false>(xx, room);
    dx_x = block_all<false>(dx_x, room);
    const float r = 1 / sqrtf(xx / (float)D + eps), by = r * r * r / (float)D * dx_x;

    for (int i = threadIdx.x; i < D; i += blockDim.x)
        dx[at + i] += r * (dy[at + i] * w[i]) - by * x[at + i];
    if (threadIdx.x == 0)
        r_out[blockIdx.x] = r;
}

/* part[chunk][i] = sum of dy x r over `per` rows. grid: (columns / 128, chunks), 128 threads */
extern "C" __global__ void train_norm_w(float *part, const float *dy, const float *x, const float *r,
                                        int T, int D, int per)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, t0 = blockIdx.y * per;
    float s = 0;

    if (i >= D)
        return;
    for (int t = t0; t < min(t0 + per, T); t++)
        s += dy[(size_t)t * D + i] * x[(size_t)t * D + i] * r[t];
    part[(size_t)blockIdx.y * D + i] = s;
}

/* y[i] += the sum of n rows. grid: columns / 128 */
extern "C" __global__ void train_add_rows(float *y, const float *part, int n, int D)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float s = 0;

    if (i >= D)
        return;
    for (int k = 0; k < n; k++)
        s += part[(size_t)k * D + i];
    y[i] += s;
}

/* h = silu(g) u. */
extern "C" __global__ void train_swiglu(float *dg, float *du, const float *dh, const float *g,
                                        const float *u, size_t n)
{
    const size_t i = thread_of_grid();

    if (i >= n)
        return;
    const float a = g[i], b = u[i], d = dh[i], s = 1 / (1 + expf(-a));

    dg[i] = d * b * s * (1 + a * (1 - s));
    du[i] = d * a * s;
}

/* nll, and the gradient in z's place where coef is given. grid: rows, 512 threads */
extern "C" __global__ void train_entropy(float *nll, float *z, const int32_t *label,
                                         const float *coef, int V)
{
    __shared__ float room[WARP];
    const int t = blockIdx.x;
    float max = -INFINITY, sum = 0;

    const int own = label[t];

    z += (size_t)t * V;
    for (int i = threadIdx.x; i < V; i += blockDim.x)
        max = fmaxf(max, z[i]);
    max = block_all<true>(max, room);
    for (int i = threadIdx.x; i < V; i += blockDim.x)
        sum += expf(z[i] - max);
    sum = block_all<false>(sum, room);
    if (threadIdx.x == 0)
        nll[t] = max - z[own] + logf(sum);
    if (!coef)
        return;
    __syncthreads(); /* z[own] is read */
    const float c = coef[t];

    for (int i = threadIdx.x; i < V; i += blockDim.x)
        z[i] = c * (expf(z[i] - max) / sum - (i == own ? 1.0f : 0.0f));
}

/* Four values share 64 random bits. grid: n / 4 / 256 */
extern "C" __global__ void train_dropout(float *y, const float *x, size_t n, float p, uint64_t seed,
                                         int add)
{
    const size_t u = thread_of_grid();

    if (4 * u >= n)
        return;
    const uint64_t bits = rng_philox(seed, u);

    for (int k = 0; k < 4 && 4 * u + k < n; k++) {
        const size_t i = 4 * u + k;
        const float b = (float)(bits >> 16 * k & 0xffff);

        y[i] = (add ? y[i] : 0) + (b < p * 65536 ? 0 : x[i] / (1 - p));
    }
}

extern "C" __global__ void train_noise(float *x, size_t n, uint64_t first, double by, uint64_t seed)
{
    const size_t i = thread_of_grid();

    if (i < n)
        x[i] += (float)((2 * ((double)(rng_philox(seed, first + i) >> 11) * 0x1p-53) - 1) * by);
}

/* ---- the optimiser ---- */

extern "C" __global__ void train_adamw(float *w, float *m, float *v, const float *g, size_t n,
                                       const __grid_constant__ train_adamw_args a)
{
    const size_t i = thread_of_grid();

    if (i >= n)
        return;
    const float x = g[i] * a.clip, mi = a.beta1 * m[i] + a.rest1 * x,
                vi = a.beta2 * v[i] + a.rest2 * x * x;

    m[i] = mi;
    v[i] = vi;
    w[i] = w[i] * a.keep - a.lr * mi / (sqrtf(vi * a.grow2) + a.eps);
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

/* part[block] = sum of the squares of `per` values. 256 threads */
extern "C" __global__ void train_squares(double *part, const float *x, size_t n, int per)
{
    const size_t from = (size_t)blockIdx.x * per, to = from + per < n ? from + per : n;
    double s = 0;

    for (size_t i = from + threadIdx.x; i < to; i += SQUARES)
        s += (double)x[i] * (double)x[i];
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

/* ---- attention: 16 queries by 16 keys at a time, float32; thread (r, c) = (query, key) ---- */

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
__device__ static inline void load(tile_rows to, const float *p, int t, int n, int heads, int h,
                                   int hd)
{
    for (int i = threadIdx.x; i < TILE * hd; i += TILE * TILE) {
        const int r = i / hd, d = i % hd;

        to[r][d] = r < n ? p[((size_t)(t + r) * heads + h) * hd + d] : 0;
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
extern "C" __global__ void train_attn(const __grid_constant__ train_attn_args a)
{
    __shared__ tile_rows q, k, v;
    __shared__ float p[TILE][TILE + 1];
    const int r = threadIdx.x / TILE, c = threadIdx.x % TILE, h = blockIdx.y, kh = h / (a.H / a.K);
    int t0, len, at;
    float o[EACH] = { 0 }, max = -INFINITY, sum = 0;

    if (!find_tile(a, blockIdx.x, &t0, &len, &at))
        return;
    const int n = min(TILE, len - at);

    load(q, a.q, t0 + at, n, a.H, h, a.hd);
    for (int j = 0; j < at + n; j += TILE) {
        __syncthreads();
        load(k, a.k, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        load(v, a.v, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
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
            a.o[row * a.hd + c + m * TILE] = o[m] / sum;
    if (c == 0)
        a.lse[row] = max + logf(sum);
}

/* What a row's probabilities give times their gradients: dy . o, by row and head. A warp has one.
 * grid: T H / 8, 256 threads */
extern "C" __global__ void train_attn_dot(float *dots, const float *dy, const float *o, size_t n,
                                          int hd)
{
    const size_t i = (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    float s = 0;

    if (i >= n)
        return;
    for (int d = threadIdx.x % WARP; d < hd; d += WARP)
        s += dy[i * hd + d] * o[i * hd + d];
    s = warp_sum(s);
    if (threadIdx.x % WARP == 0)
        dots[i] = s;
}

/* grid: (tiles of queries, H), 256 threads */
extern "C" __global__ void train_attn_dq(const __grid_constant__ train_attn_args a)
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

    load(q, a.q, t0 + at, n, a.H, h, a.hd);
    load(dy, a.dy, t0 + at, n, a.H, h, a.hd);
    for (int j = 0; j < at + n; j += TILE) {
        __syncthreads();
        load(k, a.k, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
        load(v, a.v, t0 + j, min(TILE, len - j), a.K, kh, a.hd);
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
            a.dq[row * a.hd + c + m * TILE] = dq[m];
}

/* Of one kv head: its query heads one after the other, their tiles in order. Sums belong to thread
 * (key, column). grid: (tiles of keys, K), 256 threads */
extern "C" __global__ void train_attn_dkv(const __grid_constant__ train_attn_args a)
{
    __shared__ tile_rows q, dy, k, v;
    __shared__ float p[TILE][TILE + 1], ds[TILE][TILE + 1];
    const int r = threadIdx.x / TILE, c = threadIdx.x % TILE, kh = blockIdx.y, group = a.H / a.K;
    int t0, len, at;
    float dk[EACH] = { 0 }, dv[EACH] = { 0 };

    if (!find_tile(a, blockIdx.x, &t0, &len, &at))
        return;
    const int n = min(TILE, len - at);

    load(k, a.k, t0 + at, n, a.K, kh, a.hd);
    load(v, a.v, t0 + at, n, a.K, kh, a.hd);
    for (int h = kh * group; h < (kh + 1) * group; h++)
        for (int i = at; i < len; i += TILE) {
            const int rows = min(TILE, len - i);
            const bool live = r < rows && c < n && at + c <= i + r;
            const size_t row = (size_t)(t0 + i + r) * a.H + h;

            __syncthreads();
            load(q, a.q, t0 + i, rows, a.H, h, a.hd);
            load(dy, a.dy, t0 + i, rows, a.H, h, a.hd);
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

            a.dk[to] = dk[m];
            a.dv[to] = dv[m];
        }
}
