#include "train/optim.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/team.h"
#include "format/enc/bnb_encode.h"

enum {
    BLOCK = ADAMW_BLOCK,
    LEAST = 4096, /* values from which on moments take 8 bits */
    CHUNK = 4096, /* values that a thread takes at a time */
};

const char *const optim_names[OPTIMISER_COUNT] = {
    [OPTIMISER_ADAMW] = "adamw_torch",
    [OPTIMISER_ADAMW8] = "adamw_8bit",
    [OPTIMISER_ADAFACTOR] = "adafactor",
};

enum optim optim_by_name(const char *name)
{
    static const struct {
        const char *name;
        enum optim kind;
    } same[] = {
        { "adamw_torch_fused", OPTIMISER_ADAMW },
        { "adamw_bnb_8bit", OPTIMISER_ADAMW8 },
        { "paged_adamw_8bit", OPTIMISER_ADAMW8 },
        { "paged_adamw_32bit", OPTIMISER_ADAMW },
    };

    for (size_t i = 0; i < ARRAY_LEN(same); i++)
        if (!strcmp(name, same[i].name))
            return same[i].kind;
    for (size_t i = 0; i < OPTIMISER_COUNT; i++)
        if (!strcmp(name, optim_names[i]))
            return (enum optim)i;
    return OPTIMISER_COUNT;
}

size_t optim_parts(enum optim kind, size_t rows, size_t cols, bool embedding,
                   struct optim_part part[OPTIM_PARTS])
{
    const size_t n = rows * cols, blocks = (n + BLOCK - 1) / BLOCK;
    size_t k = 0;

    if (kind == OPTIMISER_ADAFACTOR && rows > 1) {
        part[k++] = (struct optim_part){ "square_rows", ENC_F32, rows, NULL };
        part[k++] = (struct optim_part){ "square_cols", ENC_F32, cols, NULL };
    } else if (kind == OPTIMISER_ADAFACTOR) {
        part[k++] = (struct optim_part){ "square", ENC_F32, n, NULL };
    } else if (kind == OPTIMISER_ADAMW8 && n >= LEAST && !embedding) {
        part[k++] = (struct optim_part){ "moment1", ENC_U8, n, NULL };
        part[k++] = (struct optim_part){ "moment2", ENC_U8, n, NULL };
        part[k++] = (struct optim_part){ "absmax1", ENC_F32, blocks, NULL };
        part[k++] = (struct optim_part){ "absmax2", ENC_F32, blocks, NULL };
    } else {
        part[k++] = (struct optim_part){ "moment1", ENC_F32, n, NULL };
        part[k++] = (struct optim_part){ "moment2", ENC_F32, n, NULL };
    }
    return k;
}

/* ---- chunks of values ---- */

struct job {
    struct ctx *c;
    const struct train_ops *op;
    const struct adamw *a;
    struct optim_param *p;
    const struct bnb_map *map; /* [2] with and without a sign */
    uint64_t seed;
    size_t n;
    atomic_size_t next;
};

static void eight_bits(const struct job *j, float *w, size_t at, size_t n)
{
    const struct optim_part *part = j->p->part;

    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t m = n - i < BLOCK ? n - i : BLOCK, b = (at + i) / BLOCK;
        float s[2][BLOCK];

        for (size_t k = 0; k < 2; k++) {
            const uint8_t *code = (const uint8_t *)part[k].p + at + i;

            for (size_t x = 0; x < m; x++)
                s[k][x] = j->map[k].map[code[x]] * ((const float *)part[2 + k].p)[b];
        }
        const struct adamw_values of = { w + i, s[0], s[1], j->p->g + at + i, m, true, false };

        j->op->adamw(j->c, j->a, &of, 1);
        for (size_t k = 0; k < 2; k++)
            ((float *)part[2 + k].p)[b] =
                bnb_encode8((uint8_t *)part[k].p + at + i, &j->map[k], s[k], m);
    }
}

