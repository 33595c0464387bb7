/* infer.c - memory of inference on the device that holds most, and what fits in a given room. */
#include "plan/plan_int.h"

/* The program, its libraries and threads; and an entry of the tokenizer's tables. Measured on
 * x86-64 Debian (docs/plan.md). */
static const size_t cpu_runtime = (size_t)8 << 20;
static const size_t tokenizer_entry = 120;

enum { MOST_SEQUENCES = 1 << 20 };

static size_t parts(size_t n, int k)
{
    return (n + (size_t)k - 1) / (size_t)k;
}

int plan_query_check(const struct plan_query *q, struct err *e)
{
    const struct hparams *hp = q->hp;

    if (hp->heads % q->tp || hp->ffn % q->tp)
        return err_set(e, ERR_USAGE,
                       "%d parts (--tp) do not divide %lld heads and a feed-forward width of %lld",
                       q->tp, (long long)hp->heads, (long long)hp->ffn);
    if (q->pp > hp->layers)
        return err_set(e, ERR_USAGE, "%d stages (--pp) are more than the %lld layers", q->pp,
                       (long long)hp->layers);
    if (q->ctx > (size_t)hp->ctx)
        return err_set(e, ERR_USAGE, "a context of %zu tokens is more than the model's %lld",
                       q->ctx, (long long)hp->ctx);
    if (hp->head_dim % (int64_t)enc_table[q->kv].block)
        return err_set(e, ERR_USAGE, "a %s cache needs heads of a multiple of %d values, not %lld",
                       enc_table[q->kv].name, (int)enc_table[q->kv].block, (long long)hp->head_dim);
    return 0;
}

/* The sizes of one device's share; a head that cannot be cut further is held several times. */
static struct hparams share(const struct plan_query *q, int64_t layers)
{
    struct hparams hp = *q->hp;

    hp.layers = layers;
    hp.heads /= q->tp;
    hp.kv_heads = (hp.kv_heads + q->tp - 1) / q->tp;
    hp.ffn /= q->tp;
    return hp;
}

static size_t cache_bytes(const struct plan_query *q, int64_t layers, size_t ctx, size_t sequences)
{
    const struct hparams hp = share(q, layers);
    const size_t blocks = plan_mul((ctx + KV_BLOCK - 1) / KV_BLOCK, sequences);

    return blocks == SIZE_MAX ? SIZE_MAX : kv_bytes(&hp, q->kv, blocks);
}

static void stage_layers(const struct plan_query *q, int stage, int64_t *first, int64_t *end)
{
    *first = q->hp->layers * stage / q->pp;
    *end = q->hp->layers * (stage + 1) / q->pp;
}

static size_t stage_weights(const struct plan_query *q, int stage, bool read)
{
    const struct plan_weights *w = q->w;
    size_t n = 0, largest;
    int64_t first, end;

    stage_layers(q, stage, &first, &end);
    for (int64_t l = first; l < end; l++)
        n += w->norms +
             (!read && layer_away(q->hp->layers, q->away, l) ? 0 : parts(w->layer[l], q->tp));
    plan_away_bytes(w, q->away, &largest);
    n += read ? 0 : 2 * largest;
    if (stage == q->pp - 1)
        n += parts(w->head ? w->head : w->embed, q->tp) + w->norms / 2;
    /* of the embedding a step reads a row per token; a tied one is there as the head already */
    if (stage == 0 && !read && (w->head || q->pp > 1))
        n += parts(w->embed, q->tp);
    return n;
}

/* The matrices of a loaded model, each as it is bound. */
static void model_need(struct cpu_need *need, const struct plan_query *q, size_t want)
{
    const struct model *m = q->model;

    for (int64_t l = 0; l < m->hp->layers; l++) {
        const struct layer *w = &m->layer[l];
        const struct weight *const all[] = {
            &w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down
        };

        for (size_t i = 0; i < ARRAY_LEN(all); i++)
            cpu_need_linear(need, q->flags, q->compute, all[i], q->chunk);
    }
    cpu_need_linear(need, q->flags, q->compute, &m->head, want);
}

/* The same from a scheme's encodings. */
static void scheme_need(struct cpu_need *need, const struct plan_query *q, size_t want)
{
    const struct hparams *hp = q->hp;
    const size_t cols[PLAN_INPUTS] = { (size_t)hp->dim, (size_t)(hp->heads * hp->head_dim),
                                       (size_t)hp->ffn, (size_t)hp->dim };

    for (int i = 0; i < PLAN_INPUTS; i++) {
        for (int enc = 0; enc < ENC_COUNT; enc++) {
            const struct weight w = { .enc = (enum enc)enc, .cols = cols[i] };

            if (q->w->encs[i] >> enc & 1)
                cpu_need_linear(need, q->flags, q->compute, &w, i == INPUT_LAST ? want : q->chunk);
        }
    }
}

static size_t want_rows(const struct plan_query *q)
{
    return q->want ? q->want : q->sequences;
}

