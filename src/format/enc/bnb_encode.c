#include "format/enc/bnb_encode.h"

#include <math.h>
#include <stdlib.h>

/* Quantiles of the normal distribution, scaled to [-1, 1], zero among them. */
const float bnb_nf4[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

const float bnb_fp4[16] = {
    0.0f,  0.0052083333f,  0.6666667f,  1.0f,  0.33333334f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -0.0052083333f, -0.6666667f, -1.0f, -0.33333334f, -0.5f, -0.16666667f, -0.25f,
};

static int rising(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Value i of n from 0.1 to 1, counted from the nearer end as torch.linspace does. */
static float between(size_t i, size_t n)
{
    const float step = (1.0f - 0.1f) / (float)(n - 1);

    return i < n / 2 ? 0.1f + step * (float)i : 1.0f - step * (float)(n - 1 - i);
}

/* Decades from 1e-6 to 1; each has twice the values of the one below. */
void bnb_dynamic_map(float map[256], bool with_sign)
{
    size_t n = 0;

    for (int e = 0; e < 7; e++) {
        const size_t ends = ((size_t)1 << (with_sign ? e : e + 1)) + 1;
        const float decade = (float)pow(10, e - 6);

        for (size_t i = 0; i + 1 < ends; i++) {
            const float v = decade * ((between(i, ends) + between(i + 1, ends)) / 2);

            map[n++] = v;
            if (with_sign)
                map[n++] = -v;
        }
    }
    map[n++] = 0;
    map[n++] = 1;
    qsort(map, n, sizeof(*map), rising);
}

void bnb_map_init(struct bnb_map *m, bool with_sign)
{
    bnb_dynamic_map(m->map, with_sign);
    for (size_t i = 0; i < 255; i++)
        m->bound[i] = (m->map[i] + m->map[i + 1]) / 2;
    m->bound[255] = INFINITY;
}

static float largest(const float *x, size_t n)
{
    float max = 0;

    for (size_t i = 0; i < n; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    return max;
}

float bnb_encode8(uint8_t *codes, const struct bnb_map *m, const float *x, size_t n)
{
    const float max = largest(x, n), by = 1 / (max > 1e-38f ? max : 1e-38f);

    for (size_t i = 0; i < n; i++) {
        const float v = x[i] * by;
        size_t lo = 0; /* bounds below v: halves of 256, without a branch that is guessed */

        for (size_t half = 128; half; half /= 2)
            lo += m->bound[lo + half - 1] < v ? half : 0;
        codes[i] = (uint8_t)lo;
    }
    return max;
}

float bnb_encode4(uint8_t *codes, const float map[16], const float *x, size_t n)
{
    const float max = largest(x, n), by = 1 / (max > 1e-38f ? max : 1e-38f);
    float sorted[16], bound[15];
    uint8_t code[16];

    for (size_t i = 0; i < 16; i++) {
        size_t at = 0; /* the place of map[i]; of two zeros the first comes first */

        for (size_t j = 0; j < 16; j++)
            at += map[j] < map[i] || (map[j] == map[i] && j < i);
        sorted[at] = map[i];
        code[at] = (uint8_t)i;
    }
    for (size_t i = 0; i < 15; i++)
        bound[i] = (sorted[i] + sorted[i + 1]) / 2;
    for (size_t i = 0; i < n; i += 2) {
        unsigned two[2] = { 0, 0 };

        for (size_t k = 0; k < 2; k++) {
            const float v = i + k < n ? x[i + k] * by : 0;

            for (size_t b = 0; b < 15; b++)
                two[k] += bound[b] < v;
        }
        codes[i / 2] = (uint8_t)(code[two[0]] << 4 | code[two[1]]);
    }
    return max;
}
