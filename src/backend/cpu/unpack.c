/* unpack.c - sixteen weight rows into a panel, in plain C for every quantised encoding. */
#include <math.h>

#include "backend/cpu/kern.h"
#include "format/enc/q4_0.h"
#include "format/enc/q4_1.h"
#include "format/enc/q4_k.h"
#include "format/enc/q5_0.h"
#include "format/enc/q5_1.h"
#include "format/enc/q5_k.h"
#include "format/enc/q6_k.h"
#include "format/enc/q8_0.h"

/* One group of one row: codes, and scale and offset of both halves. */
struct piece {
    uint8_t q[GROUP];
    float d[2], m[2];
};

static float f16_at(const uint8_t *p)
{
    return f16_to_f32(enc_load16(p));
}

static void one_scale(struct piece *o, float d, float m)
{
    o->d[0] = o->d[1] = d;
    o->m[0] = o->m[1] = m;
}

/* d * code + m, told from the middle of the codes */
static void centred(struct piece *o, float d, float m, float centre)
{
    one_scale(o, d, fmaf(d, centre, m));
}

static void nibbles(struct piece *o, const uint8_t *qs)
{
    for (int j = 0; j < 16; j++) {
        o->q[j] = qs[j] & 15;
        o->q[j + 16] = qs[j] >> 4;
    }
}

static void fifth_bit(struct piece *o, const uint8_t *qh)
{
    for (int j = 0; j < GROUP; j++)
        o->q[j] = (uint8_t)(o->q[j] | (qh[j / 8] >> (j % 8) & 1) << 4);
}

static void piece_q4_0(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q4_0 *b = (const struct q4_0 *)row + g;
    const float d = f16_at(b->d);

    nibbles(o, b->qs);
    one_scale(o, d, 0);
}

static void piece_q4_1(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q4_1 *b = (const struct q4_1 *)row + g;

    nibbles(o, b->qs);
    centred(o, f16_at(b->d), f16_at(b->m), 8);
}

static void piece_q5_0(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q5_0 *b = (const struct q5_0 *)row + g;
    const float d = f16_at(b->d);

    nibbles(o, b->qs);
    fifth_bit(o, b->qh);
    one_scale(o, d, 0);
}

static void piece_q5_1(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q5_1 *b = (const struct q5_1 *)row + g;

    nibbles(o, b->qs);
    fifth_bit(o, b->qh);
    centred(o, f16_at(b->d), f16_at(b->m), 16);
}

static void piece_q8_0(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q8_0 *b = (const struct q8_0 *)row + g;
    const float d = f16_at(b->d);

    for (int j = 0; j < GROUP; j++)
        o->q[j] = (uint8_t)(b->q[j] + 128);
    one_scale(o, d, 0);
}

static void piece_q4_k(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q4_k *b = (const struct q4_k *)row + g / 8;
    const int j = (int)(g % 8);
    unsigned scale, min;

    k_scales_get(b->sc, j, &scale, &min);
    for (int l = 0; l < GROUP; l++)
        o->q[l] = b->qs[32 * (j / 2) + l] >> 4 * (j & 1) & 15;
    centred(o, f16_at(b->d) * (float)scale, -(f16_at(b->dmin) * (float)min), 8);
}

static void piece_q5_k(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q5_k *b = (const struct q5_k *)row + g / 8;
    const int j = (int)(g % 8);
    unsigned scale, min;

    k_scales_get(b->sc, j, &scale, &min);
    for (int l = 0; l < GROUP; l++)
        o->q[l] =
            (uint8_t)((b->qs[32 * (j / 2) + l] >> 4 * (j & 1) & 15) | (b->qh[l] >> j & 1) << 4);
    centred(o, f16_at(b->d) * (float)scale, -(f16_at(b->dmin) * (float)min), 16);
}

static void piece_q6_k(struct piece *o, const uint8_t *row, size_t g)
{
    const struct q6_k *b = (const struct q6_k *)row + g / 8;
    const int h = (int)(g % 8) / 4, k = (int)(g % 4);
    const uint8_t *ql = b->ql + 64 * h + 32 * (k & 1);

    for (int l = 0; l < GROUP; l++)
        o->q[l] = (uint8_t)((ql[l] >> 4 * (k >> 1) & 15) | (b->qh[32 * h + l] >> 2 * k & 3) << 4);
    for (int i = 0; i < 2; i++) {
        o->d[i] = f16_at(b->d) * (float)b->sc[8 * h + 2 * k + i];
        o->m[i] = 0;
    }
}

static inline void panel(struct group *p, const struct rows16 *w, size_t g0, size_t ng,
                         void (*piece)(struct piece *, const uint8_t *, size_t))
{
    for (size_t g = 0; g < ng; g++) {
        for (int r = 0; r < LANES; r++) {
            struct piece o;

            piece(&o, w->at[r], g0 + g);
            for (int c = 0; c < 8; c++)
                memcpy(p[g].code[c] + 4 * r, o.q + 4 * c, 4);
            for (int i = 0; i < 2; i++) {
                p[g].d[i][r] = o.d[i];
                p[g].m[i][r] = o.m[i];
            }
        }
    }
}

#define UNPACK(name)                                                                               \
    static void unpack_##name(struct group *p, const struct rows16 *w, size_t g0, size_t ng)       \
    {                                                                                              \
        panel(p, w, g0, ng, piece_##name);                                                         \
    }
UNPACK(q4_0)
UNPACK(q4_1)
UNPACK(q5_0)
UNPACK(q5_1)
UNPACK(q8_0)
UNPACK(q4_k)
UNPACK(q5_k)
UNPACK(q6_k)

void cpu_kern_unpack(struct cpu_kern *k)
{
    k->unpack[ENC_Q4_0] = unpack_q4_0;
    k->unpack[ENC_Q4_1] = unpack_q4_1;
    k->unpack[ENC_Q5_0] = unpack_q5_0;
    k->unpack[ENC_Q5_1] = unpack_q5_1;
    k->unpack[ENC_Q8_0] = unpack_q8_0;
    k->unpack[ENC_Q4_K] = unpack_q4_k;
    k->unpack[ENC_Q5_K] = unpack_q5_k;
    k->unpack[ENC_Q6_K] = unpack_q6_k;
    k->codes[ENC_Q4_0] = k->codes[ENC_Q4_1] = k->codes[ENC_Q4_K] = CODES_4;
    k->codes[ENC_Q5_0] = k->codes[ENC_Q5_1] = k->codes[ENC_Q5_K] = CODES_5;
    k->codes[ENC_Q6_K] = CODES_HALVES;
    k->offset[ENC_Q4_1] = k->offset[ENC_Q4_K] = k->offset[ENC_Q5_1] = k->offset[ENC_Q5_K] = true;
}
