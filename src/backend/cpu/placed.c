/* placed.c - weights copied into the kernels' own order, where an instruction set has one (kern.h,
 * struct placed_kern), or as they are, for kernels that are bound by memory (struct exact_kern,
 * float16): on pages of 2 MiB whatever those of the file, which makes E4M3 half as fast again and
 * float16 a third, written by the thread that has the same share of the product when they are used,
 * so that they lie on its node. What has been copied leaves the mapping's memory, so that a model
 * is there once. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_int.h"
#include "base/file.h"
#include "base/mem.h"

/* Memory of several weights, one after the other: pages of 2 MiB are not lost at their ends. */
struct slab {
    struct slab *next;
    uint8_t *p;
    size_t n, used;
    size_t weights; /* that lie in it */
};

enum {
    SLAB = 256 << 20, /* of which only what is written is touched */
    TWICE = 16 << 20, /* bytes that are in memory twice */
    STEP = 1 << 20,   /* a thread's part of them at least: letting go of pages is a system call */
    BESIDE = 16,      /* units packed by turns: what lines of AWQ and GPTQ have of an input */
    LARGE = 1 << 19,  /* bytes from which a float16 weight gains from pages of 2 MiB: no adapter */
};

struct place_job {
    const struct cpu_kern *k;
    const struct weight *w;
    const struct exact_kern *exact; /* that takes it, or NULL */
    uint8_t *to;
    size_t unit; /* bytes that sixteen rows have there */
};

/* Units u0 .. u0+n in the order of an exact kernel. */
static void pack_exact(const struct place_job *j, size_t u0, size_t n)
{
    for (size_t u = u0; u < u0 + n; u++)
        j->exact->pack(j->to + u * j->unit, j->w, u * LANES);
    map_forget((const uint8_t *)j->w->data + u0 * placed_unit_bytes(j->w),
               n * placed_unit_bytes(j->w));
}

/* Units u0 .. u0+n of a weight with planes. */
static void pack_planes(const struct place_job *j, size_t u0, size_t n)
{
    const struct weight *w = j->w;
    const size_t G = w->cols / GROUP, unit = j->unit;
    struct group panel[CHUNK];

    for (size_t g = 0; g < G; g += CHUNK) {
        const size_t ng = G - g < CHUNK ? G - g : CHUNK;

        for (size_t u = u0; u < u0 + n; u++) {
            j->k->unpack_planes[w->enc](panel, w, u * LANES, LANES, g, ng);
            j->k->placed[w->enc].pack_planes(j->to + u * unit, panel, w, u * LANES, g, ng);
        }
    }
}

/* Units u0 .. u0+n of a weight whose rows follow one another; then the file's pages may go. */
static void pack_rows(const struct place_job *j, size_t u0, size_t n)
{
    const struct weight *w = j->w;
    const size_t unit = j->unit;
    const uint8_t *from = (const uint8_t *)w->data + u0 * unit;
    const bool order = j->k->placed[w->enc].pack;

    if (!order)
        memcpy(j->to + u0 * unit, from, n * unit);
    for (size_t u = 0; u < n && order; u++) {
        struct rows16 rows = { 0 };

        for (size_t r = 0; r < LANES; r++)
            rows.at[r] = from + u * unit + r * w->row_bytes;
        j->k->placed[w->enc].pack(j->to + (u0 + u) * unit, &rows, w->cols / GROUP);
    }
    map_forget(from, n * unit);
}

/* The units of w that thread me of n has in a product (linear.c, share_out). */
static void share(const struct weight *w, int me, int n, size_t *lo, size_t *hi)
{
    const size_t units = w->rows / LANES, before = w->with.before / LANES;

    team_part(w->with.rows ? w->with.rows / LANES : units, 1, me, n, lo, hi);
    *lo = *lo < before ? 0 : *lo - before < units ? *lo - before : units;
    *hi = *hi < before ? 0 : *hi - before < units ? *hi - before : units;
}

