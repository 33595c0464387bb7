/* nf4.h - NF4 and FP4 (bnb4.h) times floats, in integers. A matrix has one map of 16 values, so
 * that codes can be looked up before anything is known of their block: w = table[code] * d_w with a
 * table of 16 bits and d_w = absmax * NF4_TOP's share of the map. Inputs are q * d_x, 16 bits in
 * groups of
 * 32. The value of a row and a token is on every instruction set, for any tiling, the chain
 *
 *     acc = fma(float(sum of table[code] * q over the group), d_w * d_x, acc)    groups ascending
 *
 * whose sums are exact: d_x is so large that NF4_TOP times the sum of all |q| fits 31 bits. An
 * input's error is at most 2^-16 of the group's largest where few are large and 2^-14 where all are
 * alike, a weight's 2^-14 of absmax. What the checkpoint's library does beyond, rounding a weight
 * to bf16 before use (an error of up to 2^-9), is left out; ops_ref and --compute f32 keep it.
 *
 * Placed, sixteen rows are a unit: of each block sixteen floats d_w, then lines of 64 bytes, 4
 * bytes of every row as they are in the file. So the words of a line hold nibbles of their row
 * alone. */
#ifndef PUNA_BACKEND_CPU_NF4_H
#define PUNA_BACKEND_CPU_NF4_H

#include <float.h>
#include <math.h>

#include "backend/cpu/kern.h"
#include "format/enc/bnb4.h"

enum {
    NF4_TOP = 1 << 13,          /* largest |table[code]| */
    NF4_X_TOP = 32767,          /* largest |q| */
    NF4_X_SUM = (1 << 18) - 64, /* largest sum of |x / d_x|; rounding adds 16 at most */
    NF4_GROUP = 1024, /* largest block; values that are brought into a unit's order at a time */
};

/* Bytes of the scales of a row of inputs, before its K numbers of 16 bits. */
static inline size_t nf4_scales(size_t K)
{
    return (K / GROUP * sizeof(float) + 63) / 64 * 64;
}

/* The largest magnitude in a map of 16 floats. */
static inline float nf4_largest(const uint8_t *map)
{
    uint32_t bits[16], most = 0;

    memcpy(bits, map, sizeof(bits));
    for (size_t i = 0; i < 16; i++) { /* of magnitudes, order is that of their bits */
        const uint32_t b = bits[i] & 0x7FFFFFFF;

        most = b > most ? b : most;
    }
    return f32_from_bits(most);
}

/* The table of w's map; returns what absmax is multiplied by. */
static inline float nf4_table(int16_t table[16], const struct weight *w)
{
    const float top = nf4_largest(w->p.map), by = NF4_TOP / top;
    float map[16];

    memcpy(map, w->p.map, sizeof(map));
    for (size_t i = 0; i < 16; i++)
        table[i] = (int16_t)rintf(map[i] * by);
    return top / NF4_TOP;
}

/* The scale of a group of inputs with this largest magnitude and sum of magnitudes; 0: all numbers
 * are to be 0, NaN likewise. */
static inline float nf4_x_scale(float largest, float sum)
{
    const float a = largest * (1.0f / NF4_X_TOP), b = sum * (1.0f / NF4_X_SUM);
    const float d = a > b ? a : b; /* b where either is no number */

    return d < FLT_MIN ? 0 : d < INFINITY ? d : NAN;
}

/* d_w of n blocks from b0 on of rows r0 .. r0+16, those past R as the last: to[b * apart + row]. */
static inline void nf4_weight_scales(float *to, size_t apart, const struct weight *w, float by,
                                     size_t r0, size_t R, size_t b0, size_t n)
{
    const struct planes *p = &w->p;
    const size_t G = w->cols / p->group;

    for (size_t r = 0; r < LANES; r++) {
        const size_t first = (r0 + (r < R ? r : R - 1)) * G + b0;

        if (p->scale_enc == ENC_U8)
            for (size_t b = 0; b < n; b++)
                to[b * apart + r] = by * bnb4_nested(p->scale, p->nested_map, p->nested_absmax,
                                                     p->nested_group, p->nested_offset, first + b);
        else
            for (size_t b = 0; b < n; b++)
                to[b * apart + r] = by * planes_scale(p, first + b);
    }
}

/* exact_kern's for every instruction set. */
size_t nf4_bytes(const struct weight *w, enum exact_in in);
size_t nf4_unit(const struct weight *w);

#endif
