/* tgi.c - text-generation-inference's routes: /, /generate, /generate_stream, /info, /tokenize and
 * /chat_tokenize, as its clients know them. */
#include "server/tgi.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "server/adapters.h"
#include "server/field.h"
#include "server/judge.h"
#include "server/openai.h"

/* ---- requests ---- */

static int range(const json_t *p, const char *key, double *x, bool *given, struct err *e)
{
    const int has = json_get_num(p, key, -1e300, 1e300, x, "parameters", e);

    *given |= has > 0;
    return has < 0 ? -1 : 0;
}

static int read_numbers(struct gen_request *r, const json_t *p, bool *sample, struct err *e)
{
    struct sampling *s = &r->sampling;
    double temperature = 1, top_p = 0.5, typical = 0.5, top_k = 1;
    bool hot = false, has_p = false, has_typical = false, has_k = false, other = false;

    if (range(p, "temperature", &temperature, &hot, e) || range(p, "top_p", &top_p, &has_p, e) ||
        range(p, "typical_p", &typical, &has_typical, e) || range(p, "top_k", &top_k, &has_k, e) ||
        range(p, "repetition_penalty", &s->repetition_penalty, &other, e) ||
        range(p, "frequency_penalty", &s->frequency_penalty, &other, e))
        return -1;
    if (!(temperature > 0))
        return err_set(e, ERR_USAGE, "`temperature` must be strictly positive");
    if (!(s->repetition_penalty > 0))
        return err_set(e, ERR_USAGE, "`repetition_penalty` must be strictly positive");
    if (!(fabs(s->frequency_penalty) <= 2))
        return err_set(e, ERR_USAGE, "`frequency_penalty` must be >= -2.0 and <= 2.0");
    if (!(top_k > 0) || top_k != floor(top_k) || top_k > INT32_MAX)
        return err_set(e, ERR_USAGE, "`top_k` must be strictly positive");
    if (!(top_p > 0 && top_p < 1))
        return err_set(e, ERR_USAGE, "`top_p` must be > 0.0 and < 1.0");
    if (!(typical > 0 && typical < 1))
        return err_set(e, ERR_USAGE, "`typical_p` must be > 0.0 and < 1.0");
    *sample |= (hot && temperature != 1) || has_p || has_typical || has_k;
    s->temperature = temperature;
    if (has_p)
        s->top_p = top_p;
    if (has_k)
        s->top_k = (int64_t)top_k;
    return 0;
}

static int read_stop(struct gen_request *r, struct request_mem *mem, const json_t *p, size_t max,
                     struct err *e)
{
    json_t *stop = NULL;

    if (json_get_arr(p, "stop", &stop, "parameters", e) < 0)
        return -1;
    if (json_array_size(stop) > max)
        return err_set(e, ERR_USAGE, "`stop` supports up to %zu stop sequences. Given: %zu", max,
                       json_array_size(stop));
    for (size_t i = 0; i < json_array_size(stop); i++) {
        const json_t *v = json_array_get(stop, i);
        const char *s = json_string_value(v);

        if (!s || strlen(s) != json_string_length(v) || json_string_length(v) > REQUEST_STOP_BYTES)
            return err_set(e, ERR_USAGE, "`stop` takes strings of up to %d bytes without NUL",
                           REQUEST_STOP_BYTES);
        if (*s)
            mem->stop[r->n_stop++] = s;
    }
    r->stop = mem->stop;
    r->keep_stop = true;
    return 0;
}

/* Integers of the parameters, within TGI's limits. */
static int read_counts(struct tgi *t, struct gen_request *r, const struct server_opts *o,
                       const json_t *p, struct err *e)
{
    int64_t best_of = 1, top = 0, max = 1, truncate = 1, seed = 0;
    const int has_max =
        json_get_int(p, "max_new_tokens", INT64_MIN, INT64_MAX, &max, "parameters", e);
    const int has_cut =
        json_get_int(p, "truncate", INT64_MIN, INT64_MAX, &truncate, "parameters", e);
    const int has_seed = json_get_int(p, "seed", INT64_MIN, INT64_MAX, &seed, "parameters", e);
    const int has_best =
        json_get_int(p, "best_of", INT64_MIN, INT64_MAX, &best_of, "parameters", e);

    if (has_max < 0 || has_cut < 0 || has_seed < 0 || has_best < 0 ||
        json_get_int(p, "top_n_tokens", INT64_MIN, INT64_MAX, &top, "parameters", e) < 0)
        return -1;
    if (best_of < 1 || best_of > (int64_t)o->max_best_of)
        return err_set(e, ERR_USAGE, "`best_of` must be > 0 and <= %zu. Given: %lld",
                       o->max_best_of, (long long)best_of);
    if (max < 1 || max > INT32_MAX)
        return err_set(e, ERR_USAGE, "`max_new_tokens` must be strictly positive");
    if (truncate < 1)
        return err_set(e, ERR_USAGE, "`truncate` must be strictly positive. Given: %lld",
                       (long long)truncate);
    if (top < 0 || top > (int64_t)o->max_top_n_tokens)
        return err_set(e, ERR_USAGE, "`top_n_tokens` must be >= 0 and <= %zu. Given: %lld",
                       o->max_top_n_tokens, (long long)top);
    t->best_of = (size_t)best_of;
    t->top = (size_t)top;
    t->truncate = has_cut ? (size_t)truncate : 0;
    t->has_seed = has_seed;
    r->max_new_tokens = has_max ? (size_t)max : 0;
    r->sampling.seed = has_seed ? (uint64_t)seed : rng_fresh_seed();
    return 0;
}

