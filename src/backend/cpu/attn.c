/* attn.c - attention over the paged cache. Query heads that share a kv head, of one row or of some
 * that follow one another, meet each cache block together: it is read and widened once.
 *
 * Slots are cut into spans of SPAN, each with a softmax of its own, merged in order. Where rows are
 * too few for the threads, spans are shared out; the sums are the same. */
#include <math.h>
#include <stdatomic.h>

#include "backend/cpu/cpu_int.h"

enum { SPAN = 1024 };

struct attn_job {
    struct ctx *c;
    const struct cpu_kern *k;
    attn_fn *prompt; /* that takes rows of prompts */
    float *y;
    const float *q;
    size_t H, layer, group, rows; /* query heads for each kv head; rows of a unit */
    const struct kv_cache *kv;
    const struct batch *b;
    uint8_t *thread;
    size_t thread_bytes;
    float *split; /* [T][H][spans][state], or NULL */
    size_t spans; /* of the longest row */
    atomic_size_t next, merged;
};

/* the states of a unit, those of its next span, then the kernel's room */
size_t attn_room_bytes(size_t hd)
{
    return (2 * ATTN_QUERIES * ATTN_STATE(hd) + ATTN_ROOM(hd)) * sizeof(float);
}

static size_t slots_of(const struct attn_job *j, size_t t)
{
    return (size_t)j->b->slot[t] + 1;
}

/* What computes row t. */
static attn_fn *kernel_of(const struct attn_job *j, size_t t)
{
    return row_of_prompt(j->c, t) ? j->prompt : j->k->attn;
}

static void finish(const struct attn_job *j, size_t t, size_t h, const float *state)
{
    const size_t hd = j->kv->head_dim;
    const float by = 1 / state[ATTN_WIDTH(hd) + 1];
    float *y = j->y + (t * j->H + h) * hd;

    for (size_t i = 0; i < hd; i++)
        y[i] = state[i] * by;
}

/* rows t0 .. t0+n of one sequence and kernel, heads h .. h+m of kv head kh, slots from .. to */
static void span(const struct attn_job *j, size_t t0, size_t n, size_t h, size_t m, size_t from,
                 size_t to, float *const *state, float *room)
{
    const size_t hd = j->kv->head_dim;
    const struct attn_span s = { .kv = j->kv,
                                 .layer = j->layer,
                                 .kh = h / j->group,
                                 .from = from,
                                 .to = to,
                                 .table = j->b->block_table[j->b->seq[t0]] };
    struct attn_query query[ATTN_QUERIES];

    for (size_t i = 0; i < n * m; i++)
        query[i] = (struct attn_query){ j->q + ((t0 + i / m) * j->H + h + i % m) * hd, state[i],
                                        slots_of(j, t0 + i / m) - 1 };
    BUG_ON((uintptr_t)room % 64 || (uintptr_t)state[0] % 64);
    kernel_of(j, t0)(query, n * m, &s, room);
}

/* All spans of some rows of one sequence, one after the other. */
static void in_turn(const struct attn_job *j, size_t t0, size_t n, size_t h, size_t m, float *room)
{
    const size_t hd = j->kv->head_dim, size = ATTN_STATE(hd), last = slots_of(j, t0 + n - 1);
    float *state[2][ATTN_QUERIES], *rest = room + 2 * ATTN_QUERIES * size;

    for (size_t i = 0; i < 2 * n * m; i++)
        state[i / (n * m)][i % (n * m)] = room + i * size;
    for (size_t from = 0; from < last; from += SPAN) {
        const size_t to = last < from + SPAN ? last : from + SPAN;

        span(j, t0, n, h, m, from, to, state[from > 0], rest);
        for (size_t i = 0; from > 0 && i < n * m; i++)
            if (slots_of(j, t0 + i / m) > from)
                j->k->attn_merge(state[0][i], state[1][i], hd);
    }
    for (size_t i = 0; i < n * m; i++)
        finish(j, t0 + i / m, h + i % m, state[0][i]);
}

/* Unit u, counted from the last row, which sees most: rows that follow one another in one sequence
 * and the heads of one kv head, in parts of ATTN_QUERIES. */
