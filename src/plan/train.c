/* train.c - memory of a training step on one device (docs/plan.md has the formulas). */
#include "base/mem.h"
#include "plan/plan_int.h"

enum { LOSS_ROWS = 256, MOST_BATCH = 1 << 16 };

/* Bytes per parameter beside the weight itself: gradient, master copy, moments. */
static const struct {
    double gradient, master, moments;
} optim_table[] = {
    [OPTIM_ADAMW] = { 2, 4, 8 },
    /* a code each, and a float32 per block of 256 */
    [OPTIM_ADAMW8] = { 2, 4, 2 + 2 * 4.0 / 256 },
    [OPTIM_ADAMW_BF16] = { 2, 0, 4 },
    /* no master copy; a layer's gradient goes once it is used */
    [OPTIM_LEAN] = { 0, 0, 2 + 2 * 4.0 / 256 },
};

static size_t linear_params(const struct hparams *hp, bool attention_only)
{
    const size_t D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);

    return 2 * D * Q + 2 * D * KV + (attention_only ? 0 : 3 * D * F);
}

size_t plan_lora_params(const struct hparams *hp, size_t rank, bool attention_only)
{
    const size_t D = (size_t)hp->dim, F = (size_t)hp->ffn;
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);
    const size_t attention = 2 * (D + Q) + 2 * (D + KV), ffn = attention_only ? 0 : 3 * (D + F);

    return rank * (attention + ffn) * (size_t)hp->layers;
}

/* What the backward pass of one layer needs of one token: the inputs of both norms and of the seven
 * products, q k v, attention's output and its log-sums, gate, up and their product. bf16. */
static size_t layer_saved(const struct hparams *hp)
{
    const size_t Q = (size_t)(hp->heads * hp->head_dim), KV = (size_t)(hp->kv_heads * hp->head_dim);

    return 16 * (size_t)hp->dim + 4 * Q + 4 * KV + 4 * (size_t)hp->heads + 8 * (size_t)hp->ffn;
}

/* n bytes per parameter, shared out over the devices */
static size_t states(double bytes, double params, int devices)
{
    return (size_t)(bytes * params / devices + 0.5);
}

static void activations(struct plan_train_use *u, const struct plan_train_query *q)
{
    const struct hparams *hp = q->hp;
    const size_t L = (size_t)hp->layers, tokens = plan_mul(q->batch, q->seq);
    const size_t V = (size_t)hp->vocab, rows = tokens < LOSS_ROWS ? tokens : LOSS_ROWS;

    if (q->recompute) {
        u->checkpoints = plan_mul(tokens, 2 * (size_t)hp->dim * L);
        u->activations = plan_mul(tokens, layer_saved(hp));
    } else {
        u->activations = plan_mul(tokens, layer_saved(hp) * L);
    }
    /* whole logits: bf16, their float32 copy and its gradient */
    u->logits = q->whole_logits ? plan_mul(tokens, V * (2 + 4 + 4)) : rows * V * 4;
}

void plan_train(struct plan_train_use *u, const struct plan_train_query *q)
{
    const struct hparams *hp = q->hp;
    const double layer = (double)linear_params(hp, false), P = (double)q->w->params;
    const bool full = q->method == TRAIN_FULL;
    const double trained = full ? P : (double)plan_lora_params(hp, q->rank, q->attention_only);
    const int n = q->devices, over_o = q->zero >= 1 ? n : 1, over_g = q->zero >= 2 ? n : 1,
              over_w = q->zero >= 3 ? n : 1;
    const size_t base = plan_weights_total(q->w), embed = 2 * (size_t)(hp->vocab * hp->dim);

    *u = (struct plan_train_use){
        .weights = (base + (size_t)over_w - 1) / (size_t)over_w,
        .adapters = full ? 0 : states(2, trained, over_w),
        .gradients = q->optim == OPTIM_LEAN && full
                         ? (size_t)(2 * layer)
                         : states(optim_table[q->optim].gradient ? 2 : 0, trained, over_g),
        .master = states(optim_table[q->optim].master, trained, over_o),
        .moments = states(optim_table[q->optim].moments, trained, over_o),
        .runtime = plan_cuda_runtime,
    };
    if (n > 1 && q->zero >= 2 && full) /* a layer's gradient on its way to its owner */
        u->gathered += (size_t)(2 * layer);
    if (n > 1 && q->zero >= 3) { /* a layer in use and one on its way, or the embedding */
        const size_t two = 2 * (q->w->layer[0] + q->w->norms);

        u->gathered += two > embed ? two : embed;
    }
    /* the largest matrix in 16 bits, when the base has fewer */
    if (base < 2 * q->w->params * 9 / 10)
        u->scratch = 2 * (size_t)(hp->dim * hp->ffn);
    activations(u, q);
    const size_t part[] = { u->weights,  u->adapters,    u->gradients, u->master,
                            u->moments,  u->checkpoints, u->logits,    u->scratch,
                            u->gathered, u->activations, u->runtime };

    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        u->total = plan_add(u->total, part[i]);
}

static bool fits(const struct plan_train_query *q, size_t seq, size_t batch, size_t room)
{
    struct plan_train_query at = *q;
    struct plan_train_use u;

    at.seq = seq;
    at.batch = batch;
    plan_train(&u, &at);
    return u.total <= room;
}

size_t plan_train_longest(const struct plan_train_query *q, size_t room)
{
    size_t lo = 0, hi = (size_t)q->hp->ctx;

    while (lo < hi) {
        const size_t mid = lo + (hi - lo + 1) / 2;

        if (fits(q, mid, q->batch, room))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

size_t plan_train_most(const struct plan_train_query *q, size_t room)
{
    size_t lo = 0, hi = MOST_BATCH;

    while (lo < hi) {
        const size_t mid = lo + (hi - lo + 1) / 2;

        if (fits(q, q->seq, mid, room))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}