static int encode(struct tgi *t, const struct call *c, struct gen_request *r, struct err *e)
{
    const struct server_opts *o = &c->s->o;
    const struct tok *tok = c->m->engine->tok;
    const size_t ctx = server_ctx(c->s, c->m);
    const size_t most = o->max_input_tokens ? o->max_input_tokens : ctx - 1;
    struct ids *p = &t->prompt;

    /* a prompt may spell control tokens here: it is the client that writes the template */
    if (tok_adds_bos(tok) && tok_bos(tok) >= 0)
        ids_add(p, tok_bos(tok));
    if (tok_encode(tok, t->inputs, t->n_inputs, TOK_ALLOW_SPECIAL, p, e))
        return -1;
    if (p->n > 1 && p->p[0] == tok_bos(tok) && p->p[1] == tok_bos(tok))
        memmove(p->p, p->p + 1, --p->n * sizeof(*p->p));
    if (t->truncate && p->n > t->truncate) {
        memmove(p->p, p->p + p->n - t->truncate, t->truncate * sizeof(*p->p));
        p->n = t->truncate;
    }
    if (p->n > most)
        return err_set(e, ERR_USAGE, "`inputs` must have less than %zu tokens. Given: %zu",
                       most + 1, p->n);
    if (r->max_new_tokens > ctx - p->n)
        return err_set(e, ERR_USAGE,
                       "`inputs` tokens + `max_new_tokens` must be <= %zu. Given: %zu `inputs` "
                       "tokens and %zu `max_new_tokens`",
                       ctx, p->n, r->max_new_tokens);
    r->prompt = p->p;
    r->n_prompt = p->n;
    return 0;
}

int tgi_read(struct tgi *t, struct gen_request *r, struct request_mem *mem, struct call *c,
             const json_t *body, struct err *e)
{
    const struct server_opts *o = &c->s->o;
    json_t *p = NULL;
    bool input_details = false, watermark = false;
    const char *adapter = NULL;

    if (json_get_str(body, "inputs", &t->inputs, &t->n_inputs, "request", e) < 0 ||
        json_get_obj(body, "parameters", &p, "request", e) < 0)
        return -1;
    if (t->n_inputs == 0)
        return err_set(e, ERR_USAGE, "`inputs` cannot be empty");
    sampling_init(&r->sampling);
    r->eos = c->m->eos.p;
    r->n_eos = c->m->eos.n;
    t->sample = !p;
    if (json_get_bool(p, "do_sample", &t->sample, "parameters", e) < 0 ||
        json_get_bool(p, "details", &t->details, "parameters", e) < 0 ||
        json_get_bool(p, "return_full_text", &t->full_text, "parameters", e) < 0 ||
        json_get_bool(p, "decoder_input_details", &input_details, "parameters", e) < 0 ||
        json_get_bool(p, "watermark", &watermark, "parameters", e) < 0 ||
        json_get_str(p, "adapter_id", &adapter, NULL, "parameters", e) < 0 ||
        read_numbers(r, p, &t->sample, e) || read_stop(r, mem, p, o->max_stop_sequences, e) ||
        read_counts(t, r, o, p, e))
        return -1;
    if (t->best_of > 1 && t->stream)
        return err_set(e, ERR_USAGE, "`best_of` != 1 is not supported when streaming tokens");
    if (t->best_of > 1 && !t->sample)
        return err_set(e, ERR_USAGE, "you must use sampling when `best_of` is > 1");
    if (t->best_of > 1 && t->has_seed)
        return err_set(e, ERR_USAGE, "`seed` must not be set when `best_of` > 1");
    if (input_details && t->stream)
        return err_set(e, ERR_USAGE,
                       "`decoder_input_details` == true is not supported when streaming tokens");
    if (request_grammar(&t->grammar, p, c->m->engine, e))
        return err_wrap(e, "grammar is not valid");
    if (t->grammar && c->s->o.no_grammar)
        return err_set(e, ERR_USAGE, "grammar is not supported: --disable-grammar-support");
    r->grammar = t->grammar;
    t->details |= input_details;
    t->input_details = input_details;
    t->adapter = adapter ? adapters_find(c->m->adapters, adapter) : NULL;
    if (!t->sample)
        r->sampling.temperature = 0;
    if (fields_check(c, body, IN_TGI, e) || (p && fields_check(c, p, IN_PARAMETERS, e)))
        return -1;
    r->logprobs = true;
    r->top_logprobs = t->top;
    return encode(t, c, r, e);
}

