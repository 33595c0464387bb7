/* linear.c - y = x W^T for every encoding: activations are brought into the weights' arithmetic
 * once, then every thread has a share of units of 16 weight rows that follow one another, so that
 * it reads one stream; who is done takes from the others' shares. A unit covers all tokens, so its
 * weights are read and unpacked once. */
#include <stdatomic.h>

#include "backend/cpu/cpu_int.h"

enum {
    PANEL_T = 256,   /* tokens whose sums (32 KiB) and rows stay near while a panel is used */
    PLACED_T = 16,   /* tokens whose sums, and where they go, stay near while a unit is used */
    PUT_AHEAD = 16,  /* tokens between the sums that are stored and where the next will go */
    PLANES_ROWS = 8, /* that decode_planes takes */
    FEW = 4,         /* tokens of floats, up to which they are read where they lie */
    ALONE = 1 << 15, /* multiply-adds below which waking the team costs more than it brings */
    COLUMNS = 64,    /* units that a kernel over columns sweeps at least: 512 bytes of AWQ's rows */
    LINE = 16,       /* numbers of a line */
    MAX_OUT = 8,
};

enum path { PATH_Q8, PATH_F32, PATH_ROUNDED, PATH_BF16, PATH_ACT, PATH_EXACT };

struct job {
    const struct cpu *b;
    const struct linear_out *out;
    size_t n, T, K;
    const float *x;
    bool add;
    enum path path[MAX_OUT];
    size_t first[MAX_OUT + 1];                /* units before output i */
    bool q8, rounded, bf, act, exact, blocks; /* which forms of x are wanted */
    enum exact_in in;
    struct q8 x8;
    bf16 *xb;
    size_t xbs;  /* row_bf16(K) */
    float *xf;   /* x rounded, as p.act makes it, in p.order, or in blocks */
    uint8_t *xe; /* forms for exact kernels, in the place of xf */
    size_t apart;
    uint8_t *thread;
    size_t thread_bytes;
    bool prepared;
    size_t grain; /* units taken at a time */
    size_t whole; /* units that shares are multiples of */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Units next .. end; it lies in front of what its thread works in. */
struct share {
    _Alignas(64) atomic_size_t next;
    size_t end;
};

static struct share *share_of(const struct job *j, int thread)
{
    return (struct share *)(j->thread + (size_t)thread * j->thread_bytes);
}

bool linear_unpacks(const struct cpu_kern *k, const struct weight *w)
{
    if (k->unpack[w->enc])
        return true;
    return k->unpack_planes[w->enc] && w->cols % GROUP == 0 && w->p.group % GROUP == 0 &&
           (!w->p.group_of || w->p.order);
}

/* Whether its words hold many outputs and there is a kernel for that, of one token. */
static bool by_columns(const struct cpu_kern *k, const struct weight *w, size_t T)
{
    return T == 1 && k->columns[w->enc] && !w->placed && !w->p.order && w->rows % 8 == 0;
}

static enum exact_in exact_in(enum compute compute, const struct weight *w)
{
    return compute == COMPUTE_BF16 ? EXACT_BF16 : w->p.act != ACT_KEEP ? EXACT_ACT : EXACT_FLOAT;
}

const struct exact_kern *linear_exact(const struct cpu_kern *k, enum compute compute,
                                      const struct weight *w)
{
    const enum exact_in in = exact_in(compute, w);
    const struct exact_kern *e = &k->exact[in][w->enc];

    return compute != COMPUTE_F32 && e->bytes && e->bytes(w, in) ? e : NULL;
}

/* `prompt`: of rows that belong to one */
static enum path path_of(const struct cpu_kern *k, enum compute compute, const struct weight *w,
                         bool prompt)
{
    if (compute == COMPUTE_F32)
        return PATH_F32;
    if (linear_exact(k, compute, w))
        return PATH_EXACT;
    if (compute == COMPUTE_AUTO && w->p.act != ACT_KEEP)
        return PATH_ACT;
    if (compute == COMPUTE_AUTO && linear_unpacks(k, w))
        return prompt && k->bf16_prompts ? PATH_BF16 : PATH_Q8;
    if (w->enc == ENC_BF16)
        return k->dot_bf16 ? PATH_BF16 : PATH_ROUNDED;
    return compute == COMPUTE_BF16 ? PATH_ROUNDED : PATH_F32;
}

enum { BLOCK = DOT_K + 64 / sizeof(float) }; /* floats from a token to the next in a block */

/* Inputs in blocks of DOT_K values of all tokens, which a kernel reads as one stream. */
static size_t blocks_bytes(size_t T, size_t K)
{
    return (K + DOT_K - 1) / DOT_K * T * BLOCK * sizeof(float);
}

static void round_floats(float *to, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

/* Row t of x to its place in the blocks. */
static void to_blocks(const struct job *j, size_t t, const float *x)
{
    for (size_t k = 0; k < j->K; k += DOT_K) {
        float *to = j->xf + (k / DOT_K * j->T + t) * BLOCK;
        const size_t n = smaller(j->K - k, DOT_K);

        if (j->rounded)
            round_floats(to, x + k, n);
        else
            memcpy(to, x + k, n * sizeof(*to));
    }
}

/* Rows as 8 bits. What a group has a number of lies with the tokens side by side, so threads share
 * out lines of tokens first, groups then: a line that several write goes from core to core at every
 * write, which took a tenth of a step of 32 sequences on eight threads. */
static void quantise(const struct job *j, int me, int n)
{
    const size_t lines = (j->T + LINE - 1) / LINE, G = j->K / GROUP;
    const size_t parts = ((size_t)n + lines - 1) / lines, each = (G + parts - 1) / parts;
    const float *x = j->out[0].w->p.order ? j->xf : j->x;

    for (size_t u = (size_t)me; u < lines * parts; u += (size_t)n) {
        const size_t g = u % parts * each, t0 = u / parts * LINE;

        for (size_t t = t0; g < G && t < smaller(t0 + LINE, j->T); t++)
            j->b->k.quantise(&j->x8, t, x + t * j->K, g, smaller(each, G - g));
    }
}

/* The forms of x that are wanted: thread `me` of n makes its part. */
static void prepare(const struct job *j, int me, int n)
{
    const struct weight *w = j->out[0].w;
    size_t lo, hi;

    team_part(j->T, j->bf ? j->b->k.bf16_tokens : 1, me, n, &lo, &hi);
    for (size_t t = lo; t < hi; t++) {
        const float *x = j->x + t * j->K;

        if (j->exact)
            j->b->k.exact[j->in][w->enc].form(j->xe + t * j->apart, w, j->in, x);
        if (j->act)
            weight_act(j->xf + t * j->K, w, x);
        if ((j->q8 || j->bf) && w->p.order) {
            for (size_t i = 0; i < j->K; i++)
                j->xf[t * j->K + i] = x[w->p.order[i]];
            x = j->xf + t * j->K;
        }
        if (j->q8)
            j->x8.far[t] = j->b->k.far(x, j->K);
        if (j->blocks)
            to_blocks(j, t, x);
        else if (j->rounded)
            round_floats(j->xf + t * j->K, x, j->K);
    }
    if (j->bf)
        j->b->k.pack_bf16(j->xb + lo * j->xbs, j->xbs, (w->p.order ? j->xf : j->x) + lo * j->K,
                          hi - lo, j->K);
    if (j->q8 && n > 1)
        team_barrier(j->b->ctx.team, me);
    if (j->q8)
        quantise(j, me, n);
}

/* y[16] = or += acc[16]; known to be apart, so that compilers make vectors of it */
static inline void put_unit(float *restrict y, const float *restrict acc, bool add)
{
    if (!add)
        memcpy(y, acc, LANES * sizeof(*y));
    for (size_t r = 0; add && r < LANES; r++)
        y[r] += acc[r];
}

static void put_rows(const struct job *j, const struct linear_out *o, size_t t, size_t r0, size_t R,
                     const float *acc)
{
    float *y = o->y + t * o->w->rows + r0;

    if (R == LANES) {
        put_unit(y, acc, j->add);
        return;
    }
    for (size_t r = 0; r < R; r++)
        y[r] = acc[r] + (j->add ? y[r] : 0);
}

/* Sixteen rows from r0 on, of which there are R; what is read after them is `ahead` rows on. */
struct rows16 rows_at(const struct weight *w, size_t r0, size_t R, size_t ahead)
{
    struct rows16 rows = { .of = w, .r0 = r0, .R = R };

    for (size_t r = 0; r < LANES; r++)
        rows.at[r] = (const uint8_t *)w->data + (r0 + smaller(r, R - 1)) * w->row_bytes;
    rows.next[0] = rows.at[0] + ahead * w->row_bytes;
    rows.next[1] = rows.next[0] + LANES / 2 * w->row_bytes;
    return rows;
}

/* The unit of rows r0 .. r0+15 of a placed weight. */
static const uint8_t *unit_at(const struct weight *w, size_t r0)
{
    return (const uint8_t *)w->placed + r0 / LANES * placed_unit_bytes(w);
}

/* R rows, a multiple of 16, straight from the kernels' order. */
static void unit_placed(const struct job *j, const struct linear_out *o, size_t r0, size_t R,
                        float *acc)
{
    const struct placed_kern *p = &j->b->k.placed[o->w->enc];

    for (size_t r = r0; r < r0 + R; r += LANES) {
        for (size_t t0 = 0; t0 < j->T; t0 += PLACED_T) {
            const size_t T = smaller(j->T - t0, PLACED_T);

            for (size_t t = 0; t < T; t++) /* far apart: nothing else fetches them */
                __builtin_prefetch(o->y + (t0 + t) * o->w->rows + r, 1);
            p->dot(acc, unit_at(o->w, r), o->w, &j->x8, t0, T);
            for (size_t t = 0; t < T; t++)
                put_rows(j, o, t0 + t, r, LANES, acc + t * LANES);
        }
    }
}

void unpack_panel(const struct cpu_kern *k, struct group *p, const struct weight *w, size_t r0,
                  size_t R, size_t g0, size_t ng)
{
    if (w->placed) {
        k->placed[w->enc].unpack(p, unit_at(w, r0), w, g0, ng);
    } else if (k->unpack[w->enc]) {
        const struct rows16 rows = rows_at(w, r0, R, PANELS * LANES);

        k->unpack[w->enc](p, &rows, g0, ng);
    } else {
        k->unpack_planes[w->enc](p, w, r0, R, g0, ng);
    }
}

/* R rows: panels of 16, of which the last may have fewer. */
static void unit_q8(const struct job *j, const struct linear_out *o, size_t r0, size_t R, void *mem)
{
    const struct weight *w = o->w;
    const struct cpu_kern *k = &j->b->k;
    const size_t G = j->K / GROUP, P = (R + LANES - 1) / LANES;
    struct group *panel = mem;
    float *acc = (float *)(panel + k->panels * CHUNK);

    if (w->placed && j->T <= k->placed[w->enc].most) {
        unit_placed(j, o, r0, R, mem);
        return;
    }
    if (j->T == 1 && k->row[w->enc] && !w->p.order) {
        for (size_t i = 0; i < P; i++) {
            const size_t n = smaller(R - i * LANES, LANES);
            const struct rows16 rows = rows_at(w, r0 + i * LANES, n, LANES);

            k->row[w->enc](acc, &rows, &j->x8, 0);
            put_rows(j, o, 0, r0 + i * LANES, n, acc);
        }
        return;
    }
    for (size_t t0 = 0; t0 < j->T; t0 += PANEL_T) {
        const size_t T = smaller(j->T - t0, PANEL_T), n = P * T * LANES;
        dot_fn *const(*dot)[2] = T >= k->many ? k->dot_many : k->dot;
        float *rest = acc + n;

        memset(acc, 0, 2 * n * sizeof(*acc));
        for (size_t g = 0; g < G; g += CHUNK) {
            const size_t ng = smaller(G - g, CHUNK);

            for (size_t i = 0; i < P; i++)
                unpack_panel(k, panel + i * CHUNK, w, r0 + i * LANES, smaller(R - i * LANES, LANES),
                             g, ng);
            dot[k->codes[w->enc]][k->offset[w->enc]](acc, rest, panel, P, ng, &j->x8, g, t0, T);
        }
        for (size_t i = 0; i < n; i += LANES)
            put_unit(acc + i, rest + i, true);
        for (size_t t = 0; t < T; t++) {
            __builtin_prefetch(o->y + (t0 + smaller(t + PUT_AHEAD, T - 1)) * o->w->rows + r0, 1);
            for (size_t i = 0; i < P; i++)
                put_rows(j, o, t0 + t, r0 + i * LANES, smaller(R - i * LANES, LANES),
                         acc + (i * T + t) * LANES);
        }
    }
}

static void decode_row(const struct cpu *b, float *y, const struct weight *w, size_t r)
{
    const uint8_t *p = (const uint8_t *)w->data + r * w->row_bytes;

    if (w->enc == ENC_F16)
        b->k.decode_f16(y, weight_copy(w) + r * w->row_bytes, w->cols);
    else if (w->enc == ENC_BF16)
        b->k.decode_bf16(y, p, w->cols);
    else
        enc_table[w->enc].decode(y, p, w->cols);
}

/* x in rows, or in blocks */
static void unit_floats(const struct job *j, const struct linear_out *o, const float *x,
                        bool blocks, size_t r0, size_t R, float *rows)
{
    const struct cpu_kern *k = &j->b->k;
    const size_t xs = blocks ? BLOCK : j->K, xk = blocks ? j->T * BLOCK : DOT_K;

    if (j->T == 1 && !blocks && k->row_floats[o->w->enc] &&
        k->row_floats[o->w->enc](o->y + r0, o->w, r0, R, x, j->add))
        return;
    for (size_t r = 0; r < R; r += DOT_ROWS) {
        const size_t n = smaller(R - r, DOT_ROWS);
        const float *from = rows;

        if (o->w->enc == ENC_F32 && (uintptr_t)o->w->data % sizeof(float) == 0)
            from = (const float *)o->w->data + (r0 + r) * j->K;
        else if (k->decode_planes[o->w->enc])
            for (size_t i = 0; i < n; i += PLANES_ROWS)
                k->decode_planes[o->w->enc](rows + i * j->K, o->w, r0 + r + i,
                                            smaller(n - i, PLANES_ROWS));
        else
            for (size_t i = 0; i < n; i++)
                decode_row(j->b, rows + i * j->K, o->w, r0 + r + i);
        k->dot_f32(o->y + r0 + r, o->w->rows, from, j->K, n, x, xs, xk, j->T, j->K, j->add);
    }
}

/* Units that a kernel takes together. */
static size_t panels_of(const struct cpu_kern *k, enum path path, size_t T)
{
    switch (path) {
    case PATH_Q8:
        return k->panels;
    case PATH_BF16:
        return k->bf16_rows / LANES;
    case PATH_F32:
    case PATH_ROUNDED:
    case PATH_ACT:
        return T > FEW ? DOT_ROWS / LANES : 1;
    case PATH_EXACT:
        return 1;
    }
    return 1;
}

/* Unit u, and with it those before `end` that the kernel takes together; returns how many. */
static size_t unit(const struct job *j, size_t u, size_t end, void *mem)
{
    size_t i = 0;

    while (u >= j->first[i + 1])
        i++;
    const struct linear_out *o = &j->out[i];
    const size_t r0 = (u - j->first[i]) * LANES;

    if (j->path[i] == PATH_Q8 && by_columns(&j->b->k, o->w, j->T)) {
        const size_t all = smaller(end, j->first[i + 1]) - u;

        j->b->k.columns[o->w->enc](o->y + r0, o->w, r0, smaller(o->w->rows - r0, all * LANES),
                                   &j->x8, j->add);
        return all;
    }
    const size_t n =
        smaller(smaller(end, j->first[i + 1]) - u, panels_of(&j->b->k, j->path[i], j->T));
    const size_t R = smaller(o->w->rows - r0, n * LANES);

    switch (j->path[i]) {
    case PATH_Q8:
        unit_q8(j, o, r0, R, mem);
        break;
    case PATH_BF16:
        j->b->k.dot_bf16(o->y + r0, o->w->rows, &j->b->k, o->w, r0, R, j->xb, j->xbs, j->T, j->add,
                         mem);
        break;
    case PATH_F32:
        if (j->blocks && !j->rounded)
            unit_floats(j, o, j->xf, true, r0, R, mem);
        else
            unit_floats(j, o, j->x, false, r0, R, mem);
        break;
    case PATH_EXACT:
        j->b->k.exact[j->in][o->w->enc].dot(o->y + r0, o->w->rows, o->w, r0, R, j->in, j->xe, j->T,
                                            j->add);
        break;
    case PATH_ROUNDED:
        unit_floats(j, o, j->xf, j->blocks, r0, R, mem);
        break;
    case PATH_ACT:
        unit_floats(j, o, j->xf, false, r0, R, mem);
        break;
    }
    return n;
}

/* What is left of a share, a grain at a time. */
static void work_off(const struct job *j, struct share *s, void *mem)
{
    for (;;) {
        const size_t u = atomic_fetch_add_explicit(&s->next, j->grain, memory_order_relaxed);

        if (u >= s->end)
            return;
        for (size_t i = u, end = smaller(u + j->grain, s->end); i < end;)
            i += unit(j, i, end, mem);
    }
}

static void part(void *arg, int me, int n)
{
    const struct job *j = arg;
    void *mem = share_of(j, me) + 1;

    if (!j->prepared) {
        prepare(j, me, n);
        team_barrier(j->b->ctx.team, me);
    }
    for (int i = 0; i < n; i++)
        work_off(j, share_of(j, (me + i) % n), mem);
}

static void share_out(const struct job *j, int threads)
{
    for (int i = 0; i < threads; i++) {
        struct share *s = share_of(j, i);
        size_t lo;

        team_part(j->first[j->n], j->whole, i, threads, &lo, &s->end);
        atomic_init(&s->next, lo);
    }
}

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Values of a bf16 row of x and of what lies behind it: rows an odd number of 4 KiB and 64 bytes
 * apart meet in as few sets of the caches as can be. */
static size_t row_bf16(size_t K)
{
    enum { PAGE = 4096 / sizeof(bf16) };
    const size_t n = (K + 31) / 32 * 32;

    return n + 32 + (n && n % (2 * PAGE) == 0 ? PAGE : 0);
}

/* Numbers of a group of T rows: whole lines, an odd number of them, for powers of two meet in few
 * sets of the caches. */
static size_t row_scales(size_t T)
{
    return T < LINE ? T : ((T + LINE - 1) / LINE | 1) * LINE;
}

/* One plane of struct q8 that has a number for each group of T rows. */
static size_t scale_bytes(size_t T, size_t K)
{
    return round64(row_scales(T) * (K / GROUP) * 4);
}

/* Its two planes of bytes, seven such planes, one of flags, and a number for each row. */
static size_t q8_bytes(size_t T, size_t K)
{
    return 2 * round64(T * K) + 7 * scale_bytes(T, K) + round64(row_scales(T) * (K / GROUP)) +
           round64(T * sizeof(float));
}

/* What one output needs; make_room and the planner both go by it. */
static void need_linear(struct cpu_need *need, const struct cpu_kern *k, enum compute compute,
                        enum path path, const struct weight *w, size_t T)
{
    const size_t sums = 2 * smaller(T, PANEL_T) * LANES * sizeof(float);
    const size_t K = w->cols, copy = T * K * sizeof(float);

    need->thread =
        larger(need->thread,
               sizeof(struct share) + round64(k->panels * (CHUNK * sizeof(struct group) + sums)));
    switch (path) {
    case PATH_Q8:
        need->x8 = larger(need->x8, q8_bytes(T, K));
        if (w->p.order)
            need->xf = larger(need->xf, copy);
        break;
    case PATH_BF16:
        need->thread = larger(need->thread, sizeof(struct share) + round64(k->bf16_room));
        if (w->p.order)
            need->xf = larger(need->xf, copy);
        need->xb = larger(need->xb, (T + k->bf16_tokens - 1) / k->bf16_tokens * k->bf16_tokens *
                                        row_bf16(K) * sizeof(bf16));
        break;
    case PATH_EXACT:
        need->xf = larger(
            need->xf, T * exact_apart(linear_exact(k, compute, w)->bytes(w, exact_in(compute, w))));
        break;
    case PATH_ROUNDED:
    case PATH_ACT:
    case PATH_F32:
        if (path != PATH_ACT && T > FEW)
            need->xf = larger(need->xf, blocks_bytes(T, K));
        else if (path != PATH_F32)
            need->xf = larger(need->xf, copy);
        need->thread =
            larger(need->thread, sizeof(struct share) + round64(DOT_ROWS * K * sizeof(float)));
        break;
    }
}

/* Rows may be a prompt's or not: what is planned is there from the first pass on. */
static void need_paths(struct cpu_need *need, const struct cpu_kern *k, enum compute compute,
                       const struct weight *w, size_t T)
{
    need_linear(need, k, compute, path_of(k, compute, w, false), w, T);
    if (k->bf16_prompts)
        need_linear(need, k, compute, path_of(k, compute, w, true), w, T);
}

void cpu_need_linear(struct cpu_need *need, unsigned flags, enum compute compute,
                     const struct weight *w, size_t T)
{
    struct cpu_kern k;

    cpu_kern_init(&k, flags);
    need_paths(need, &k, compute, w, T);
}

static void make_room(struct job *j, struct cpu *b)
{
    const size_t q = round64(j->T * j->K), d = scale_bytes(j->T, j->K);
    struct cpu_need need = { 0 };

    for (size_t i = 0; i < j->n; i++) {
        need_paths(&need, &b->k, b->ctx.compute, j->out[i].w, j->T);
        j->q8 |= j->path[i] == PATH_Q8;
        j->rounded |= j->path[i] == PATH_ROUNDED;
        j->bf |= j->path[i] == PATH_BF16;
        j->act |= j->path[i] == PATH_ACT;
        j->exact |= j->path[i] == PATH_EXACT;
        j->blocks |= (j->path[i] == PATH_F32 || j->path[i] == PATH_ROUNDED) && j->T > FEW;
    }
    int8_t *p = need.x8 ? room_get(&b->x8, need.x8) : NULL;

    if (j->q8) {
        uint8_t *f = (uint8_t *)p + 2 * q;

        j->x8 =
            (struct q8){ .q = p,
                         .r = p + q,
                         .d = (float *)f,
                         .e = (float *)(f + d),
                         .s = (float *)(f + 2 * d),
                         .n = (int32_t *)(f + 3 * d),
                         .n0 = (int32_t *)(f + 4 * d),
                         .nr = (int32_t *)(f + 5 * d),
                         .nr0 = (int32_t *)(f + 6 * d),
                         .more = f + 7 * d,
                         .far = (float *)(f + 7 * d + round64(row_scales(j->T) * (j->K / GROUP))),
                         .T = row_scales(j->T),
                         .K = j->K,
                         .ahead = b->k.ahead };
    }
    if (need.xf)
        j->xf = room_get(&b->xf, need.xf);
    if (j->exact) {
        const struct weight *w = j->out[0].w;

        j->in = exact_in(b->ctx.compute, w);
        j->apart = exact_apart(b->k.exact[j->in][w->enc].bytes(w, j->in));
        j->xe = (uint8_t *)j->xf;
    }
    if (need.xb)
        j->xb = room_get(&b->xb, need.xb);
    j->thread_bytes = need.thread;
    j->thread = room_get(&b->thread, j->thread_bytes * (size_t)team_size(b->ctx.team));
}

/* T rows, of prompts all or none */
static void run(struct ctx *c, const struct linear_out *out, size_t n, const float *x, size_t T,
                bool prompt, bool add)
{
    struct cpu *b = c->backend;
    struct job j = { .b = b, .out = out, .n = n, .T = T, .x = x, .add = add };
    const size_t threads = (size_t)team_size(c->team);
    size_t together = 1;

    BUG_ON(n > MAX_OUT);
    if (n == 0 || T == 0)
        return;
    j.K = out[0].w->cols;
    j.xbs = row_bf16(j.K);
    for (size_t i = 0; i < n; i++) {
        BUG_ON(out[i].w->cols != j.K);
        j.path[i] = path_of(&b->k, c->compute, out[i].w, prompt);
        together = larger(together, panels_of(&b->k, j.path[i], T));
        j.first[i + 1] = j.first[i] + (out[i].w->rows + LANES - 1) / LANES;
    }
    make_room(&j, b);
    const size_t units = j.first[n];

    /* a neighbour on the core delays the end by a sixteenth of a share at most */
    j.grain = larger(units / (16 * threads), 1);
    j.whole = 1;
    /* one row of words after the other is what memory is fast at */
    for (size_t i = 0; i < n; i++) {
        if (j.path[i] == PATH_Q8 && by_columns(&b->k, out[i].w, T)) {
            j.grain = larger(j.grain, larger(units / (4 * threads), COLUMNS));
            j.whole = 8; /* a line of AWQ's words */
        }
    }
    for (size_t few = together; few > 1; few /= 2) {
        if (units >= 4 * few * threads) { /* whole pairs of panels, or fours */
            j.grain = (j.grain + few - 1) / few * few;
            break;
        }
    }
    j.prepared = T < 4;
    if (j.prepared)
        prepare(&j, 0, 1);
    if (threads == 1 || units * LANES * j.K * T < ALONE) {
        if (!j.prepared)
            prepare(&j, 0, 1);
        j.prepared = true;
        share_out(&j, 1);
        part(&j, 0, 1);
    } else {
        share_out(&j, (int)threads);
        team_run(c->team, part, &j);
    }
}

/* The same of any rows: those of prompts, where they have a path of their own, and others run by
 * run. */
static void runs(struct ctx *c, const struct linear_out *out, size_t n, const float *x, size_t T,
                 bool add)
{
    const struct cpu *b = c->backend;
    struct linear_out part[MAX_OUT];

    BUG_ON(n > MAX_OUT);
    if (!b->k.bf16_prompts || !c->pass) {
        run(c, out, n, x, T, false, add);
        return;
    }
    for (size_t t = 0, m; t < T; t += m) {
        const bool prompt = row_of_prompt(c, t);

        for (m = 1; t + m < T && row_of_prompt(c, t + m) == prompt;)
            m++;
        for (size_t i = 0; i < n; i++)
            part[i] = (struct linear_out){ out[i].y + t * out[i].w->rows, out[i].w };
        run(c, part, n, x + t * out[0].w->cols, m, prompt, add);
    }
}

/* Outputs that read the same form of x go together. */
static bool together(const struct ctx *c, const struct weight *a, const struct weight *b)
{
    const struct cpu_kern *k = &((const struct cpu *)c->backend)->k;
    const bool exact = path_of(k, c->compute, a, false) == PATH_EXACT;

    if (exact != (path_of(k, c->compute, b, false) == PATH_EXACT) || (exact && a->enc != b->enc))
        return false;
    return weight_same_act(a, b) && a->p.order == b->p.order;
}

void linear_cpu(struct ctx *c, const struct linear_out *out, size_t n, const float *x, size_t T)
{
    for (size_t i = 0, k; i < n; i += k) {
        for (k = 1; i + k < n && k < MAX_OUT && together(c, out[i].w, out[i + k].w);)
            k++;
        runs(c, out + i, k, x, T, false);
    }
}

void linear_add_cpu(struct ctx *c, float *y, const struct weight *w, const float *x, size_t T)
{
    const struct linear_out out = { y, w };

    runs(c, &out, 1, x, T, true);
}
