/* unit.cuh - 32 neighbouring values of a weight, whatever its encoding and layout: the slow truth of
 * the device, over the headers that the C compiler reads too. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "backend/cuda/dev.h"
#include "format/enc/act.h"
#include "format/enc/awq.h"
#include "format/enc/bnb4.h"
#include "format/enc/f8.h"
#include "format/enc/gptq.h"
#include "format/enc/packed.h"
#include "format/enc/q4_0.h"
#include "format/enc/q4_1.h"
#include "format/enc/q4_k.h"
#include "format/enc/q5_0.h"
#include "format/enc/q5_1.h"
#include "format/enc/q5_k.h"
#include "format/enc/q6_k.h"
#include "format/enc/q8_0.h"

enum { UNIT = 32, WARP = 32 };

/* Of all lanes of a warp, to each of them. */
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

__device__ static inline float scale_at(const dev_weight &w, size_t i)
{
    const float s = w.scale_enc == DEV_ENC_F32   ? enc_loadf(w.scale + 4 * i)
                    : w.scale_enc == DEV_ENC_F16 ? f16_to_f32(enc_load16(w.scale + 2 * i))
                                                 : bf16_to_f32(enc_load16(w.scale + 2 * i));

    return s * w.scale_by;
}

__device__ static inline size_t group_at(const dev_weight &w, size_t i)
{
    return w.group_of ? enc_load32(w.group_of + 4 * i) : i / (size_t)w.group;
}

/* The code, zero point and scale of a grid encoding, as the file has them. */
__device__ static inline int raw_code(const dev_weight &w, size_t r, size_t i)
{
    switch (w.enc) {
    case DEV_ENC_AWQ:
        return (int)awq_code(w.q, w.rows, i, r);
    case DEV_ENC_GPTQ4:
        return (int)gptq_code(w.q, 4, w.rows, i, r);
    case DEV_ENC_GPTQ8:
        return (int)gptq_code(w.q, 8, w.rows, i, r);
    case DEV_ENC_PACKED4:
        return (int)packed_code(w.q + r * w.row_bytes, 4, i);
    default:
        return (int)packed_code(w.q + r * w.row_bytes, 8, i);
    }
}

__device__ static inline int raw_zero(const dev_weight &w, size_t r, size_t g)
{
    switch (w.enc) {
    case DEV_ENC_AWQ:
        return (int)awq_code(w.zero, w.rows, g, r);
    case DEV_ENC_GPTQ4:
        return (int)gptq_zero(w.zero, 4, w.rows, g, r, w.minus_one);
    case DEV_ENC_GPTQ8:
        return (int)gptq_zero(w.zero, 8, w.rows, g, r, w.minus_one);
    case DEV_ENC_PACKED4:
        return (int)packed_zero(w.zero, 4, w.n_groups, r, g);
    default:
        return (int)packed_zero(w.zero, 8, w.n_groups, r, g);
    }
}

__device__ static inline size_t raw_scale_index(const dev_weight &w, size_t r, size_t g)
{
    return w.enc == DEV_ENC_PACKED4 || w.enc == DEV_ENC_PACKED8 ? r * w.n_groups + g
                                                                : g * w.rows + r;
}

__device__ static inline float raw_bnb4(const dev_weight &w, size_t r, size_t i)
{
    const size_t k = r * (size_t)w.cols + i, block = k / (size_t)w.group;
    const float absmax =
        w.scale_enc == DEV_ENC_U8
            ? bnb4_nested(w.scale, w.nested_map, w.nested_absmax, w.nested_group, w.nested_offset,
                          block)
            : scale_at(w, block);
    const float f = enc_loadf(w.map + 4 * bnb4_code(w.q, k)) * absmax;

    return w.round == DEV_ENC_BF16  ? bf16_to_f32(f32_to_bf16(f))
           : w.round == DEV_ENC_F16 ? f16_to_f32(f32_to_f16(f))
                                    : f;
}