void tgi_free(void *p)
{
    struct tgi *t = p;

    ids_release(&t->prompt);
    grammar_unref(t->grammar);
    free(t);
}

/* ---- answers ---- */

/* Of one generation. */
struct part {
    struct tok_stream text;
    json_t *tokens, *top, *prefill; /* owned */
    double logprob;                 /* summed */
};

static void part_free(void *p)
{
    struct part *a = p;

    json_decref(a->tokens);
    json_decref(a->top);
    json_decref(a->prefill);
    free(a);
}

static struct part *part_of(struct gen *g)
{
    struct part *a = g->state;

    if (!a) {
        g->state = a = xcalloc(1, sizeof(*a));
        g->state_free = part_free;
        a->tokens = json_array();
        a->top = json_array();
        a->prefill = json_array();
    }
    return a;
}

static json_t *token_json(const struct tok *tok, struct tok_stream *stream, int32_t id,
                          float logprob, bool last)
{
    struct tok_stream own = { 0 };
    struct buf text;
    json_t *j;

    buf_init(&text, 1 << 16);
    tok_stream_add(stream ? stream : &own, tok, id, false, &text);
    if (last || !stream)
        tok_stream_end(stream ? stream : &own, &text);
    j = json_pack("{s:i, s:s%, s:f, s:b}", "id", (int)id, "text", text.p, text.len, "logprob",
                  isfinite(logprob) ? (double)logprob : -9999.0, "special",
                  tok_is_special(tok, id));
    buf_release(&text);
    return j;
}

static const char *finish_of(const struct gen *g)
{
    if (g->finish == FINISH_FILTER)
        return finish_name(g->finish);
    return g->finish == FINISH_LENGTH ? "length" : g->stop_id >= 0 ? "eos_token" : "stop_sequence";
}

static json_t *seed_of(const struct tgi *t, const struct gen *g)
{
    return t->sample ? json_integer((json_int_t)g->seed) : json_null();
}

static json_t *full_text(const struct tgi *t, const struct gen *g)
{
    struct buf b;

    buf_init(&b, SIZE_MAX / 2);
    if (t->full_text)
        buf_add(&b, t->inputs, t->n_inputs);
    buf_add(&b, g->text.p, g->text.len);
    json_t *j = json_stringn(b.p, b.len);

    buf_release(&b);
    return j;
}

static json_t *details_of(const struct tgi *t, struct gen *g)
{
    struct part *a = part_of(g);
    json_t *j = json_pack("{s:s, s:I, s:o, s:O, s:O}", "finish_reason", finish_of(g),
                          "generated_tokens", (json_int_t)g->n_tokens, "seed", seed_of(t, g),
                          "prefill", a->prefill, "tokens", a->tokens);

    if (t->top)
        json_object_set(j, "top_tokens", a->top);
    return j;
}

static void headers(struct call *c, const struct tgi *t, const struct gen *g)
{
    const double total = clock_seconds() - c->began, inference = total - g->queued_s - t->checked_s;
    size_t tokens = 0;

    call_header(c, "x-compute-type", "%s", "cpu");
    call_header(c, "x-compute-characters", "%zu", t->n_inputs);
    if (t->stream)
        return;
    for (const struct gen *i = c->gens; i; i = i->next)
        tokens += i->n_tokens;
    call_header(c, "x-compute-time", "%.6f", total);
    call_header(c, "x-total-time", "%.0f", 1e3 * total);
    call_header(c, "x-validation-time", "%.0f", 1e3 * t->checked_s);
    call_header(c, "x-queue-time", "%.0f", 1e3 * g->queued_s);
    call_header(c, "x-inference-time", "%.0f", 1e3 * inference);
    call_header(c, "x-time-per-token", "%.0f", 1e3 * inference / (double)(tokens ? tokens : 1));
    call_header(c, "x-prompt-tokens", "%zu", g->n_prompt);
    call_header(c, "x-generated-tokens", "%zu", tokens);
}

