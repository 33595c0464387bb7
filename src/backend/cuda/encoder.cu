/* encoder.cu - the ops of encoders (ops.def), in float32 throughout. */
#include "backend/cuda/block.cuh"

/* grid: (columns, rows) */
extern "C" __global__ void bias(float *y, const float *b, int D)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < D)
        y[(size_t)blockIdx.y * D + i] += b[i];
}

/* grid: (columns, rows) */
extern "C" __global__ void gelu(float *x, int D)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const size_t at = (size_t)blockIdx.y * D + i;

    if (i < D)
        x[at] = 0.5f * x[at] * erfcf(-x[at] * 0.70710678f);
}

/* grid: rows */
extern "C" __global__ void layernorm(float *y, const float *x, const float *w, const float *b,
                                     int D, float eps)
{
    float s = 0, square = 0;

    x += (size_t)blockIdx.x * D;
    y += (size_t)blockIdx.x * D;
    for (int i = threadIdx.x; i < D; i += blockDim.x)
        s += x[i];
    const float mean = block_sum(s) / (float)D;

    for (int i = threadIdx.x; i < D; i += blockDim.x)
        square += (x[i] - mean) * (x[i] - mean);
    const float by = 1 / sqrtf(block_sum(square) / (float)D + eps);

    for (int i = threadIdx.x; i < D; i += blockDim.x)
        y[i] = (x[i] - mean) * by * w[i] + b[i];
}

/* A block has `per` queries of a head: their scores with every key in shared memory, the softmax of
 * one in a warp, then the sums over values. The rows of the tables that neighbouring keys want
 * overlap, and stay in the first cache. grid: (rows / per, H), shared: per * (n + hd) floats */
extern "C" __global__ void attn_rel(rel_args a)
{
    extern __shared__ float room[];
    const int i0 = blockIdx.x * a.per, m = min(a.per, a.rows - i0), lane = threadIdx.x % WARP;
    const size_t D = (size_t)a.H * a.hd, head = (size_t)blockIdx.y * a.hd;
    const float scale = 1 / sqrtf(3 * (float)a.hd);
    float *q = room, *p = room + a.per * a.hd;

    for (int u = threadIdx.x; u < m * a.hd; u += blockDim.x)
        q[u] = a.q[(i0 + u / a.hd) * D + head + u % a.hd];
    __syncthreads();
    for (int j = threadIdx.x; j < a.n; j += blockDim.x) {
        const float *k = a.k + j * D + head;

        for (int r = 0; r < m; r++) {
            const size_t b = a.bucket[i0 + r - j + a.n - 1];
            const float *rq = a.rel_q + b * D + head, *rk = a.rel_k + b * D + head;
            float s = 0;

            for (int d = 0; d < a.hd; d++)
                s = fmaf(q[r * a.hd + d], k[d] + rk[d], fmaf(k[d], rq[d], s));
            p[r * a.n + j] = s * scale;
        }
    }
    __syncthreads();
    for (int r = threadIdx.x / WARP; r < m; r += blockDim.x / WARP) {
        float *row = p + r * a.n, max = -INFINITY, sum = 0;

        for (int j = lane; j < a.n; j += WARP)
            max = fmaxf(max, row[j]);
        for (int d = WARP / 2; d; d /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
        for (int j = lane; j < a.n; j += WARP) {
            row[j] = expf(row[j] - max);
            sum += row[j];
        }
        for (int d = WARP / 2; d; d /= 2)
            sum += __shfl_xor_sync(~0u, sum, d);
        for (int j = lane; j < a.n; j += WARP)
            row[j] /= sum;
    }
    __syncthreads();
    for (int u = threadIdx.x; u < m * a.hd; u += blockDim.x) {
        const float *row = p + u / a.hd * a.n, *v = a.v + head + u % a.hd;
        float s = 0;

        for (int j = 0; j < a.n; j++)
            s = fmaf(row[j], v[j * D], s);
        a.y[(i0 + u / a.hd) * D + head + u % a.hd] = s;
    }
}