/* Values n of the row from i on, one by one; the rest are zero. */
__device__ static __noinline__ void unit_values(float *y, const dev_weight &w, size_t r, size_t i,
                                                int n)
{
    const uint8_t *row = w.q + r * w.row_bytes;

#pragma unroll 1
    for (int k = 0; k < UNIT; k++) {
        const size_t at = i + k;

        y[k] = 0;
        if (k >= n)
            continue;
        switch (w.enc) {
        case DEV_ENC_F32:
            y[k] = enc_loadf(row + 4 * at);
            break;
        case DEV_ENC_F16:
            y[k] = f16_to_f32(enc_load16(row + 2 * at));
            break;
        case DEV_ENC_BF16:
            y[k] = bf16_to_f32(enc_load16(row + 2 * at));
            break;
        case DEV_ENC_F8:
        case DEV_ENC_INT8: {
            const size_t g = r / (size_t)w.row_group * w.n_groups + at / (size_t)w.group;

            y[k] = (w.enc == DEV_ENC_F8 ? f8_e4m3_to_f32(row[at]) : (float)(int8_t)row[at]) *
                   scale_at(w, g);
            break;
        }
        case DEV_ENC_FP4:
        case DEV_ENC_NF4:
            y[k] = raw_bnb4(w, r, at);
            break;
        default: {
            const size_t g = group_at(w, at);

            y[k] = (float)(raw_code(w, r, at) - raw_zero(w, r, g)) *
                   scale_at(w, raw_scale_index(w, r, g));
        }
        }
    }
}

/* ---- packed (dev.h) ---- */

__device__ static inline size_t record_cols(int kind)
{
    return kind == DEV_U8 ? 64 : 128;
}

__device__ static inline size_t record_codes(int kind)
{
    return kind == DEV_U6 ? 1536 : 1024;
}

__device__ static inline const uint8_t *record_at(const dev_weight &w, size_t r, size_t k)
{
    const size_t n = record_cols(w.kind);

    return w.q + (r / DEV_TILE * (w.kp / n) + k / n) * w.rec;
}

/* The group of column k within its record. */
__device__ static inline size_t record_group(const dev_weight &w, size_t k)
{
    return k % record_cols(w.kind) * w.gs / record_cols(w.kind);
}

/* The code of column k of row r. */
__device__ static inline int packed_code_at(const dev_weight &w, size_t r, size_t k)
{
    const uint8_t *rec = record_at(w, r, k);
    const size_t j = k % record_cols(w.kind) / 32, m = k % 32;
    const size_t c = w.kind == DEV_U6 ? m % 16 / 4 : m / 8;
    const size_t e = w.kind == DEV_U6 ? m / 16 * 4 + m % 4 : m % 8;
    const size_t lane = r % 8 * 4 + c, half = r % 16 / 8;
    const uint8_t *p = rec + half * 512 + lane * 16;

    if (w.kind == DEV_U8)
        return p[j * 8 + e];
    const uint32_t word = ((const uint32_t *)p)[j];

    if (w.kind == DEV_N4)
        return word >> 4 * e & 15;
    const int lo = word >> 4 * (e / 2 + 4 * (e % 2)) & 15;

    if (w.kind == DEV_U4)
        return lo;
    const uint32_t hi = *(const uint32_t *)(rec + 1024 + lane * 16 + half * 8 + j / 2 * 4);

    return lo | (hi >> (2 * (e / 2) + 8 * (j % 2) + 16 * (e % 2)) & 3) << 4;
}

__device__ static inline float packed_value(const dev_weight &w, size_t r, size_t k)
{
    if (w.kind == DEV_B16)
        return bf16_to_f32(((const uint16_t *)w.q)[r * w.kp + k]);
    if (w.kind == DEV_H16)
        return f16_to_f32(((const uint16_t *)w.q)[r * w.kp + k]);
    const size_t g = r / (size_t)w.row_group * w.n_groups + k / (size_t)w.group;

    if (w.kind == DEV_F8)
        return f8_e4m3_to_f32(w.q[r * w.kp + k]) * scale_at(w, g);
    const int q = packed_code_at(w, r, k);

    if (w.gs == 0)
        return scale_at(w, g) * (float)(q - w.zero_const);
    const uint8_t *scales = record_at(w, r, k) + record_codes(w.kind);
    const size_t gi = record_group(w, k), at = r % 8 * 2 + r % 16 / 8;
    const uint16_t *s = (const uint16_t *)scales + gi * (w.pair ? 32 : 16) + at;

    if (w.kind == DEV_N4)
        return f16_to_f32(s[0]) * f16_to_f32(w.table[q]);
    if (w.pair)
        return f16_to_f32(s[0]) * (float)q + f16_to_f32(s[16]);
    return f16_to_f32(s[0]) *
           (float)(q - (w.zeros ? scales[w.gs * 32 + gi * 16 + at] : w.zero_const));
}

