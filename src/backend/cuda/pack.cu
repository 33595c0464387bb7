/* pack.cu - weights into the layouts of dev.h, once at load, and back out of them as bf16 rows, for
 * products that cuBLASLt does. */
#include "backend/cuda/codes.cuh"

/* ---- from the file's layout (w) to the one of `to` ---- */

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
    case DEV_ENC_Q5_0: {
        const q5_0 *b = (const q5_0 *)row + i / 32;

        return (b->qs[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) | (b->qh[i % 32 / 8] >> i % 8 & 1) << 4;
    }
    case DEV_ENC_Q5_1: {
        const q5_1 *b = (const q5_1 *)row + i / 32;

        return (b->qs[i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) | (b->qh[i % 32 / 8] >> i % 8 & 1) << 4;
    }
    case DEV_ENC_Q5_K: {
        const q5_k *b = (const q5_k *)row + i / 256;
        const int j = i % 256 / 32, l = i % 32;

        return (b->qs[32 * (j / 2) + l] >> 4 * (j & 1) & 15) | (b->qh[l] >> j & 1) << 4;
    }
    case DEV_ENC_Q6_K: {
        const q6_k *b = (const q6_k *)row + i / 256;
        const int h = i % 256 / 128, k = i % 128 / 32, l = i % 32;

        return (b->ql[64 * h + 32 * (k & 1) + l] >> 4 * (k >> 1) & 15) |
               (b->qh[32 * h + l] >> 2 * k & 3) << 4;
    }
    case DEV_ENC_Q8_0: {
        const q8_0 *b = (const q8_0 *)row + i / 32;

        return b->q[i % 32] + 128;
    }
    case DEV_ENC_INT8:
        return (int8_t)row[i] + 128;
    case DEV_ENC_NF4:
    case DEV_ENC_FP4:
        return (int)bnb4_code(w.q, r * (size_t)w.cols + i);
    default:
        return raw_code(w, r, i);
    }
}

/* grid: (records * 32 / 128, tiles or as many as a grid has); a thread has a lane's share */
extern "C" __global__ void pack_codes(uint8_t *out, dev_weight w, dev_weight to)
{
    const size_t n_rec = to.kp / record_cols(to.kind), blocks = record_cols(to.kind) / 32;
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, rec = i / 32, lane = i % 32;
    const size_t g = lane / 4, c = lane % 4;

    if (rec >= n_rec)
        return;
    for (size_t tile = blockIdx.y; tile * DEV_TILE < to.rows; tile += gridDim.y)
        for (size_t half = 0; half < 2; half++) {
            const size_t r = tile * DEV_TILE + half * 8 + g;
            uint8_t *p = out + (tile * n_rec + rec) * to.rec;
            uint32_t word[4] = {}, high[2] = {};

            for (size_t j = 0; j < blocks; j++)
                for (size_t e = 0; e < 8; e++) {
                    const size_t m = to.kind == DEV_U6 ? e / 4 * 16 + 4 * c + e % 4 : 8 * c + e;
                    const size_t k = rec * record_cols(to.kind) + 32 * j + m;
                    uint32_t q = to.pair || to.kind == DEV_N4 ? 0 : to.zero_const;

                    if (r < to.rows && k < w.cols)
                        q = source_code(w, r, to.order ? to.order[k] : k);
                    if (to.kind == DEV_U8)
                        word[2 * j + e / 4] |= q << 8 * (e % 4);
                    else if (to.kind == DEV_N4)
                        word[j] |= q << 4 * e;
                    else
                        word[j] |= (q & 15) << 4 * (e / 2 + 4 * (e % 2));
                    if (to.kind == DEV_U6)
                        high[j / 2] |= (q >> 4) << (2 * (e / 2) + 8 * (j % 2) + 16 * (e % 2));
                }
            ((uint4 *)(p + half * 512))[lane] = make_uint4(word[0], word[1], word[2], word[3]);
            if (to.kind == DEV_U6)
                ((uint2 *)(p + 1024))[lane * 2 + half] = make_uint2(high[0], high[1]);
        }
}

