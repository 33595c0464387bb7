/* engine.c - a model, its tokenizer and a context, opened together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/mem.h"
#include "base/turn.h"
#include "engine/memory.h"

/* The cache's type. */
static int choose_kv(struct engine *g, const struct engine_opts *o, struct err *e)
{
    const long long hd = (long long)g->model->hp->head_dim;

    g->kv = g->ctx->compute == COMPUTE_F32 ? ENC_F32 : g->model->hp->dtype;
    if (!o->kv)
        return 0;
    g->kv = (enum enc)kv_from_name(o->kv);
    if (g->kv == ENC_Q8_0 && hd % (long long)enc_table[ENC_Q8_0].block)
        return err_set(
            e, ERR_USAGE,
            "a q8_0 cache needs heads of a multiple of 32 values, %s has %lld: choose f16 "
            "or bf16",
            checkpoint_path(g->model->ckpt), hd);
    if (g->kv == ENC_Q8_0 && !ctx_on_host(g->ctx))
        return err_set(e, ERR_USAGE,
                       "a q8_0 cache is for the CPU alone: choose fp8, f16 or bf16, or --device "
                       "cpu");
    if (g->kv == ENC_F8_E4M3 && ctx_on_host(g->ctx))
        return err_set(e, ERR_USAGE,
                       "an fp8 cache is for the GPU alone: choose q8_0, f16 or bf16, or --device "
                       "cuda");
    return 0;
}

/* The model's weights to the GPU, or some of them to where it can read them: 0; 1 and -1 as
 * open_cuda. */
static int place(struct engine *g, const struct engine_opts *o, struct err *e)
{
    /* rows that fill its matrix units; where memory is plenty twice as many, for attention's sake:
     * 2 to 4 % of a prompt's time on an H200 */
    enum { GPU_CHUNK = 2048 };
    static const size_t plenty = (size_t)64 << 30;
    const size_t chunk = g->chunk, free_now = g->ctx->be->available(g->ctx);

    g->chunk = o->chunk ? o->chunk : free_now < plenty ? GPU_CHUNK : 2 * GPU_CHUNK;
    if (choose_kv(g, o, e))
        return -1;
    if (engine_offload(&g->away, g, o, free_now, mem_available(), e)) {
        g->chunk = chunk;
        return 1;
    }
    return model_place(g->model, g->ctx, g->away, o->progress, o->arg, e);
}

static int open_beside(struct engine *g, const struct engine_opts *o, struct err *e)
{
    g->guest = true;
    g->ctx = o->beside->ctx;
    g->turn = o->beside->turn;
    g->isa = o->beside->isa;
    return ctx_on_host(g->ctx) || place(g, o, e) == 0 ? 0 : -1;
}

static int open_cpu(struct engine *g, const struct engine_opts *o, struct err *e)
{
    return cpu_ctx_new(&g->ctx, o->threads, g->isa, o->compute, e);
}

/* The GPU, with the model's weights on it: 0; 1 = it cannot be (*e says why) and nothing moved; -1
 * = it failed on the way. */
static int open_cuda(struct engine *g, const struct engine_opts *o, struct err *e)
{
    if (cuda_ctx_new(&g->ctx, o->compute, e))
        return 1;
    const int rc = place(g, o, e);

    if (rc > 0) {
        g->ctx->be->free(g->ctx);
        g->ctx = NULL;
    }
    return rc;
}

static int open_ctx(struct engine *g, const struct engine_opts *o, struct err *e)
{
    const char *device = o->device ? o->device : "cpu";
    struct err why;
    int rc;

    if (o->beside)
        return open_beside(g, o, e);
    g->turn = xmalloc(sizeof(*g->turn));
    turn_init(g->turn);
    if (!strcmp(device, "cpu"))
        return open_cpu(g, o, e);
    rc = open_cuda(g, o, &why);
    if (rc > 0 && !strcmp(device, "auto")) {
        /* a machine without a GPU is no news; one whose GPU is left unused is */
        if (cuda_present())
            snprintf(g->note, sizeof(g->note), "computing on the CPU: %s", why.msg);
        return open_cpu(g, o, e);
    }
    if (rc)
        return err_set(e, why.code, "%s", why.msg);
    const int n =
        snprintf(g->note, sizeof(g->note), "computing on the GPU: %s", cuda_ctx_name(g->ctx));

    if (g->away && n > 0 && (size_t)n < sizeof(g->note))
        snprintf(g->note + n, sizeof(g->note) - (size_t)n,
                 "; the weights of %lld of %lld layers pass through from host memory",
                 (long long)g->away, (long long)g->model->hp->layers);
    return 0;
}

