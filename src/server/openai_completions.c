/* openai_completions.c - POST /v1/completions: plain text (or ids) continued. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/field.h"
#include "server/judge.h"
#include "server/openai.h"

enum { MAX_PROMPTS = 64, DEFAULT_TOKENS = 16, MAX_LOGPROBS = 5 };

/* ---- answers ---- */

/* The older form: parallel lists over the tokens. */
static json_t *new_logprobs(void)
{
    return json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs", "top_logprobs",
                     "text_offset");
}

/* Characters, as text_offset counts. */
static size_t characters(const char *p, size_t n)
{
    size_t k = 0;

    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)p[i] & 0xc0) != 0x80;
    return k;
}

static void add_top(json_t *top, json_t *token /* taken */)
{
    json_object_set(top, json_string_value(json_object_get(token, "token")),
                    json_object_get(token, "logprob"));
    json_decref(token);
}

static void add_logprob(const struct call *c, struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = c->m->engine->tok;
    json_t *one = request_token(tok, ev->id, ev->logprob), *top = json_object();
    json_t *to = g->logprobs;
    struct choice *ch = choice_of(g);

    for (size_t i = 0; i < g->top && ev->top; i++)
        add_top(top, request_token(tok, ev->top[i].id, ev->top[i].logprob));
    json_array_append(json_object_get(to, "tokens"), json_object_get(one, "token"));
    json_array_append(json_object_get(to, "token_logprobs"), json_object_get(one, "logprob"));
    json_array_append_new(json_object_get(to, "top_logprobs"), top);
    json_array_append_new(json_object_get(to, "text_offset"), json_integer((json_int_t)ch->offset));
    ch->offset += characters(ev->text, ev->n_text);
    json_decref(one);
}

/* A prompt's own lines of the lists: nothing is known of its first token. */
static void add_scores(const struct call *c, struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = c->m->engine->tok;
    const struct buf *echo = &choice_of(g)->pending;
    json_t *to = g->logprobs = new_logprobs();
    size_t at = 0, offset = 0;

    for (size_t i = 0; i < ev->n_prompt; i++) {
        json_t *one = request_token(tok, g->prompt[i], i ? ev->score[i - 1].logprob : 0);
        json_t *text = json_object_get(one, "token"), *top = i ? json_object() : json_null();
        size_t n = 0;
        const char *bytes = tok_bytes(tok, g->prompt[i], &n); /* may be part of a character */

        for (size_t k = 0; i && k < g->score_top; k++) {
            const struct top_logprob *t = ev->score_top + (i - 1) * g->score_top + k;

            add_top(top, request_token(tok, t->id, t->logprob));
        }
        json_array_append(json_object_get(to, "tokens"), text);
        json_array_append(json_object_get(to, "token_logprobs"),
                          i ? json_object_get(one, "logprob") : json_null());
        json_array_append_new(json_object_get(to, "top_logprobs"), top);
        json_array_append_new(json_object_get(to, "text_offset"), json_integer((json_int_t)offset));
        if (bytes && n <= echo->len - at && memcmp(echo->p + at, bytes, n) == 0) {
            offset += characters(echo->p + at, n);
            at += n; /* control tokens have no place in the text */
        }
        json_decref(one);
    }
    choice_of(g)->offset = characters(echo->p, echo->len);
}

static json_t *choice_json(struct call *c, struct gen *g, const char *text, size_t n,
                           const char *finish)
{
    const struct oai *o = c->state;
    json_t *logprobs = json_null(), *j;

    if (o->logprobs) {
        logprobs = g->logprobs ? g->logprobs : new_logprobs();
        g->logprobs = new_logprobs();
    }
    j = json_pack("{s:i, s:s%, s:o, s:s?}", "index", (int)g->index, "text", text ? text : "", n,
                  "logprobs", logprobs, "finish_reason", finish);
    if (finish)
        judge_note(g, j);
    if (o->score)
        json_object_set(j, "prompt_logprobs", choice_of(g)->prompt_logprobs);
    return j;
}

static void end_whole(struct call *c)
{
    struct oai *o = c->state;
    json_t *j = oai_envelope(c, "text_completion", NULL);
    json_t *choices = json_object_get(j, "choices");

    for (size_t i = 0; i < o->n * o->n_prompts; i++)
        for (struct gen *g = c->gens; g; g = g->next)
            if (g->index == i) {
                struct buf *text = &choice_of(g)->pending; /* the prompt, with echo */

                buf_add(text, g->text.p, g->text.len);
                json_array_append_new(choices,
                                      choice_json(c, g, text->p, text->len, oai_finish(g)));
            }
    json_object_set_new(j, "usage", oai_usage(o));
    reply_json(c, 200, j);
}

static void send_chunk(struct call *c, struct gen *g, const char *text, size_t n,
                       const char *finish)
{
    const struct oai *o = c->state;
    if (!finish && c->s->o.compat_tgi)
        finish = "";
    json_t *j = oai_envelope(c, "text_completion", choice_json(c, g, text, n, finish));

    if (o->include_usage)
        json_object_set_new(j, "usage", o->continuous ? oai_usage(o) : json_null());
    stream_data(c, j);
}

static void end_stream(struct call *c)
{
    struct oai *o = c->state;

    if (o->include_usage) {
        json_t *j = oai_envelope(c, "text_completion", NULL);

        json_object_set_new(j, "usage", oai_usage(o));
        stream_data(c, j);
    }
    stream_raw(c, "[DONE]");
    stream_end(c);
}