/* Scale, second and zero point of the group that packed column k of row r is in. */
__device__ static float source_scale(const dev_weight &w, size_t r, size_t k, float *second,
                                     int *zero)
{
    const uint8_t *row = w.q + r * w.row_bytes;
    unsigned s, m;

    switch (w.enc) {
    case DEV_ENC_Q4_0:
        return f16_to_f32(enc_load16(((const q4_0 *)row + k / 32)->d));
    case DEV_ENC_Q5_0:
        return f16_to_f32(enc_load16(((const q5_0 *)row + k / 32)->d));
    case DEV_ENC_Q8_0:
        return f16_to_f32(enc_load16(((const q8_0 *)row + k / 32)->d));
    case DEV_ENC_Q4_1:
        *second = f16_to_f32(enc_load16(((const q4_1 *)row + k / 32)->m));
        return f16_to_f32(enc_load16(((const q4_1 *)row + k / 32)->d));
    case DEV_ENC_Q5_1:
        *second = f16_to_f32(enc_load16(((const q5_1 *)row + k / 32)->m));
        return f16_to_f32(enc_load16(((const q5_1 *)row + k / 32)->d));
    case DEV_ENC_Q4_K: {
        const q4_k *b = (const q4_k *)row + k / 256;

        k_scales_get(b->sc, k % 256 / 32, &s, &m);
        *second = -f16_to_f32(enc_load16(b->dmin)) * (float)m;
        return f16_to_f32(enc_load16(b->d)) * (float)s;
    }
    case DEV_ENC_Q5_K: {
        const q5_k *b = (const q5_k *)row + k / 256;

        k_scales_get(b->sc, k % 256 / 32, &s, &m);
        *second = -f16_to_f32(enc_load16(b->dmin)) * (float)m;
        return f16_to_f32(enc_load16(b->d)) * (float)s;
    }
    case DEV_ENC_Q6_K: {
        const q6_k *b = (const q6_k *)row + k / 256;

        return f16_to_f32(enc_load16(b->d)) * (float)b->sc[k % 256 / 16];
    }
    case DEV_ENC_NF4:
    case DEV_ENC_FP4: {
        const size_t block = (r * (size_t)w.cols + k) / (size_t)w.group;

        return w.scale_enc == DEV_ENC_U8
                   ? bnb4_nested(w.scale, w.nested_map, w.nested_absmax, w.nested_group,
                                 w.nested_offset, block)
                   : scale_at(w, block);
    }
    default:
        *zero = raw_zero(w, r, k / w.group);
        return scale_at(w, raw_scale_index(w, r, k / w.group));
    }
}

/* grid: (records * groups * 16 / 128, tiles or as many as a grid has) */
extern "C" __global__ void pack_scales(uint8_t *out, dev_weight w, dev_weight to)
{
    const size_t n = record_cols(to.kind), n_rec = to.kp / n;
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    const size_t rec = i / 16 / to.gs, gi = i / 16 % to.gs, in = i % 16;
    const size_t k = rec * n + gi * n / to.gs, at = in % 8 * 2 + in / 8;

    if (rec >= n_rec)
        return;
    for (size_t tile = blockIdx.y; tile * DEV_TILE < to.rows; tile += gridDim.y) {
        const size_t r = tile * DEV_TILE + in;
        uint8_t *p = out + (tile * n_rec + rec) * to.rec + record_codes(to.kind);
        float scale = 0, second = 0;
        int zero = 0;

        if (r < to.rows && k < w.cols)
            scale = source_scale(w, r, k, &second, &zero);
        uint16_t *s = (uint16_t *)p + gi * (to.pair ? 32 : 16) + at;

        s[0] = f32_to_f16(scale);
        if (to.pair)
            s[16] = f32_to_f16(second);
        if (to.zeros)
            p[to.gs * 32 + gi * 16 + at] = (uint8_t)zero;
    }
}

/* Rows of 1 or 2 bytes a value to a stride of kp. grid: (kp / 128, rows or as many as a grid has) */
extern "C" __global__ void pack_pad(uint8_t *out, dev_weight w, int kp)
{
    const size_t k = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (size_t r = blockIdx.y; k < kp && r < w.rows; r += gridDim.y) {
        const uint8_t *row = w.q + r * w.row_bytes;

        if (w.enc == DEV_ENC_F8)
            out[r * kp + k] = k < w.cols ? row[k] : 0;
        else
            ((uint16_t *)out)[r * kp + k] = k < w.cols ? enc_load16(row + 2 * k) : 0;
    }
}

/* ---- records to bf16 rows ---- */

__device__ static inline uint32_t bf16_pair(uint32_t h, float s, float m)
{
    const float2 f = __half22float2(*(const __half2 *)&h);
    const __nv_bfloat162 b = __floats2bfloat162_rn(fmaf(s, f.x, m), fmaf(s, f.y, m));

    return *(const uint32_t *)&b;
}

/* Rows 16 first .. of a weight as bf16 [rows][kp]; a warp has a record. grid: (records / 8, tiles),
 * 256 threads */
