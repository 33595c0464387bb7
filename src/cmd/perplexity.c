/* perplexity.c - `puna perplexity`: one number for how well a model predicts a text. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "engine/session.h"

struct perplexity_cfg {
    const char *model;
    const char *ids, *text;
    int64_t ctx;
    int64_t threads;
    const char *dtype, *kv_dtype;
    const char *isa, *device;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct perplexity_cfg, model, NULL, "MODEL", NULL, "folder, GGUF file or short name"),
    OPT(STR, struct perplexity_cfg, ids, NULL, "FILE", NULL, "token ids as a JSON list"),
    OPT(STR, struct perplexity_cfg, text, "-f,--file", "FILE", NULL, "raw UTF-8 text"),
    OPT_RANGE(
        INT, struct perplexity_cfg, ctx, "-c,--ctx-size", "N", "0", 0, 1e9,
        "window in tokens; longer input is cut in windows (0 = the model's context up to 8192)"),
    OPT_RANGE(INT, struct perplexity_cfg, threads, "-t", "N", "0", 0, 1024,
              "threads (0 = all cores)"),
    OPT(STR, struct perplexity_cfg, dtype, NULL, "auto|f32|bf16", "f32",
        "arithmetic of the matrix products; auto is what `run` uses"),
    OPT(STR, struct perplexity_cfg, kv_dtype, NULL, KV_TYPES, "auto",
        "type of the key-value cache"),
    OPT(STR, struct perplexity_cfg, device, NULL, "cpu|cuda|auto", "cpu",
        "where to compute; auto: the GPU when there is one that holds the model"),
    OPT(STR, struct perplexity_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use"),
    OPT(BOOL, struct perplexity_cfg, json, NULL, NULL, NULL, "one JSON object on stdout"),
    { .name = NULL },
};

static int ids_from_json(struct ids *out, const char *path, struct err *e)
{
    json_t *j, *v;
    size_t i;

    if (json_parse_file(&j, path, (size_t)1 << 30, e))
        return -1;
    int rc = json_is_array(j) ? 0 : err_set(e, ERR_FORMAT, "%s: must be a JSON list of ids", path);

    json_array_foreach(j, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX) {
            rc = err_set(e, ERR_FORMAT, "%s: element %zu is not a token id", path, i);
            break;
        }
        ids_add(out, (int32_t)json_integer_value(v));
    }
    json_decref(j);
    return rc;
}

static int ids_from_text(struct ids *out, const struct tok *t, const char *path, struct err *e)
{
    char *text;
    size_t n;

    if (file_read(&text, &n, path, (size_t)1 << 30, e))
        return -1;
    if (tok_adds_bos(t))
        ids_add(out, tok_bos(t));
    const int rc = tok_encode(t, text, n, TOK_PLAIN, out, e);

    free(text);
    return rc;
}

static double nll(const float *x, size_t V, int32_t id)
{
    float max = x[0];
    double sum = 0;

    for (size_t i = 1; i < V; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < V; i++)
        sum += exp((double)x[i] - (double)max);
    return log(sum) + (double)max - (double)x[id];
}

/* Sum of -log p over one window, whose first token is only context. */
static int window(struct session *s, const struct ids *ids, size_t lo, size_t hi, float *logits,
                  size_t slice, double *sum, struct err *e)
{
    const size_t V = (size_t)session_engine(s)->model->hp->vocab;

    session_cut(s, 0);
    for (size_t at = lo; at + 1 < hi; at += slice) {
        const size_t k = hi - 1 - at < slice ? hi - 1 - at : slice;

        if (session_eval_rows(s, ids->p + at, k, NULL, 0, logits, e))
            return -1;
        for (size_t i = 0; i < k; i++)
            *sum += nll(logits + i * V, V, ids->p[at + i + 1]);
        progress_show("perplexity", at + k, ids->n - 1);
    }
    return 0;
}

static int measure(const struct perplexity_cfg *c, struct engine *g, const struct ids *ids,
                   struct err *e)
{
    enum { SLICE = 128 };
    struct session *s;
    double sum = 0;
    size_t scored = 0;
    void *logits;
    int rc = -1;

    if (ids->n < 2)
        return err_set(e, ERR_USAGE, "perplexity needs two tokens or more, the input has %zu",
                       ids->n);
    for (size_t i = 0; i < ids->n; i++) /* the last one is only looked up among the logits */
        if (ids->p[i] >= g->model->hp->vocab)
            return err_set(e, ERR_FORMAT, "token %zu has the id %d, the vocabulary ends at %lld", i,
                           (int)ids->p[i], (long long)g->model->hp->vocab - 1);
    if (mem_new(&logits, SLICE * (size_t)g->model->hp->vocab, sizeof(float), "logits", e))
        return -1;
    if (session_new(&s, g, (size_t)c->ctx, e))
        goto done;
    for (size_t lo = 0; lo + 1 < ids->n; lo += session_ctx(s)) {
        const size_t hi = ids->n - lo < session_ctx(s) ? ids->n : lo + session_ctx(s);

        if (window(s, ids, lo, hi, logits, SLICE, &sum, e)) {
            session_free(s);
            goto done;
        }
        scored += hi - lo - 1;
    }
    progress_end();
    session_free(s);
    const double mean = sum / (double)scored;

    if (c->json)
        printf("{\"tokens\": %zu, \"scored\": %zu, \"mean_nll\": %.9g, \"perplexity\": %.9g}\n",
               ids->n, scored, mean, exp(mean));
    else
        printf("perplexity %.4f over %zu tokens (mean -log p %.6f)\n", exp(mean), scored, mean);
    rc = 0;
done:
    free(logits);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct perplexity_cfg *c = cfg;
    struct engine_opts o;
    struct engine *g = NULL;
    struct ids ids = { 0 };
    int rc = -1;

    if (!c->ids == !c->text)
        return err_set(e, ERR_USAGE, "give either --ids FILE or --text FILE");
    if (engine_opts_fill(&o, c->threads, c->dtype, c->isa, c->device, e))
        return -1;
    engine_opts_kv(&o, c->kv_dtype);
    o.no_tokenizer = c->ids != NULL;
    if (engine_open_named(&g, c->model, &o, e) == 0 &&
        (c->ids ? ids_from_json(&ids, c->ids, e) : ids_from_text(&ids, g->tok, c->text, e)) == 0)
        rc = measure(c, g, &ids, e);
    ids_release(&ids);
    engine_close(g);
    return rc;
}

const struct cmd cmd_perplexity = {
    .name = "perplexity",
    .summary = "how well a model predicts a text",
    .usage = "MODEL --text FILE | --ids FILE",
    .help =
        "Prints exp of the mean negative log-probability of every token given those before it in "
        "its\n"
        "window. The default arithmetic keeps activations in float32; --dtype auto measures what\n"
        "`puna run` computes.\n"
        "\n"
        "    puna perplexity smollm2 --text book.txt\n"
        "    puna perplexity model/ --ids ids.json --json\n",
    .opts = opts,
    .cfg_size = sizeof(struct perplexity_cfg),
    .run = run,
};