static void chunk(const struct job *j, size_t at, size_t n)
{
    const struct optim_param *p = j->p;
    float room[CHUNK], *w = p->half ? room : p->w + at;

    for (size_t i = 0; p->half && i < n; i++)
        w[i] = bf16_to_f32(p->half[at + i]);
    if (p->part[0].enc == ENC_U8)
        eight_bits(j, w, at, n);
    else
        j->op->adamw(j->c, j->a,
                     &(struct adamw_values){ w, (float *)p->part[0].p + at,
                                             (float *)p->part[1].p + at, p->g + at, n, true,
                                             false },
                     1);
    if (p->half)
        adamw_round_at_random(p->half + at, w, n, j->seed, j->a->step, at);
}

static void chunks(void *arg, int me, int n)
{
    struct job *j = arg;

    (void)me;
    (void)n;
    for (size_t i; (i = atomic_fetch_add(&j->next, 1)) * CHUNK < j->n;)
        chunk(j, i * CHUNK, j->n - i * CHUNK < CHUNK ? j->n - i * CHUNK : CHUNK);
}

static void all_chunks(struct job *j)
{
    if (j->n <= 4 * CHUNK)
        chunks(j, 0, 1);
    else
        team_run(j->c->team, chunks, j);
}

static void adafactor(const struct job *j)
{
    const struct optim_param *p = j->p;
    const bool single = p->rows == 1;
    const struct adafactor k = { .w = p->w,
                                 .half = p->half,
                                 .g = p->g,
                                 .half_g = p->half_g,
                                 .row = single ? NULL : p->part[0].p,
                                 .col = p->part[single ? 0 : 1].p,
                                 .rows = p->rows,
                                 .cols = p->cols,
                                 .seed = j->seed };

    j->op->adafactor(j->c, j->a, &k);
}

/* Where the backend does it itself. */
static void packed(const struct job *j)
{
    const struct optim_param *p = j->p;
    const bool codes = p->part[0].enc == ENC_U8;
    const struct adamw_packed k = { .w = p->w,
                                    .half = p->half,
                                    .g = p->g,
                                    .half_g = p->half_g,
                                    .m = codes ? NULL : p->part[0].p,
                                    .v = codes ? NULL : p->part[1].p,
                                    .m_code = codes ? p->part[0].p : NULL,
                                    .v_code = codes ? p->part[1].p : NULL,
                                    .m_max = codes ? p->part[2].p : NULL,
                                    .v_max = codes ? p->part[3].p : NULL,
                                    .map = j->map,
                                    .n = j->n,
                                    .seed = j->seed };

    j->op->adamw_packed(j->c, j->a, &k);
}

/* Values in float32 with moments in float32. */
static bool is_plain(enum optim kind, const struct optim_param *p)
{
    return kind != OPTIMISER_ADAFACTOR && p->part[0].enc != ENC_U8 && !p->half;
}

void optim_step(struct ctx *c, const struct train_ops *op, enum optim kind, const struct adamw *a,
                struct optim_param *p, size_t count, uint64_t seed)
{
    struct adamw_values *plain = xmalloc((count + 1) * sizeof(*plain));
    struct bnb_map map[2];
    size_t n = 0;

    bnb_map_init(&map[0], true);
    bnb_map_init(&map[1], false);
    for (size_t i = 0; i < count; i++) {
        const size_t values = p[i].rows * p[i].cols;
        struct adamw own = *a;
        struct job j = { .c = c,
                         .op = op,
                         .a = &own,
                         .p = &p[i],
                         .map = map,
                         .seed = rng_u64(seed, i),
                         .n = values };

        own.decay = p[i].decays ? a->decay : 0;
        if (is_plain(kind, &p[i]))
            plain[n++] = (struct adamw_values){ .w = p[i].w,
                                                .m = p[i].part[0].p,
                                                .v = p[i].part[1].p,
                                                .g = p[i].g,
                                                .n = values,
                                                .decays = p[i].decays };
        else if (kind == OPTIMISER_ADAFACTOR)
            adafactor(&j);
        else if (op->adamw_packed)
            packed(&j);
        else
            all_chunks(&j);
    }
    op->adamw(c, a, plain, n);
    free(plain);
}
