/* cloud.c - SageMaker's /invocations and Vertex AI's /vertex. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "server/field.h"
#include "server/judge.h"
#include "server/openai.h"
#include "server/tgi.h"

handler chat_completions, completions, embeddings;

/* The body says which API is meant. */
void invocations(struct call *c)
{
    if (json_object_get(c->body, "inputs")) {
        tgi_generate(c, json_is_true(json_object_get(c->body, "stream")), true);
        return;
    }
    c->dialect = OPENAI;
    if (json_object_get(c->body, "messages"))
        chat_completions(c);
    else if (json_object_get(c->body, "prompt"))
        completions(c);
    else
        reply_status(c, 400, "invalid_request_error", NULL,
                     "the request has neither inputs, messages nor prompt");
}

/* ---- Azure OpenAI ---- */

static void azure_call(struct call *c, const char *path)
{
    if (strcmp(path, "chat/completions") == 0)
        chat_completions(c);
    else if (strcmp(path, "completions") == 0)
        completions(c);
    else if (strcmp(path, "embeddings") == 0)
        embeddings(c);
    else
        reply_status(c, 404, "invalid_request_error", "unknown_url", "unknown path");
}

/* POST /openai/deployments/NAME/...?api-version=...: the deployment is the model. */
void azure(struct call *c)
{
    char *tail = call_tail(c), *path = tail ? strchr(tail, '/') : NULL;

    if (path) {
        *path++ = 0;
        json_object_set_new(c->body, "model", json_string(tail));
        served_choose(c);
    }
    azure_call(c, path ? path : "");
    free(tail);
}

void azure_v1(struct call *c)
{
    char *tail = call_tail(c);

    azure_call(c, tail ? tail : "");
    free(tail);
}

/* ---- Vertex: {"instances": [...]} to {"predictions": [text, ...]} ---- */

struct vertex {
    size_t n;
    bool failed;
};

static void on_event(struct gen *g, const struct sched_event *ev)
{
    struct call *c = g->call;
    struct vertex *v = c->state;

    if (!call_alive(c) || v->failed)
        return;
    if (ev->kind == SCHED_FAILED) {
        v->failed = true;
        reply_error(c, &g->err);
        return;
    }
    if (ev->kind != SCHED_DONE || !oai_all_ended(c))
        return;
    struct err e;

    for (const struct gen *x = c->gens; x; x = x->next)
        if (judge_error(x, &e)) { /* a prediction is a text, which cannot say so */
            reply_error(c, &e);
            return;
        }
    json_t *list = json_array();

    for (size_t i = 0; i < v->n; i++)
        for (struct gen *x = c->gens; x; x = x->next)
            if (x->index == i)
                json_array_append_new(list, json_stringn(x->text.p, x->text.len));
    reply_json(c, 200, json_pack("{s:o}", "predictions", list));
}

/* {"messages", ...}: the call's body is the instance while it is read. */
static int start_chat(struct call *c, json_t *instance, size_t i, struct err *e)
{
    struct sched_request r = { .priority = 0 };
    struct request_mem mem;
    struct oai o = { .chat = true };
    json_t *body = c->body;
    struct prompt p;
    int rc = -1;

    c->body = instance;
    prompt_init(&p);
    if (oai_read(c, &o, &r.gen, &mem, e) == 0 && oai_render(c, &p, e) == 0) {
        r.gen.prompt = p.ids.p;
        r.gen.n_prompt = p.ids.n;
        r.adapter = o.adapter;
        rc = gen_start(c, &r, i, on_event, NULL, e);
    }
    free(o.model);
    prompt_release(&p);
    c->body = body;
    return rc;
}

static int start_one(struct call *c, json_t *instance, size_t i, struct err *e)
{
    struct sched_request r = { .priority = 0 };
    struct request_mem mem;
    struct tgi *t;
    int rc;

    if (json_object_get(instance, "messages"))
        return start_chat(c, instance, i, e);
    if (!json_object_get(instance, "parameters") && json_object_get(c->body, "parameters"))
        json_object_set(instance, "parameters", json_object_get(c->body, "parameters"));
    t = xcalloc(1, sizeof(*t));
    rc = tgi_read(t, &r.gen, &mem, c, instance, e);
    r.adapter = t->adapter;
    if (rc == 0)
        rc = gen_start(c, &r, i, on_event, NULL, e);
    tgi_free(t);
    return rc;
}

static int start(struct call *c, struct vertex *v, struct err *e)
{
    json_t *list = NULL;

    if (json_get_arr(c->body, "instances", &list, "request", e) < 0)
        return -1;
    if (fields_check(c, c->body, IN_VERTEX, e))
        return -1;
    v->n = json_array_size(list);
    if (v->n == 0)
        return err_set(e, ERR_USAGE, "`instances` cannot be empty");
    if (v->n > c->s->o.max_client_batch_size)
        return err_set(e, ERR_USAGE, "number of instances (%zu) must be <= %zu", v->n,
                       c->s->o.max_client_batch_size);
    for (size_t i = 0; i < v->n; i++) {
        json_t *one = json_array_get(list, i);

        if (!json_is_object(one))
            return err_set(e, ERR_USAGE, "`instances` are objects with `inputs` or `messages`");
        if (start_one(c, one, i, e))
            return -1;
    }
    return 0;
}

void vertex(struct call *c)
{
    struct vertex *v = xcalloc(1, sizeof(*v));
    struct err e;

    c->state = v;
    c->state_free = free;
    if (start(c, v, &e)) {
        v->failed = true;
        reply_refusal(c, &e);
    }
}