/* Values 32 u .. 32 u + 31 of row r; zeros beyond its end. With an order, packed columns. */
__device__ static __noinline__ void unit_decode(float *y, const dev_weight &w, size_t r, size_t u)
{
    const size_t i = u * UNIT;
    const int n = w.cols - (int)i < UNIT ? w.cols - (int)i : UNIT;

    if (w.kind != DEV_RAW) {
#pragma unroll 1
        for (int k = 0; k < UNIT; k++)
            y[k] = k >= n ? 0 : packed_value(w, r, i + k);
        return;
    }
    const uint8_t *row = w.q + r * w.row_bytes;

    switch (w.enc) {
    case DEV_ENC_Q4_0:
        q4_0_decode(y, (const q4_0 *)row + u);
        break;
    case DEV_ENC_Q4_1:
        q4_1_decode(y, (const q4_1 *)row + u);
        break;
    case DEV_ENC_Q5_0:
        q5_0_decode(y, (const q5_0 *)row + u);
        break;
    case DEV_ENC_Q5_1:
        q5_1_decode(y, (const q5_1 *)row + u);
        break;
    case DEV_ENC_Q8_0:
        q8_0_decode(y, (const q8_0 *)row + u);
        break;
    case DEV_ENC_Q4_K:
        q4_k_decode_sub(y, (const q4_k *)row + u / 8, u % 8);
        break;
    case DEV_ENC_Q5_K:
        q5_k_decode_sub(y, (const q5_k *)row + u / 8, u % 8);
        break;
    case DEV_ENC_Q6_K:
        q6_k_decode_sub(y, (const q6_k *)row + u / 8, u % 8 / 4, u % 4);
        break;
    default:
        unit_values(y, w, r, i, n);
    }
}

__device__ static inline uint16_t to16(float f, int mode)
{
    if (mode == PREP_BF16)
        return f32_to_bf16(f);
    /* an input beyond f16's range is held at its end */
    return __half_as_ushort(__float2half_rn(fminf(fmaxf(f, -65504.0f), 65504.0f)));
}

/* E4M3 in f16 has the same bits one to the right of the sign, and 2^-8 of the value (NaN reads as a
 * number): bytes 1 and 3 of a word as a pair, whatever the others are. */
static constexpr float F8_BY = 256;

__device__ static inline uint32_t f8_odd(uint32_t word)
{
    return (word & 0x80008000) | (word >> 1 & 0x3F803F80);
}

/* Bytes 2 i and 2 i + 1. */
__device__ static inline uint32_t f8_pair(uint32_t word, int i)
{
    return f8_odd(__byte_perm(word, 0, i ? 0x3424 : 0x1404));
}

/* f8_pair, in one instruction where there is one; HALF_BY as F8_BY. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
static constexpr float HALF_BY = 1;
__device__ static inline uint32_t half_pair(uint32_t word, int i)
{
    uint32_t r;

    /* the half is a part of the instruction */
    if (i)
        asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.rn.f16x2.e4m3x2 %0, h;}" : "=r"(r) : "r"(word));
    else
        asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.rn.f16x2.e4m3x2 %0, l;}" : "=r"(r) : "r"(word));
    return r;
}
#else
static constexpr float HALF_BY = F8_BY;
__device__ static inline uint32_t half_pair(uint32_t word, int i)
{
    return f8_pair(word, i);
}
#endif

/* Four values in E4M3, `by` being one over the scale. */
__device__ static inline uint32_t four_f8(const float *x, float by)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t lo, hi;

    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(x[1] * by), "f"(x[0] * by));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(x[3] * by), "f"(x[2] * by));
    return lo | (uint32_t)hi << 16;
#else
    uint32_t q = 0;

#pragma unroll
    for (int k = 0; k < 4; k++)
        q |= (uint32_t)f32_to_f8_e4m3(x[k] * by) << 8 * k;
    return q;
#endif
}

/* ---- copies to shared memory in the background ---- */

__device__ static inline void copy_async(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ static inline void copy_async8(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}

__device__ static inline void copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ static inline void copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