/* Small models stay in the cache anyway. */
static void place_on_host(struct engine *g, enum engine_weights how)
{
    if (!ctx_on_host(g->ctx) || how == WEIGHTS_MAP ||
        (how == WEIGHTS_LATER && checkpoint_bytes(g->model->ckpt) < MEM_HUGE))
        return;
    model_place_later(g->model, g->ctx);
    if (how == WEIGHTS_COPY)
        engine_settle(g);
}

void engine_settle(struct engine *g)
{
    while (model_place_next(g->model))
        ;
}

static int open_parts(struct engine *g, const char *path, const struct engine_opts *o,
                      struct err *e)
{
    const unsigned isa = o->isa < 0 ? cpu_flags() : (unsigned)o->isa & cpu_flags();

    if (model_open(&g->model, path, e))
        return -1;
    const struct gguf *gguf = checkpoint_gguf(g->model->ckpt);

    if (o->no_tokenizer)
        ;
    else if (o->tokenizer ? tok_open(&g->tok, o->tokenizer, e)
             : gguf       ? tok_from_gguf(&g->tok, gguf, e)
                          : tok_open(&g->tok, path, e))
        return -1;
    if (g->tok && tok_size(g->tok) > g->model->hp->vocab)
        return err_set(e, ERR_FORMAT,
                       "%s: the tokenizer has ids up to %d, the model only %lld rows", path,
                       tok_size(g->tok) - 1, (long long)g->model->hp->vocab);
    if (g->tok)
        g->grammars = grammars_new(g->tok, (size_t)g->model->hp->vocab);
    g->isa = isa;
    if (open_ctx(g, o, e) || choose_kv(g, o, e) ||
        acts_new(&g->acts, g->model, g->ctx, g->chunk, e))
        return -1;
    place_on_host(g, o->weights);
    return o->adapter ? engine_adapter(&g->adapter, g, o->adapter, e) : 0;
}

int engine_adapter(struct lora **out, struct engine *g, const char *dir, struct err *e)
{
    struct lora *l;

    if (lora_open(&l, g->model, dir, e))
        return -1;
    if (acts_reserve(g->acts, l->max_rank, e)) {
        lora_close(l);
        return -1;
    }
    *out = l;
    return 0;
}

/* How many of the first n tokens are spelt differently; *first: the first of them. */
static int32_t differ(const struct tok *a, const struct tok *b, int32_t n, int32_t *first)
{
    int32_t found = 0;

    for (int32_t i = n; i-- > 0;) {
        size_t na = 0, nb = 0;
        const char *x = tok_bytes(a, i, &na), *y = tok_bytes(b, i, &nb);

        if (!x == !y && na == nb && (!x || memcmp(x, y, na) == 0))
            continue;
        found++;
        *first = i;
    }
    return found;
}

int engine_set_drafter(struct engine *g, struct engine *drafter, size_t sequences, struct err *e)
{
    const char *name = checkpoint_path(drafter->model->ckpt);
    const int32_t n = tok_size(g->tok), m = tok_size(drafter->tok);
    int32_t first = 0;

    BUG_ON(drafter->ctx != g->ctx);
    if (n != m)
        return err_set(
            e, ERR_USAGE,
            "%s: a draft model needs the model's own vocabulary, and has %d tokens where "
            "%s has %d: give a smaller model of the same family",
            name, m, checkpoint_path(g->model->ckpt), n);
    const int32_t other = differ(g->tok, drafter->tok, n, &first);

    if (other)
        return err_set(
            e, ERR_USAGE,
            "%s: a draft model needs the model's own vocabulary, and %d of its %d tokens "
            "are spelt otherwise than in %s (the first is %d): give a smaller model of "
            "the same family",
            name, other, n, checkpoint_path(g->model->ckpt), first);
    g->drafter.g = drafter;
    g->drafter.sequences = sequences;
    return 0;
}

int engine_open(struct engine **out, const char *path, const struct engine_opts *o, struct err *e)
{
    struct engine *g = xcalloc(1, sizeof(*g));

    g->chunk = o->chunk ? o->chunk : 512;
    if (open_parts(g, path, o, e)) {
        engine_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void engine_close(struct engine *g)
{
    if (!g)
        return;
    acts_free(g->acts);
    lora_close(g->adapter);
    grammars_free(g->grammars);
    tok_free(g->tok);
    model_close(g->model);
    if (g->ctx && !g->guest)
        g->ctx->be->free(g->ctx);
    if (g->turn && !g->guest) {
        turn_release(g->turn);
        free(g->turn);
    }
    free(g);
}
