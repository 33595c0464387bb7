/* openai.c - what chat and completions have in common, and /v1/models. */
#include "server/openai.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/adapters.h"
#include "server/agent.h"

enum { MAX_SCORES = 1 << 18 };

int oai_read_model(struct call *c, struct oai *o, struct err *e)
{
    const json_t *m = json_object_get(c->body, "model");
    const char *s = json_string_value(m);

    /* A name is a model's (served_choose) or an adapter's. Unknown ones are answered by the first
     * model: clients send "tgi", "dummy" or "gpt-4". */
    if (!m) {
        o->model = xstrdup(c->m->name);
        return 0;
    }
    if (!s || !*s || json_string_length(m) > 256 || strlen(s) != json_string_length(m))
        return err_set(e, ERR_USAGE, "request: model must be a name of 1 to 256 bytes");
    for (const char *p = s; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, ERR_USAGE, "request: the model's name holds a control character");
    for (const char *p = s; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == 0))
            return err_set(e, ERR_USAGE, "request: the model's name holds a '..'");
    o->model = xstrdup(s);
    o->adapter = adapters_find(c->m->adapters, s);
    if (c->s->o.strict && !o->adapter && strcmp(s, c->m->name) != 0)
        return err_set(e, ERR_NOT_FOUND,
                       "The model `%.64s` does not exist; GET /v1/models lists "
                       "those that do",
                       s);
    return 0;
}

/* Fields that would change the answer in a way we do not offer: better no answer than another. */
static int check_unsupported(const json_t *j, struct err *e)
{
    static const char *const names[] = {
        "chat_template",
        "structural_tag",
        "prompt_embeds",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const json_t *v = json_object_get(j, names[i]);

        if (v && !json_is_null(v))
            return err_set(e, ERR_USAGE, "request: %s is not supported", names[i]);
    }
    return 0;
}

int oai_read_salt(const json_t *j, uint64_t *salt, struct err *e)
{
    const char *s = NULL, *user;
    size_t n = 0;

    if (json_get_str(j, "user", &user, NULL, "request", e) < 0 ||
        json_get_str(j, "cache_salt", &s, &n, "request", e) < 0)
        return -1;
    if (s && (n == 0 || n > 256))
        return err_set(e, ERR_USAGE, "request: cache_salt is a text of 1 to 256 bytes");
    *salt = 0;
    for (size_t i = 0; i < n; i++)
        *salt = rng_u64(*salt + 1, (uint64_t)(unsigned char)s[i]);
    return 0;
}

int oai_read(struct call *c, struct oai *o, struct gen_request *r, struct request_mem *mem,
             struct err *e)
{
    const json_t *j = c->body;
    json_t *options = NULL;
    int64_t n = 1;

    o->created = (int64_t)time(NULL);
    request_defaults(r, c->m->engine->model->ckpt, 1);
    r->sampling.seed = rng_fresh_seed();
    r->eos = c->m->eos.p;
    r->n_eos = c->m->eos.n;
    if (check_unsupported(j, e) || oai_read_salt(j, &o->salt, e) || oai_read_model(c, o, e) ||
        json_get_bool(j, "stream", &o->stream, "request", e) < 0 ||
        json_get_int(j, "n", 1, OPENAI_MAX_N, &n, "request", e) < 0 ||
        json_get_obj(j, "stream_options", &options, "request", e) < 0 ||
        request_read(r, mem, j, c->m->engine, e) || oai_read_more(c, o, r, e) ||
        request_grammar(&o->grammar, j, c->m->engine, e))
        return -1;
    if (o->grammar && c->s->o.no_grammar)
        return err_set(e, ERR_USAGE, "grammar is not supported: --disable-grammar-support");
    r->grammar = o->grammar;
    if (r->max_new_tokens == 0 && (json_is_integer(json_object_get(j, "max_tokens")) ||
                                   json_is_integer(json_object_get(j, "max_completion_tokens"))))
        return err_set(e, ERR_USAGE, "max_tokens is 0; it must be at least 1");
    if (r->sampling.temperature > OPENAI_MAX_TEMPERATURE)
        return err_set(e, ERR_USAGE, "temperature is %g; it must be between 0 and %d",
                       r->sampling.temperature, OPENAI_MAX_TEMPERATURE);
    if (options &&
        (json_get_bool(options, "include_usage", &o->include_usage, "stream_options", e) < 0 ||
         json_get_bool(options, "continuous_usage_stats", &o->continuous, "stream_options", e) < 0))
        return -1;
    o->n = (size_t)n;
    return 0;
}

