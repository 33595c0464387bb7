/* linear.cu - y = x W^T in float32 throughout, any encoding, any shape; a warp has a row of W. For
 * --dtype f32 and for what has no packed layout; the fast ways are programs and cuBLASLt. */
#include "backend/cuda/unit.cuh"

enum { WARPS = 8, FMA_ROWS = 4 };

/* grid: (rows / 8, ceil(T / 4)), 256 threads */
extern "C" __global__ void product(float *y, dev_weight w, const float *x, int T, int add)
{
    const int lane = threadIdx.x % WARP, t0 = blockIdx.y * FMA_ROWS;
    const size_t r = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    float sum[FMA_ROWS] = { 0 };

    if (r >= w.rows)
        return;
    for (int u = lane; u * UNIT < w.cols; u += WARP) {
        float v[UNIT];

        unit_decode(v, w, r, u);
        const int n = min(UNIT, w.cols - u * UNIT);

        for (int k = 0; k < n; k++) {
            const int i = w.order ? w.order[u * UNIT + k] : u * UNIT + k;

#pragma unroll
            for (int t = 0; t < FMA_ROWS; t++)
                if (t0 + t < T)
                    sum[t] = fmaf(v[k], x[(size_t)(t0 + t) * w.cols + i], sum[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < FMA_ROWS; t++) {
        for (int d = WARP / 2; d; d /= 2)
            sum[t] += __shfl_xor_sync(~0u, sum[t], d);
        if (lane == 0 && t0 + t < T) {
            float *to = y + (size_t)(t0 + t) * w.rows + r;

            *to = sum[t] + (add ? *to : 0);
        }
    }
}
