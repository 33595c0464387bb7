/* planes.c - weights whose scales lie in planes of their own, in plain C: panels of 8-bit codes
 * where scales cover whole groups, and rows of floats for every encoding. */
#include "backend/cpu/kern.h"
#include "format/enc/awq.h"
#include "format/enc/gptq.h"
#include "format/enc/packed.h"

void decode_planes_generic(float *y, const struct weight *w, size_t r0, size_t n)
{
    for (size_t i = 0; i < n; i++)
        weight_decode_row(y + i * w->cols, w, r0 + i);
}

static unsigned code(const struct weight *w, size_t i, size_t r)
{
    const uint8_t *row = (const uint8_t *)w->data + r * w->row_bytes; /* where there are rows */

    switch (w->enc) {
    case ENC_AWQ:
        return awq_code(w->data, w->rows, i, r);
    case ENC_GPTQ4:
        return gptq_code(w->data, 4, w->rows, i, r);
    case ENC_GPTQ8:
        return gptq_code(w->data, 8, w->rows, i, r);
    case ENC_PACKED4:
        return packed_code(row, 4, i);
    case ENC_PACKED8:
        return packed_code(row, 8, i);
    default:
        BUG("no codes");
    }
}

void unpack_planes_generic(struct group *p, const struct weight *w, size_t r0, size_t R, size_t g0,
                           size_t ng)
{
    for (size_t g = 0; g < ng; g++) {
        const size_t sg = (g0 + g) * GROUP / w->p.group;

        for (size_t l = 0; l < LANES; l++) {
            const size_t r = r0 + (l < R ? l : R - 1);
            const float d = planes_scale(&w->p, planes_scale_at(w, sg, r));

            for (size_t k = 0; k < GROUP; k++) {
                const size_t at = (g0 + g) * GROUP + k;
                const size_t i = w->p.order ? (size_t)w->p.order[at] : at;

                p[g].code[k / 4][4 * l + k % 4] = (uint8_t)code(w, i, r);
            }
            p[g].d[0][l] = p[g].d[1][l] = d;
            p[g].m[0][l] = p[g].m[1][l] = (planes_centre(w) - (float)planes_zero(w, sg, r)) * d;
        }
    }
}

void cpu_kern_planes(struct cpu_kern *k)
{
    for (int e = 0; e < ENC_COUNT; e++)
        if (enc_has_planes(e))
            k->decode_planes[e] = decode_planes_generic;
    k->unpack_planes[ENC_AWQ] = unpack_planes_generic;
    k->unpack_planes[ENC_GPTQ4] = unpack_planes_generic;
    k->unpack_planes[ENC_GPTQ8] = unpack_planes_generic;
    k->unpack_planes[ENC_PACKED4] = unpack_planes_generic;
    k->unpack_planes[ENC_PACKED8] = unpack_planes_generic;
    for (int e = 0; e < ENC_COUNT; e++)
        k->offset[e] = k->offset[e] || k->unpack_planes[e];
    k->codes[ENC_AWQ] = k->codes[ENC_GPTQ4] = k->codes[ENC_PACKED4] = CODES_4;
}