int oai_inputs(const struct call *c, const char *name, size_t max, json_t **list, struct err *e)
{
    json_t *p = json_object_get(c->body, name);
    const size_t n = json_array_size(p);
    const bool many = n && !json_is_integer(json_array_get(p, 0));

    if (!json_is_string(p) && n == 0)
        return err_set(e, ERR_USAGE,
                       "request: %s is neither a text, a list of ids, nor a list of these", name);
    if (many && n > max)
        return err_set(e, ERR_USAGE, "request: %s has %zu entries, at most %zu", name, n, max);
    for (size_t i = 0; many && i < n; i++)
        if (!json_is_string(json_array_get(p, i)) && !json_is_array(json_array_get(p, i)))
            return err_set(e, ERR_USAGE, "request: %s[%zu] is neither a text nor ids", name, i);
    *list = many ? json_incref(p) : json_pack("[O]", p);
    return 0;
}

int oai_input_ids(const struct call *c, const json_t *input, struct ids *out, struct err *e)
{
    const struct tok *tok = c->m->engine->tok;

    if (json_is_string(input)) {
        if (tok_adds_bos(tok) && tok_bos(tok) >= 0)
            ids_add(out, tok_bos(tok));
        return tok_encode(tok, json_string_value(input), json_string_length(input), TOK_PLAIN, out,
                          e);
    }
    for (size_t i = 0; i < json_array_size(input); i++) {
        const json_t *v = json_array_get(input, i);
        const json_int_t id = json_integer_value(v);

        if (!json_is_integer(v) || id < 0 || id >= tok_size(tok))
            return err_set(e, ERR_USAGE, "request: prompt[%zu] is no token id below %d", i,
                           tok_size(tok));
        ids_add(out, (int32_t)id);
    }
    return 0;
}

/* ---- what the model thinks of a prompt ---- */

int oai_read_scores(struct call *c, struct oai *o, struct sched_request *r, size_t n, struct err *e)
{
    int64_t k = 0;
    const int has = json_get_int(c->body, "prompt_logprobs", 0, REQUEST_TOP, &k, "request", e);

    if (has < 0)
        return -1;
    if (has && o->stream)
        return err_set(e, ERR_USAGE,
                       "request: prompt_logprobs come with whole answers only; leave "
                       "out stream");
    if (has) {
        o->score = r->score = true;
        r->score_top = (size_t)k;
    }
    /* an answer of so many lines holds up the others */
    if (r->score && n * (1 + r->score_top) > MAX_SCORES)
        return err_set(e, ERR_USAGE,
                       "request: log probabilities of %zu tokens with %zu alternatives each are "
                       "more than %d; ask for fewer, or in parts",
                       n, r->score_top, MAX_SCORES);
    return 0;
}

static json_t *score_json(const struct tok *tok, int32_t id, float logprob, int32_t rank)
{
    json_t *t = request_token(tok, id, logprob), *j;

    j = json_pack("{s:O, s:i, s:O}", "logprob", json_object_get(t, "logprob"), "rank", (int)rank,
                  "decoded_token", json_object_get(t, "token"));
    json_decref(t);
    return j;
}

json_t *oai_scores(const struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = g->call->m->engine->tok;
    json_t *list = json_pack("[n]");
    char key[16];

    for (size_t i = 0; i + 1 < ev->n_prompt; i++) {
        json_t *one = json_object();

        for (size_t k = 0; k < g->score_top; k++) {
            const struct top_logprob *t = ev->score_top + i * g->score_top + k;

            snprintf(key, sizeof(key), "%d", t->id);
            json_object_set_new(one, key, score_json(tok, t->id, t->logprob, (int32_t)k + 1));
        }
        snprintf(key, sizeof(key), "%d", g->prompt[i + 1]);
        json_object_set_new(
            one, key, score_json(tok, g->prompt[i + 1], ev->score[i].logprob, ev->score[i].rank));
        json_array_append_new(list, one);
    }
    return list;
}

void oai_free(void *p)
{
    struct oai *o = p;

    agent_free(o->agent);
    json_decref(o->tools);
    json_decref(o->builtin);
    grammar_unref(o->grammar);
    free(o->tool);
    free(o->model);
    free(o);
}