static void unit(const struct attn_job *j, size_t u, float *room)
{
    const size_t K = j->kv->kv_heads, blocks = (j->b->T + j->rows - 1) / j->rows;
    const size_t first = (blocks - 1 - u / K) * j->rows, h = u % K * j->group;
    const size_t end = first + j->rows < j->b->T ? first + j->rows : j->b->T;

    for (size_t t = first, n; t < end; t += n) {
        for (n = 1; t + n < end && j->b->seq[t + n] == j->b->seq[t] &&
                    j->b->slot[t + n] > j->b->slot[t + n - 1] &&
                    kernel_of(j, t + n) == kernel_of(j, t);)
            n++;
        for (size_t i = 0; i < j->group; i += ATTN_QUERIES) {
            const size_t left = j->group - i;

            in_turn(j, t, n, h + i, left < ATTN_QUERIES ? left : ATTN_QUERIES, room);
        }
    }
}

/* One span of one row and one kv head; later, one head's spans merged. */
static void split_unit(const struct attn_job *j, size_t u, float *room)
{
    const size_t K = j->kv->kv_heads, size = ATTN_STATE(j->kv->head_dim);
    const size_t t = u / (K * j->spans), kh = u / j->spans % K, from = u % j->spans * SPAN;
    const size_t slots = slots_of(j, t), to = slots < from + SPAN ? slots : from + SPAN;

    for (size_t i = 0; from < slots && i < j->group; i += ATTN_QUERIES) {
        const size_t left = j->group - i, m = left < ATTN_QUERIES ? left : ATTN_QUERIES;
        float *state[ATTN_QUERIES];

        for (size_t n = 0; n < m; n++)
            state[n] =
                j->split + ((t * j->H + kh * j->group + i + n) * j->spans + from / SPAN) * size;
        span(j, t, 1, kh * j->group + i, m, from, to, state, room);
    }
}

static void merge_unit(const struct attn_job *j, size_t u)
{
    const size_t hd = j->kv->head_dim, size = ATTN_STATE(hd);
    float *state = j->split + u * j->spans * size;

    for (size_t i = 1; i * SPAN < slots_of(j, u / j->H); i++)
        j->k->attn_merge(state, state + i * size, hd);
    finish(j, u / j->H, u % j->H, state);
}

static void part(void *arg, int me, int n)
{
    struct attn_job *j = arg;
    float *room = (float *)(j->thread + (size_t)me * j->thread_bytes);
    const size_t T = j->b->T, K = j->kv->kv_heads;
    const size_t units = j->split ? T * K * j->spans : (T + j->rows - 1) / j->rows * K;

    for (size_t u; (u = atomic_fetch_add(&j->next, 1)) < units;) {
        if (j->split)
            split_unit(j, u, room);
        else
            unit(j, u, room);
    }
    if (!j->split)
        return;
    if (n > 1)
        team_barrier(j->c->team, me);
    for (size_t u; (u = atomic_fetch_add(&j->merged, 1)) < T * j->H;)
        merge_unit(j, u);
}

void attn_cpu(struct ctx *c, float *y, const float *q, size_t H, const struct kv_cache *kv,
              size_t layer, const struct batch *b)
{
    struct cpu *cpu = c->backend;
    const size_t threads = (size_t)team_size(c->team), K = kv->kv_heads, T = b->T;
    struct attn_job j = { .c = c,
                          .k = &cpu->k,
                          .y = y,
                          .q = q,
                          .H = H,
                          .layer = layer,
                          .group = H / K,
                          .kv = kv,
                          .b = b };
    size_t slots = 0, longest = 0;

    BUG_ON(kv->head_dim > HEAD_MAX || H % K);
    j.prompt = c->compute == COMPUTE_F32 ? NULL : cpu->k.attn_prompt[kv->enc];
    if (!j.prompt)
        j.prompt = cpu->k.attn;
    for (size_t t = 0; t < T; t++) {
        slots += slots_of(&j, t);
        longest = slots_of(&j, t) > longest ? slots_of(&j, t) : longest;
    }
    j.rows = j.group < ATTN_QUERIES ? ATTN_QUERIES / j.group : 1;
    while (j.rows > 1 && (T + j.rows - 1) / j.rows * K < 4 * threads)
        j.rows /= 2;
    j.spans = (longest + SPAN - 1) / SPAN;
    if (j.spans > 1 && T * K < 4 * threads &&
        T * H * j.spans * ATTN_STATE(kv->head_dim) * sizeof(float) <= SPLIT_BYTES)
        j.split = cpu->split.p;
    j.thread_bytes = (attn_room_bytes(kv->head_dim) + 63) / 64 * 64;
    j.thread = room_get(&cpu->thread, j.thread_bytes * threads);
    cpu_share(c, part, &j, slots * H * kv->head_dim / 4);
}
