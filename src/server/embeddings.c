/* embeddings.c - POST /v1/embeddings: a prompt's last hidden states, pooled, of length 1. */
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "server/field.h"
#include "server/openai.h"

enum { MAX_INPUTS = 2048, IN_FLIGHT = 32 /* of one call; the rest follow as these end */ };

/* The call's state. Its generations' states are the vectors: [dims] floats. */
struct embeddings {
    struct oai o;
    json_t *inputs; /* owned */
    size_t n, begun, dims;
    int priority;
    bool base64;
};

static void embeddings_free(void *p)
{
    struct embeddings *m = p;

    json_decref(m->inputs);
    free(m->o.model);
    free(m);
}

/* The first n numbers of v, of length 1: a model trained for it keeps its meaning in fewer. */
static float *scaled(const float *v, size_t n)
{
    float *out = xmalloc(n * sizeof(*out));
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    for (size_t i = 0; i < n; i++)
        out[i] = sum > 0 ? (float)((double)v[i] / sqrt(sum)) : 0;
    return out;
}

static json_t *vector_json(const float *v, size_t n, bool base64)
{
    json_t *j = json_array();

    if (base64) { /* little-endian, as every machine we run on */
        const size_t bytes = n * sizeof(*v);
        unsigned char *text = xmalloc(bytes / 3 * 4 + 5);
        const int len = EVP_EncodeBlock(text, (const unsigned char *)v, (int)bytes);

        json_decref(j);
        j = json_stringn((const char *)text, (size_t)len);
        free(text);
        return j;
    }
    for (size_t i = 0; i < n; i++)
        json_array_append_new(j, json_real((double)v[i]));
    return j;
}

static void end(struct call *c, struct embeddings *m)
{
    json_t *data = json_array();
    size_t tokens = 0;

    for (size_t i = 0; i < m->n; i++)
        json_array_append_new(data, json_null());
    for (struct gen *g = c->gens; g; g = g->next) {
        tokens += g->n_prompt;
        json_array_set_new(data, g->index,
                           json_pack("{s:s, s:I, s:o}", "object", "embedding", "index",
                                     (json_int_t)g->index, "embedding",
                                     vector_json(g->state, m->dims, m->base64)));
    }
    reply_json(c, 200,
               json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                         m->o.model, "usage", "prompt_tokens", (json_int_t)tokens, "total_tokens",
                         (json_int_t)tokens));
}

static int next(struct call *c, struct embeddings *m, struct err *e);

static void on_event(struct gen *g, const struct sched_event *ev)
{
    struct call *c = g->call;
    struct embeddings *m = c->state;
    struct err e;

    if (!call_alive(c) || m->o.failed)
        return;
    if (ev->kind == SCHED_FAILED) {
        oai_failed(g);
        return;
    }
    if (ev->kind != SCHED_DONE || !ev->embedding)
        return;
    g->state = scaled(ev->embedding, m->dims);
    g->state_free = free;
    if (m->begun < m->n) {
        if (next(c, m, &e)) {
            m->o.failed = true;
            reply_refusal(c, &e);
        }
    } else if (oai_all_ended(c)) {
        end(c, m);
    }
}

static int next(struct call *c, struct embeddings *m, struct err *e)
{
    struct sched_request r = { .gen = { .max_new_tokens = 1 },
                               .priority = m->priority,
                               .salt = m->o.salt,
                               .adapter = m->o.adapter,
                               .prompt_only = true,
                               .pool = c->s->o.pooling };
    struct ids ids = { 0 };
    const size_t i = m->begun++;
    int rc = oai_input_ids(c, json_array_get(m->inputs, i), &ids, e);

    oai_cut(&m->o, &ids);
    sampling_init(&r.gen.sampling);
    r.gen.prompt = ids.p;
    r.gen.n_prompt = ids.n;
    if (rc == 0)
        rc = gen_start(c, &r, i, on_event, NULL, e);
    ids_release(&ids);
    return rc;
}

static int start(struct call *c, struct embeddings *m, struct err *e)
{
    const size_t D = (size_t)c->m->engine->model->hp->dim;
    const char *format = "float";
    int64_t dims = (int64_t)D, priority = 0, cut = 0;

    if (oai_read_model(c, &m->o, e) || oai_read_salt(c->body, &m->o.salt, e) ||
        json_get_str(c->body, "encoding_format", &format, NULL, "request", e) < 0 ||
        json_get_int(c->body, "dimensions", 1, (int64_t)D, &dims, "request", e) < 0 ||
        json_get_int(c->body, "priority", -1000, 1000, &priority, "request", e) < 0 ||
        json_get_int(c->body, "truncate_prompt_tokens", 1, INT32_MAX, &cut, "request", e) < 0 ||
        oai_inputs(c, "input", MAX_INPUTS, &m->inputs, e))
        return -1;
    m->base64 = strcmp(format, "base64") == 0;
    if (!m->base64 && strcmp(format, "float") != 0)
        return err_set(e, ERR_USAGE,
                       "request: encoding_format is '%.40s'; it must be float or base64", format);
    m->dims = (size_t)dims;
    m->o.cut = (size_t)cut;
    m->priority = (int)priority;
    m->n = json_array_size(m->inputs);
    if (fields_check(c, c->body, IN_EMBEDDINGS, e))
        return -1;
    while (m->begun < m->n && m->begun < IN_FLIGHT)
        if (next(c, m, e))
            return -1;
    return 0;
}

void embeddings(struct call *c)
{
    struct embeddings *m = xcalloc(1, sizeof(*m));
    struct err e;

    c->state = m;
    c->state_free = embeddings_free;
    if (start(c, m, &e)) {
        m->o.failed = true;
        reply_refusal(c, &e);
    }
}