static size_t cpu_scratch(const struct plan_query *q)
{
    const size_t rows = want_rows(q), want = rows < q->chunk ? rows : q->chunk;
    struct cpu_need need = { 0 };

    if (q->model)
        model_need(&need, q, want);
    else
        scheme_need(&need, q, want);
    cpu_need_rope(&need, (size_t)q->hp->head_dim, q->chunk);
    return cpu_need_bytes(&need, q->threads);
}

static void plan_stage(struct plan_use *u, const struct plan_query *q, int stage)
{
    int64_t first, end;

    stage_layers(q, stage, &first, &end);
    const struct hparams hp = share(q, end - first);

    *u = (struct plan_use){
        .weights = stage_weights(q, stage, false),
        .kv_cache = cache_bytes(q, end - first, q->ctx, q->sequences),
        .activations = acts_bytes(&hp, q->chunk),
        .scratch = q->cpu ? cpu_scratch(q) : 0,
        .runtime =
            q->cpu ? cpu_runtime + (size_t)q->tokenizer * tokenizer_entry : plan_cuda_runtime,
    };
    if (stage == q->pp - 1)
        u->logits = plan_mul(plan_mul(want_rows(q), sizeof(float)), parts((size_t)hp.vocab, q->tp));
    u->total = plan_add(plan_add(u->weights, u->kv_cache), plan_add(u->activations, u->scratch));
    u->total = plan_add(u->total, plan_add(u->logits, u->runtime));
}

void plan_infer(struct plan_use *u, const struct plan_query *q)
{
    struct plan_use one;

    *u = (struct plan_use){ 0 };
    for (int s = 0; s < q->pp; s++) {
        plan_stage(&one, q, s);
        if (one.total > u->total)
            *u = one;
    }
}

/* `used` bytes spread over equal pieces of a mapping */
static size_t in_pages(size_t used, size_t mapped, size_t pieces, size_t maps)
{
    const size_t page = mapped / maps >= MEM_HUGE ? (size_t)2 << 20 : 4096;
    const size_t n = ((used / pieces + page - 1) / page * page) * pieces;

    return n < mapped ? n : mapped;
}

void plan_touched(struct plan_use *u, const struct plan_query *q, size_t tokens, size_t rows,
                  size_t lookups)
{
    enum { ACTS = 9 }; /* arrays in the one mapping of struct acts */
    const size_t planes = 2 * (size_t)q->hp->layers, fault_around = 64 << 10;
    struct plan_query at = *q;
    struct plan_use all;

    at.ctx = tokens < q->ctx ? tokens : q->ctx;
    at.chunk = rows < q->chunk ? rows : q->chunk;
    plan_infer(&all, q);
    plan_infer(u, &at);
    u->kv_cache = in_pages(u->kv_cache, all.kv_cache, planes, planes);
    u->activations = in_pages(u->activations, all.activations, ACTS, 1);
    if (q->w->head) {
        const size_t rows_read = plan_mul(lookups, fault_around);

        u->weights -= q->w->embed - (rows_read < q->w->embed ? rows_read : q->w->embed);
    }
    u->total = u->weights + u->kv_cache + u->activations + u->scratch + u->logits + u->runtime;
}

size_t plan_kv_per_token(const struct plan_query *q)
{
    return kv_bytes(q->hp, q->kv, 1) / KV_BLOCK;
}

static bool fits(const struct plan_query *q, size_t ctx, size_t sequences, size_t room)
{
    struct plan_query at = *q;
    struct plan_use u;

    at.ctx = ctx;
    at.sequences = sequences;
    plan_infer(&u, &at);
    return u.total <= room;
}

size_t plan_longest_ctx(const struct plan_query *q, size_t room)
{
    const size_t most = (size_t)q->hp->ctx;
    size_t lo = 0, hi = most / KV_BLOCK; /* blocks: lo fits or is 0 */

    if (fits(q, most, q->sequences, room))
        return most;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo + 1) / 2;

        if (fits(q, mid * KV_BLOCK, q->sequences, room))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo * KV_BLOCK;
}

size_t plan_most_sequences(const struct plan_query *q, size_t room)
{
    size_t lo = 0, hi = MOST_SEQUENCES;

    while (lo < hi) {
        const size_t mid = lo + (hi - lo + 1) / 2;

        if (fits(q, q->ctx, mid, room))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

double plan_decode_rate(const struct plan_query *q, double bandwidth, size_t filled)
{
    double bytes = 0; /* the stages of one token follow one another */

    for (int s = 0; s < q->pp; s++) {
        int64_t first, end;

        stage_layers(q, s, &first, &end);
        bytes += (double)stage_weights(q, s, true);
        if (filled)
            bytes += (double)cache_bytes(q, end - first, filled, q->sequences);
    }
    size_t largest;
    const double read = bytes / bandwidth;
    const double sent = (double)plan_away_bytes(q->w, q->away, &largest) / plan_host_link;

    return (double)q->sequences / (read > sent ? read : sent);
}