static void on_event(struct gen *g, const struct sched_event *ev)
{
    struct call *c = g->call;
    struct oai *o = c->state;

    if (!call_alive(c) || o->failed)
        return;
    if (ev->kind == SCHED_PROMPT) {
        o->n_cached += g->index % o->n == 0 ? ev->cached : 0;
        if (o->score)
            choice_of(g)->prompt_logprobs = oai_scores(g, ev);
        if (o->echo && o->logprobs)
            add_scores(c, g, ev);
        if (o->echo && o->stream)
            send_chunk(c, g, choice_of(g)->pending.p, choice_of(g)->pending.len, NULL);
        return;
    }
    if (ev->kind == SCHED_FAILED) {
        oai_failed(g);
        return;
    }
    if (ev->kind == SCHED_TOKEN) {
        o->n_answer_tokens++;
        if (o->logprobs) {
            if (!g->logprobs)
                g->logprobs = new_logprobs();
            add_logprob(c, g, ev);
        }
    }
    if (o->stream && ev->n_text)
        send_chunk(c, g, ev->text, ev->n_text, NULL);
    if (ev->kind != SCHED_DONE)
        return;
    if (o->stream)
        send_chunk(c, g, "", 0, oai_finish(g));
    if (!oai_all_ended(c))
        return;
    if (o->stream)
        end_stream(c);
    else
        end_whole(c);
}

/* ---- requests ---- */

/* What echo puts before an answer: the prompt's text. */
static void echo_text(const struct call *c, const json_t *input, const struct ids *ids,
                      struct buf *out)
{
    struct tok_stream stream = { 0 };

    if (json_is_string(input)) {
        buf_add(out, json_string_value(input), json_string_length(input));
        return;
    }
    for (size_t i = 0; i < ids->n; i++)
        tok_stream_add(&stream, c->m->engine->tok, ids->p[i], true, out);
    tok_stream_end(&stream, out);
}

static int start_one(struct call *c, struct oai *o, struct sched_request *r, const json_t *p,
                     size_t which, struct err *e)
{
    const uint64_t seed = r->gen.sampling.seed;
    struct ids ids = { 0 };
    int rc = oai_input_ids(c, p, &ids, e);

    oai_cut(o, &ids);
    r->gen.prompt = ids.p;
    r->gen.n_prompt = ids.n;
    o->n_prompt_tokens += ids.n;
    if (rc == 0)
        rc = oai_read_scores(c, o, r, ids.n, e);
    for (size_t i = 0; i < o->n && rc == 0; i++) {
        struct gen *g;

        r->gen.sampling.seed = i ? rng_u64(seed, i) : seed;
        rc = gen_start(c, r, which * o->n + i, on_event, &g, e);
        if (rc == 0 && o->echo)
            echo_text(c, p, &ids, &choice_of(g)->pending);
    }
    r->gen.sampling.seed = seed;
    ids_release(&ids);
    return rc;
}

static int start(struct call *c, struct oai *o, struct err *e)
{
    const json_t *max = json_object_get(c->body, "max_tokens");
    const json_t *suffix = json_object_get(c->body, "suffix");
    struct request_mem mem;
    struct sched_request r = { .gen = { .max_new_tokens = DEFAULT_TOKENS } };
    int64_t top = 0, best_of = 1;
    json_t *list = NULL;
    int has, rc = 0;

    if (json_get_bool(c->body, "echo", &o->echo, "request", e) < 0)
        return -1;
    if (o->echo && json_integer_value(max) == 0 && json_is_integer(max)) {
        r.prompt_only = true;
        json_object_set_new(c->body, "max_tokens", json_integer(1));
    }
    if (oai_read(c, o, &r.gen, &mem, e) ||
        json_get_int(c->body, "best_of", 1, OPENAI_MAX_N, &best_of, "request", e) < 0)
        return -1;
    has = json_get_int(c->body, "logprobs", 0, MAX_LOGPROBS, &top, "request", e);
    if (has < 0)
        return -1;
    if (json_string_length(suffix) > 0)
        return err_set(e, ERR_USAGE, "request: suffix is not supported");
    if (best_of > (int64_t)o->n)
        return err_set(e, ERR_USAGE, "request: best_of above n is not supported");
    r.salt = o->salt;
    r.adapter = o->adapter;
    o->logprobs = r.gen.logprobs = has > 0;
    o->top = r.gen.top_logprobs = (size_t)top;
    r.score = o->echo && o->logprobs;
    r.score_top = r.score ? (size_t)top : 0;
    if (fields_check(c, c->body, IN_COMPLETIONS, e))
        return -1;
    if (oai_inputs(c, "prompt", MAX_PROMPTS, &list, e))
        return -1;
    o->n_prompts = json_array_size(list);
    for (size_t i = 0; i < o->n_prompts && rc == 0; i++)
        rc = start_one(c, o, &r, json_array_get(list, i), i, e);
    json_decref(list);
    return rc;
}

void completions(struct call *c)
{
    struct oai *o = xcalloc(1, sizeof(*o));
    struct err e;

    c->state = o;
    c->state_free = oai_free;
    if (start(c, o, &e)) {
        o->failed = true;
        reply_refusal(c, &e);
    }
}