static void place_part(void *arg, int me, int n)
{
    const struct place_job *j = arg;
    const bool planes = planes_bits(j->w->enc), exact = j->exact && j->exact->pack;
    const size_t twice = TWICE / (size_t)n / j->unit, least = STEP / j->unit + 1;
    const size_t step = planes ? BESIDE : twice > least ? twice : least;
    size_t lo, hi;

    share(j->w, me, n, &lo, &hi);
    for (size_t u = lo; u < hi; u += step)
        (exact    ? pack_exact
         : planes ? pack_planes
                  : pack_rows)(j, u, hi - u < step ? hi - u : step);
}

/* n bytes in *s. */
static int slab_get(struct cpu *b, struct slab **s, size_t n, struct err *e)
{
    void *p;

    if (b->slabs && b->slabs->n - b->slabs->used >= n) {
        *s = b->slabs;
        return 0;
    }
    const size_t bytes = n > SLAB ? n : SLAB;

    if (mem_map(&p, bytes, "weights", e))
        return -1;
    *s = xcalloc(1, sizeof(**s));
    **s = (struct slab){ .next = b->slabs, .p = p, .n = bytes };
    b->slabs = *s;
    return 0;
}

static bool places(const struct ctx *c, const struct weight *w)
{
    const struct cpu *b = c->backend;

    if (w->placed || !w->data || c->compute != COMPUTE_AUTO || w->rows % LANES)
        return false;
    if (w->enc == ENC_F16)
        return weight_bytes(w) >= LARGE;
    if (w->enc == ENC_BF16)
        return b->k.placed[ENC_BF16].pack && w->cols % GROUP == 0;
    return linear_exact(&b->k, c->compute, w) ||
           (w->p.act == ACT_KEEP && b->k.placed[w->enc].dot && linear_unpacks(&b->k, w));
}

int place_cpu(struct ctx *c, struct weight *w, struct err *e)
{
    struct cpu *b = c->backend;
    struct place_job j = { .k = &b->k, .w = w, .exact = linear_exact(&b->k, c->compute, w) };
    struct slab *s;

    if (!places(c, w))
        return 0;
    const size_t units = w->rows / LANES;

    j.unit = j.exact && j.exact->pack ? j.exact->unit(w) : placed_unit_bytes(w);
    if (slab_get(b, &s, units * j.unit, e))
        return -1;
    j.to = s->p + s->used;
    s->used += (units * j.unit + 63) / 64 * 64;
    s->used = s->used < s->n ? s->used : s->n;
    s->weights++;
    team_run(c->team, place_part, &j);
    if (planes_bits(w->enc)) /* a line of AWQ or GPTQ belongs to many units: these go as a whole */
        map_forget(w->data, w->rows * w->cols * planes_bits(w->enc) / 8);
    if (j.exact && j.exact->pack) /* scales are part of its units */
        map_forget(w->p.scale, w->rows * w->cols / w->p.group * enc_table[w->p.scale_enc].bytes);
    w->placed = j.to;
    return 0;
}

void placed_row(const struct cpu_kern *k, float *y, const struct weight *w, size_t r)
{
    enum { BLOCK = 8 * GROUP };
    const uint8_t *unit = (const uint8_t *)w->placed + r / LANES * LANES * w->row_bytes;
    uint8_t file[2 * BLOCK];

    for (size_t i = 0; i < w->cols; i += BLOCK) {
        const size_t n = w->cols - i < BLOCK ? w->cols - i : BLOCK;

        k->placed[w->enc].unpack_row(file, unit, w->cols / GROUP, r % LANES, i / GROUP, n / GROUP);
        enc_table[w->enc].decode(y + i, file, n);
    }
}

void unplace_cpu(struct ctx *c, struct weight *w)
{
    struct cpu *b = c->backend;
    const uint8_t *p = w->placed;

    for (struct slab **at = &b->slabs, *s; p && (s = *at); at = &s->next) {
        if (p < s->p || p >= s->p + s->n)
            continue;
        if (--s->weights == 0) {
            *at = s->next;
            mem_unmap(s->p, s->n);
            free(s);
        }
        break;
    }
    w->placed = NULL;
}