void choice_free(void *p)
{
    struct choice *ch = p;

    tool_parser_free(ch->parser);
    tool_answer_release(&ch->answer);
    buf_release(&ch->pending);
    json_decref(ch->tokens);
    json_decref(ch->prompt_logprobs);
    free(ch);
}

struct choice *choice_of(struct gen *g)
{
    struct choice *ch = g->state;

    if (!ch) {
        g->state = ch = xcalloc(1, sizeof(*ch));
        g->state_free = choice_free;
        ch->gen = g;
        buf_init(&ch->pending, 64 << 20);
        tool_answer_init(&ch->answer);
        ch->tokens = json_array();
    }
    return ch;
}

const char *oai_finish(const struct gen *g)
{
    if (g->finish == FINISH_FILTER)
        return finish_name(g->finish);
    if (g->call->s->o.compat_tgi && g->finish != FINISH_LENGTH)
        return g->stop_id < 0                               ? "stop_sequence"
               : ((const struct oai *)g->call->state)->chat ? "stop"
                                                            : "eos_token";
    return g->finish == FINISH_LENGTH ? "length" : "stop";
}

json_t *oai_usage(const struct oai *o)
{
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)o->n_prompt_tokens,
                     "completion_tokens", (json_int_t)o->n_answer_tokens, "total_tokens",
                     (json_int_t)(o->n_prompt_tokens + o->n_answer_tokens), "prompt_tokens_details",
                     "cached_tokens", (json_int_t)o->n_cached);
}

json_t *oai_envelope(const struct call *c, const char *object, json_t *choice)
{
    const struct oai *o = c->state;
    char id[160];

    const bool tgi = c->s->o.compat_tgi; /* has no ids */

    if (tgi)
        id[0] = 0;
    else
        snprintf(id, sizeof(id), "%s-%s", o->chat ? "chatcmpl" : "cmpl", c->id);
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", id, "object", object, "created",
                     (json_int_t)o->created, "model", o->model, "system_fingerprint",
                     tgi ? PUNA_VERSION "-native" : "puna-" PUNA_VERSION, "choices",
                     choice ? json_pack("[o]", choice) : json_array());
}

void oai_failed(struct gen *g)
{
    struct call *c = g->call;
    struct oai *o = c->state;

    o->failed = true;
    if (c->streaming) {
        stream_error(c, &g->err);
        stream_end(c);
    } else {
        reply_error(c, &g->err);
    }
}

bool oai_all_ended(const struct call *c)
{
    for (const struct gen *g = c->gens; g; g = g->next)
        if (!g->ended)
            return false;
    return true;
}

/* A model, or an adapter of it (parent = the model). */
static json_t *model_json(const struct server *s, const struct served *m, const char *name,
                          const char *root, const char *parent)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s?, s:I, s:{s:s}}", "id", name, "object", "model",
                     "created", (json_int_t)m->created, "owned_by", "puna", "root", root, "parent",
                     parent, "max_model_len", (json_int_t)server_ctx(s, m), "status", "value",
                     m->leaving ? "unloading" : "loaded");
}

static json_t *all_models(const struct server *s)
{
    json_t *list = json_array();
    const char *name, *path;

    for (const struct served *m = s->models; m; m = m->next) {
        json_array_append_new(list, model_json(s, m, m->name, m->name, NULL));
        for (size_t i = 0; adapters_get(m->adapters, i, &name, &path); i++)
            json_array_append_new(list, model_json(s, m, name, path, m->name));
    }
    return list;
}

void models(struct call *c)
{
    reply_json(c, 200, json_pack("{s:s, s:o}", "object", "list", "data", all_models(c->s)));
}

void model(struct call *c)
{
    char *name = call_tail(c);
    json_t *list = all_models(c->s), *found = NULL;

    for (size_t i = 0; name && i < json_array_size(list); i++) {
        json_t *m = json_array_get(list, i);

        if (!strcmp(json_string_value(json_object_get(m, "id")), name))
            found = m;
    }
    if (found)
        reply_json(c, 200, json_incref(found));
    else
        reply_status(c, 404, "invalid_request_error", "model_not_found",
                     "this server has no model of that name; GET /v1/models lists what it has");
    json_decref(list);
    free(name);
}