template <int KIND> __device__ static inline void widen_body(uint16_t *y, const dev_weight &w, int first)
{
    enum { PER = 8 }; /* warps of a block, which is also records of a block */
    typedef kind_of<KIND> K;
    constexpr int cols = K::blocks * 32;
    const int lane = threadIdx.x % WARP, g = lane / 4, c = lane % 4, n_rec = w.kp / cols;
    const int tile = first + blockIdx.y, rec = blockIdx.x * PER + threadIdx.x / WARP;
    __shared__ uint32_t lut[KIND == DEV_N4 ? 256 * WARP : 1];

    if constexpr (KIND == DEV_N4) {
        for (int i = threadIdx.x; i < 256 * WARP; i += blockDim.x)
            lut[i] = w.table[i / WARP & 15] | (uint32_t)w.table[i / WARP >> 4] << 16;
        __syncthreads();
    }
    if (rec >= n_rec)
        return;
    const uint8_t *p = w.q + ((size_t)tile * n_rec + rec) * w.rec, *scales = p + K::codes;
    const uint4 v[2] = { ((const uint4 *)p)[lane], ((const uint4 *)p)[lane + WARP] };
    uint4 hi = make_uint4(0, 0, 0, 0);

    if constexpr (KIND == DEV_U6)
        hi = ((const uint4 *)(p + 1024))[lane];
#pragma unroll
    for (int j = 0; j < K::blocks; j++) {
        const int gi = KIND == DEV_U6 ? 2 * j : j * w.gs / K::blocks;
        float2 s[2], m = make_float2(0, 0);
        uint32_t z[2] = { 0x64006400 | (uint32_t)w.zero_const * 0x00010001, 0 };

        z[1] = z[0];
        if (w.gs) {
            s[0] = s[1] = record_scales(scales, gi, w.pair ? 64 : 32, g);
            if (KIND == DEV_U6)
                s[1] = record_scales(scales, gi + 1, 32, g);
            if (w.pair)
                m = record_scales(scales + 32, gi, 64, g);
            if (w.zeros)
                record_zeros(z, scales + w.gs * 32, gi, g);
        } else {
            const int r0 = tile * DEV_TILE + g;

            s[0] = s[1] = make_float2(scale_at(w, min(r0, w.rows - 1)),
                                      scale_at(w, min(r0 + 8, w.rows - 1)));
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = half * 8 + g;
            uint32_t q[4];

            code_pairs<KIND>(q, v[half], half ? make_uint2(hi.z, hi.w) : make_uint2(hi.x, hi.y), j,
                             z[half], lut);
#pragma unroll
            for (int i = 0; i < 4; i++)
                q[i] = bf16_pair(q[i], half ? s[i / 2].y : s[i / 2].x, half ? m.y : m.x);
            if (tile * DEV_TILE + row >= w.rows)
                continue;
            uint16_t *to = y + ((size_t)blockIdx.y * DEV_TILE + row) * w.kp + rec * cols + 32 * j;

            if constexpr (KIND == DEV_U6) {
                *(uint2 *)(to + 4 * c) = make_uint2(q[0], q[1]);
                *(uint2 *)(to + 16 + 4 * c) = make_uint2(q[2], q[3]);
            } else {
                *(uint4 *)(to + 8 * c) = make_uint4(q[0], q[1], q[2], q[3]);
            }
        }
    }
}

#define WIDEN(name, kind)                                                                          \
    extern "C" __global__ void widen_##name(uint16_t *y, const __grid_constant__ dev_weight w,     \
                                            int first)                                             \
    {                                                                                              \
        widen_body<kind>(y, w, first);                                                             \
    }

WIDEN(u8, DEV_U8)
WIDEN(u4, DEV_U4)
WIDEN(u6, DEV_U6)
WIDEN(n4, DEV_N4)

/* E4M3 rows first .. first + gridDim.y. grid: (kp / 16 / 128, rows), 128 threads */
extern "C" __global__ void widen_f8(uint16_t *y, const __grid_constant__ dev_weight w, int first)
{
    const int k = (blockIdx.x * blockDim.x + threadIdx.x) * 16, r = first + blockIdx.y;

    if (k >= w.kp)
        return;
    const uint4 v = *(const uint4 *)(w.q + (size_t)r * w.kp + k);
    const float s = scale_at(w, (size_t)(r / w.row_group) * w.n_groups + min(k, w.cols - 1) / w.group);

#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint32_t q[4];

        code_pairs<DEV_F8>(q, v, make_uint2(0, 0), j, 0, NULL);
#pragma unroll
        for (int i = 0; i < 4; i++)
            q[i] = bf16_pair(q[i], s * HALF_BY, 0);
        *(uint4 *)(y + (size_t)blockIdx.y * w.kp + k + 8 * j) = make_uint4(q[0], q[1], q[2], q[3]);
    }
}

/* A scale for each row in float32, whatever they were. grid: rows / 128 */
extern "C" __global__ void pack_row_scales(float *out, const __grid_constant__ dev_weight w)
{
    const int r = blockIdx.x * blockDim.x + threadIdx.x;

    if (r < w.rows)
        out[r] = scale_at(w, r / w.row_group);
}
