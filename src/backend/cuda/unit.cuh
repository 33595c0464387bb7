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

enum { UNIT = 32 };

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

/* The byte of packed column k of row r (DEV_F8, DEV_U8), and the code of DEV_U4. */
__device__ static inline size_t packed8_at(const dev_weight &w, size_t r, size_t k)
{
    const size_t j = k % 128 / 32, c = k % 32 / 8;

    return r * w.kp + k / 128 * 128 + j / 2 * 64 + c * 16 + j % 2 * 8 + k % 8;
}

__device__ static inline size_t packed4_word(const dev_weight &w, size_t r, size_t k)
{
    return r * (w.kp / 8) + k / 128 * 16 + k % 32 / 8 * 4 + k % 128 / 32;
}

__device__ static inline float packed_value(const dev_weight &w, size_t r, size_t k)
{
    if (w.kind == DEV_B16)
        return bf16_to_f32(((const uint16_t *)w.q)[r * w.kp + k]);
    if (w.kind == DEV_H16)
        return f16_to_f32(((const uint16_t *)w.q)[r * w.kp + k]);
    const size_t g = r / (size_t)w.row_group * w.n_groups + k / (size_t)w.group;

    if (w.kind == DEV_F8)
        return f8_e4m3_to_f32(w.q[packed8_at(w, r, k)]) * scale_at(w, g);
    const int q = w.kind == DEV_U8
                      ? w.q[packed8_at(w, r, k)]
                      : ((const uint32_t *)w.q)[packed4_word(w, r, k)] >>
                                4 * (k % 8 / 2 + 4 * (k % 2)) & 15;

    if (w.pair)
        return scale_at(w, 2 * g) * (float)q + scale_at(w, 2 * g + 1);
    return scale_at(w, g) * (float)(q - (w.zero ? w.zero[r * w.n_groups + k / w.group]
                                                : w.zero_const));
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