/* The likeliest of best_of, by the mean of its log probabilities. */
static struct gen *best(struct call *c)
{
    struct gen *top = c->gens;

    for (struct gen *g = c->gens; g; g = g->next)
        if (part_of(g)->logprob * (double)top->n_tokens >=
            part_of(top)->logprob * (double)g->n_tokens)
            top = g;
    return top;
}

static void end_whole(struct call *c, struct tgi *t)
{
    struct gen *g = best(c);
    json_t *j = json_pack("{s:o}", "generated_text", full_text(t, g));

    if (t->details) {
        json_t *details = details_of(t, g), *others = json_array(), *one;

        for (struct gen *i = c->gens; i; i = i->next) {
            if (i == g)
                continue;
            one = details_of(t, i);
            json_object_set_new(one, "generated_text", full_text(t, i));
            json_array_append_new(others, one);
        }
        if (t->best_of > 1)
            json_object_set(details, "best_of_sequences", others);
        json_decref(others);
        json_object_set_new(j, "details", details);
    }
    headers(c, t, g);
    reply_json(c, 200, t->array ? json_pack("[o]", j) : j);
}

static void send_token(struct call *c, struct tgi *t, struct gen *g, json_t *token, json_t *top)
{
    json_t *j = json_pack("{s:I, s:o}", "index", (json_int_t)g->n_tokens, "token", token);

    if (t->top)
        json_object_set(j, "top_tokens", top);
    json_decref(top);
    json_object_set_new(j, "generated_text", g->ended ? full_text(t, g) : json_null());
    json_object_set_new(j, "details",
                        g->ended && t->details
                            ? json_pack("{s:s, s:I, s:o, s:I}", "finish_reason", finish_of(g),
                                        "generated_tokens", (json_int_t)g->n_tokens, "seed",
                                        seed_of(t, g), "input_length", (json_int_t)g->n_prompt)
                            : json_null());
    stream_data(c, j);
}

static void on_token(struct call *c, struct tgi *t, struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = c->m->engine->tok;
    struct part *a = part_of(g);
    json_t *token = token_json(tok, &a->text, ev->id, ev->logprob, ev->last), *top = json_array();

    a->logprob += (double)ev->logprob;
    for (size_t i = 0; i < t->top && ev->top; i++)
        json_array_append_new(top, token_json(tok, NULL, ev->top[i].id, ev->top[i].logprob, false));
    if (t->stream && !ev->last) {
        send_token(c, t, g, token, top);
        return;
    }
    /* the last token of a stream goes with the whole text, which the next event completes */
    json_array_append_new(a->tokens, token);
    json_array_append_new(a->top, top);
}

/* Of the first token nothing is known. */
static void on_prompt(struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = g->call->m->engine->tok;
    json_t *list = part_of(g)->prefill;

    for (size_t i = 0; i < ev->n_prompt; i++) {
        json_t *j = token_json(tok, NULL, g->prompt[i], i ? ev->score[i - 1].logprob : 0, false);

        json_object_del(j, "special");
        if (i == 0)
            json_object_set_new(j, "logprob", json_null());
        json_array_append_new(list, j);
    }
}

static void on_event(struct gen *g, const struct sched_event *ev)
{
    struct call *c = g->call;
    struct tgi *t = c->state;

    if (!call_alive(c) || t->failed)
        return;
    if (ev->kind == SCHED_FAILED) {
        t->failed = true;
        if (c->streaming) {
            stream_error(c, &g->err);
            stream_end(c);
        } else {
            reply_error(c, &g->err);
        }
        return;
    }
    if (ev->kind == SCHED_PROMPT && ev->score)
        on_prompt(g, ev);
    if (ev->kind == SCHED_TOKEN)
        on_token(c, t, g, ev);
    if (ev->kind != SCHED_DONE || !oai_all_ended(c))
        return;
    if (!t->stream) {
        end_whole(c, t);
        return;
    }
    json_t *last = json_array_get(part_of(g)->tokens, 0);
    struct err e;

    if (judge_error(g, &e)) /* TGI's streams end with a token or an error */
        stream_error(c, &e);
    else if (last)
        send_token(c, t, g, json_incref(last), json_incref(json_array_get(part_of(g)->top, 0)));
    stream_end(c);
}

