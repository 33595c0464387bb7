/* small.cu - everything that is neither a product nor attention: one formula of ops.def each. */
#include "backend/cuda/unit.cuh"

enum { KV_BLOCK = 64, WARP = 32 };

/* Once in a kernel: the room is not given free. */
__device__ static float block_sum(float v)
{
    __shared__ float part[WARP];
    const int lane = threadIdx.x % WARP;

    for (int d = WARP / 2; d; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    if (lane == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    v = lane < blockDim.x / WARP ? part[lane] : 0;
    for (int d = WARP / 2; d; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* A column of an input in 16 bits, if the next product is likely to want it; zeros up to kp. */
struct copy16 {
    uint16_t *p; /* [T][kp]; NULL = not wanted */
    int mode, kp;
};

__device__ static void put16(const copy16 &c, int t, int i, float f)
{
    if (c.p)
        c.p[(size_t)t * c.kp + i] = to16(f, c.mode);
}

/* grid: rows */
extern "C" __global__ void embed(float *y, dev_weight w, const int32_t *ids)
{
    const size_t t = blockIdx.x, r = ids[t];

    for (int u = threadIdx.x; u * UNIT < w.cols; u += blockDim.x) {
        float v[UNIT];

        unit_decode(v, w, r, u);
#pragma unroll
        for (int k = 0; k < UNIT; k++)
            if (u * UNIT + k < w.cols)
                y[t * w.cols + u * UNIT + k] = v[k];
    }
}

extern "C" __global__ void gather(float *y, const float *x, const int32_t *rows, int D)
{
    const size_t from = (size_t)rows[blockIdx.x] * D, to = (size_t)blockIdx.x * D;

    for (int i = threadIdx.x; i < D; i += blockDim.x)
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

    x += (size_t)t * D;
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
            y[i] = kept[k] * r;
            put16(c, t, i, kept[k] * r);
        }
    }
    for (int i = first + KEPT * step; i < D; i += step) {
        const float v = x[i] * w[i] * r;

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

    if (i < F) {
        const float v = g[at] / (1 + expf(-g[at])) * u[at];

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

    if (h >= heads)
        return;
    float *v = x + ((size_t)blockIdx.y * heads + h) * hd, s, c;
    const int a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
    const float va = v[a], vb = v[b];

    sincosf((float)pos[blockIdx.y] * inv_freq[i], &s, &c);
    v[a] = va * c - vb * s;
    v[b] = vb * c + va * s;
}

/* grid: (columns, rows) */
extern "C" __global__ void kv_write(const float *k, const float *v, uint8_t *kc, uint8_t *vc,
                                    int enc, int K, int hd, const int32_t *slot,
                                    const int32_t *seq, const int32_t *const *table)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y, h = i / hd;

    if (h >= K)
        return;
    const int s = slot[t];
    const size_t block = table[seq[t]][s / KV_BLOCK];
    const size_t to = ((block * K + h) * KV_BLOCK + s % KV_BLOCK) * hd + i % hd;
    const size_t from = (size_t)t * K * hd + i;

    if (enc == DEV_ENC_F32) {
        ((float *)kc)[to] = k[from];
        ((float *)vc)[to] = v[from];
    } else if (enc == DEV_ENC_BF16) {
        ((uint16_t *)kc)[to] = f32_to_bf16(k[from]);
        ((uint16_t *)vc)[to] = f32_to_bf16(v[from]);
    } else {
        ((uint16_t *)kc)[to] = f32_to_f16(k[from]);
        ((uint16_t *)vc)[to] = f32_to_f16(v[from]);
    }
}

/* What a checkpoint's own library makes of inputs (format/enc/act.h). grid: (groups, rows) */
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
        const float v = act_round(a.act, a.bound, s, x[i]);

        y[i] = a.bf16 ? bf16_to_f32(f32_to_bf16(v)) : v;
    }
}

/* Inputs of a product in 16 bits, padded with zeros to kp, and their sums by 32. grid: (kp / 128,
 * rows), 128 threads */
extern "C" __global__ void prep(uint16_t *y, float *sums, const float *x, int cols, int kp,
                                const int32_t *order, int mode)
{
    const int k = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    const float v = k < cols ? x[(size_t)t * cols + (order ? order[k] : k)] : 0;
    const uint16_t h = to16(v, mode);
    /* what the product sees, so that a minimum and its codes cancel as they should */
    float s = mode == PREP_BF16 ? bf16_to_f32(h) : f16_to_f32(h);

    y[(size_t)t * kp + k] = h;
    if (!sums)
        return;
    for (int d = WARP / 2; d; d /= 2)
        s += __shfl_xor_sync(~0u, s, d);
    if (threadIdx.x % WARP == 0)
        sums[((size_t)t * kp + k) / WARP] = s;
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

/* ---- packing, once at load: from the file's layout (w) to the one of `to` ---- */

__device__ static int source_code(const dev_weight &w, size_t r, size_t i)
{
    const uint8_t *row = w.q + r * w.row_bytes;

    switch (w.enc) {
    case DEV_ENC_Q4_0: {
        const q4_0 *b = (const q4_0 *)row + i / 32;

        return b->qs[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
    }
    case DEV_ENC_Q4_1: {
        const q4_1 *b = (const q4_1 *)row + i / 32;

        return b->qs[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15;
    }
    case DEV_ENC_Q4_K: {
        const q4_k *b = (const q4_k *)row + i / 256;
        const int j = i % 256 / 32;

        return b->qs[32 * (j / 2) + i % 32] >> 4 * (j & 1) & 15;
    }
    case DEV_ENC_Q8_0: {
        const q8_0 *b = (const q8_0 *)row + i / 32;

        return b->q[i % 32] + 128;
    }
    case DEV_ENC_INT8:
        return (int8_t)row[i] + 128;
    case DEV_ENC_F8:
        return row[i];
    default:
        return raw_code(w, r, i);
    }
}

/* Eight neighbouring columns of a row. */
__device__ static void pack_eight(uint8_t *out, const dev_weight &w, const dev_weight &to, size_t r,
                                  size_t k8)
{
    uint32_t word = 0;

    for (int e = 0; e < 8; e++) {
        const size_t k = k8 * 8 + e;
        int q = to.kind == DEV_F8 ? 0 : to.zero || to.pair ? 0 : to.zero_const;

        if (k < w.cols)
            q = source_code(w, r, to.order ? to.order[k] : k);
        if (to.kind == DEV_U4)
            word |= (uint32_t)q << 4 * (e / 2 + 4 * (e % 2));
        else
            out[packed8_at(to, r, k)] = (uint8_t)q;
    }
    if (to.kind == DEV_U4)
        ((uint32_t *)out)[packed4_word(to, r, k8 * 8)] = word;
}

/* grid: (kp / 8 / 128, rows or as many as a grid has) */
extern "C" __global__ void pack_codes(uint8_t *out, dev_weight w, dev_weight to)
{
    const size_t k8 = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (size_t r = blockIdx.y; k8 * 8 < to.kp && r < to.rows; r += gridDim.y)
        pack_eight(out, w, to, r, k8);
}

/* Scale, minimum and zero point of group g of the rows r. */
__device__ static void pack_group(uint8_t *scales, uint8_t *zeros, int scale_bytes,
                                  const dev_weight &w, const dev_weight &to, size_t r, size_t g)
{
    const size_t at = r * to.n_groups + g;

    if (g >= w.n_groups) { /* of the padding */
        for (int i = 0; i < scale_bytes; i++)
            scales[at * scale_bytes + i] = 0;
        if (zeros)
            zeros[at] = 0;
        return;
    }
    const uint8_t *row = w.q + r * w.row_bytes;
    uint16_t *out = (uint16_t *)scales;

    switch (w.enc) {
    case DEV_ENC_Q4_0:
        out[at] = enc_load16(((const q4_0 *)row + g)->d);
        return;
    case DEV_ENC_Q8_0:
        out[at] = enc_load16(((const q8_0 *)row + g)->d);
        return;
    case DEV_ENC_Q4_1:
        out[2 * at] = enc_load16(((const q4_1 *)row + g)->d);
        out[2 * at + 1] = enc_load16(((const q4_1 *)row + g)->m);
        return;
    case DEV_ENC_Q4_K: {
        const q4_k *b = (const q4_k *)row + g / 8;
        unsigned s, m;

        k_scales_get(b->sc, g % 8, &s, &m);
        out[2 * at] = f32_to_f16(f16_to_f32(enc_load16(b->d)) * (float)s);
        out[2 * at + 1] = f32_to_f16(-f16_to_f32(enc_load16(b->dmin)) * (float)m);
        return;
    }
    }
    const size_t from =
        w.enc == DEV_ENC_F8 || w.enc == DEV_ENC_INT8 ? r * w.n_groups + g : raw_scale_index(w, r, g);

    if (w.scale_enc == DEV_ENC_F32)
        ((uint32_t *)scales)[at] = enc_load32(w.scale + 4 * from);
    else
        out[at] = enc_load16(w.scale + 2 * from);
    if (zeros)
        zeros[at] = (uint8_t)raw_zero(w, r, g);
}

/* grid: (groups / 128, rows / row_group or as many as a grid has) */
extern "C" __global__ void pack_scales(uint8_t *scales, uint8_t *zeros, int scale_bytes, dev_weight w,
                                       dev_weight to)
{
    const size_t g = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (size_t r = blockIdx.y; g < to.n_groups && r * to.row_group < to.rows; r += gridDim.y)
        pack_group(scales, zeros, scale_bytes, w, to, r, g);
}

/* bf16 and f16 rows to a stride of kp. grid: (kp / 128, rows or as many as a grid has) */
extern "C" __global__ void pack_pad(uint16_t *out, dev_weight w, int kp)
{
    const size_t k = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (size_t r = blockIdx.y; k < kp && r < w.rows; r += gridDim.y)
        out[r * kp + k] = k < w.cols ? enc_load16(w.q + r * w.row_bytes + 2 * k) : 0;
}

/* Eight bytes at a time for memory bandwidth: the yardstick of bench. */
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