static int start(struct call *c, struct tgi *t, struct err *e)
{
    struct request_mem mem;
    struct sched_request r = { .priority = 0 };
    struct gen *g;

    if (tgi_read(t, &r.gen, &mem, c, c->body, e))
        return -1;
    r.adapter = t->adapter;
    t->checked_s = clock_seconds() - c->began;
    const uint64_t seed = r.gen.sampling.seed;

    for (size_t i = 0; i < t->best_of; i++) {
        r.gen.sampling.seed = i ? rng_u64(seed, i) : seed;
        r.score = t->input_details;
        if (gen_start(c, &r, i, on_event, &g, e))
            return -1;
    }
    if (t->stream)
        headers(c, t, g);
    return 0;
}

void tgi_generate(struct call *c, bool stream, bool array)
{
    struct tgi *t = xcalloc(1, sizeof(*t));
    struct err e;

    c->state = t;
    c->state_free = tgi_free;
    t->stream = stream;
    t->array = array && !stream;
    if (start(c, t, &e)) {
        t->failed = true;
        reply_refusal(c, &e);
    }
}

void tgi_whole(struct call *c)
{
    tgi_generate(c, false, false);
}

void tgi_stream(struct call *c)
{
    tgi_generate(c, true, false);
}

/* POST /: what Hugging Face's InferenceClient sends. */
void tgi_either(struct call *c)
{
    tgi_generate(c, json_is_true(json_object_get(c->body, "stream")), true);
}

/* ---- /info, /tokenize, /chat_tokenize ---- */

void info(struct call *c)
{
    const struct server *s = c->s;
    const struct server_opts *o = &s->o;
    const size_t ctx = server_ctx(s, s->models);

    reply_json(c, 200,
               json_pack("{s:s, s:n, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:s, s:s, s:n, s:n}",
                         "model_id", s->models->name, "model_sha", "model_pipeline_tag",
                         "text-generation", "max_concurrent_requests",
                         (json_int_t)o->max_concurrent, "max_best_of", (json_int_t)o->max_best_of,
                         "max_stop_sequences", (json_int_t)o->max_stop_sequences,
                         "max_input_tokens",
                         (json_int_t)(o->max_input_tokens ? o->max_input_tokens : ctx - 1),
                         "max_total_tokens", (json_int_t)ctx, "validation_workers", 1,
                         "max_client_batch_size", (json_int_t)o->max_client_batch_size, "router",
                         "text-generation-router", "version", PUNA_VERSION, "sha", "docker_label"));
}

/* [{"id", "text", "start", "stop"}]: byte offsets in text; a token that is not in it has length 0.
 */
static json_t *offsets(const struct tok *tok, const struct ids *ids, const char *text, size_t len)
{
    json_t *list = json_array();
    size_t at = 0;

    for (size_t i = 0; i < ids->n; i++) {
        size_t n = 0;
        const char *s = tok_bytes(tok, ids->p[i], &n);
        struct buf piece;

        if (!s || n > len - at || memcmp(text + at, s, n) != 0)
            n = 0;
        buf_init(&piece, SIZE_MAX / 2);
        utf8_sanitize(&piece, text + at, n);
        json_array_append_new(list, json_pack("{s:i, s:s%, s:I, s:I}", "id", (int)ids->p[i], "text",
                                              piece.p, piece.len, "start", (json_int_t)at, "stop",
                                              (json_int_t)(at + n)));
        buf_release(&piece);
        at += n;
    }
    return list;
}

void tokenize(struct call *c)
{
    if (!json_object_get(c->body, "inputs") &&
        (json_object_get(c->body, "prompt") || json_object_get(c->body, "messages"))) {
        vllm_tokenize(c);
        return;
    }
    struct tgi *t = xcalloc(1, sizeof(*t));
    struct gen_request r = { 0 };
    struct request_mem mem;
    struct err e;

    c->state = t;
    c->state_free = tgi_free;
    if (tgi_read(t, &r, &mem, c, c->body, &e))
        reply_refusal(c, &e);
    else
        reply_json(c, 200, offsets(c->m->engine->tok, &t->prompt, t->inputs, t->n_inputs));
}

void chat_tokenize(struct call *c)
{
    struct prompt p;
    struct err e;

    prompt_init(&p);
    if (oai_render(c, &p, &e))
        reply_refusal(c, &e);
    else
        reply_json(c, 200,
                   json_pack("{s:o, s:s%}", "tokenize_response",
                             offsets(c->m->engine->tok, &p.ids, p.text.p, p.text.len),
                             "templated_text", p.text.p, p.text.len));
    prompt_release(&p);
}
