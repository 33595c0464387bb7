/* run_json.c - requests as JSON lines. Every line is answered by one line; a bad one says why and
 * the rest goes on. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/run_int.h"
#include "engine/request.h"

enum { LINE_MAX_BYTES = 256 << 20 };

/* Where the fields of one request live while it runs. */
struct line {
    json_t *json; /* owned */
    struct request_mem mem;
    struct ids prompt;
    struct grammar *grammar; /* that it asks for, a reference; NULL = what holds for all */
};

static bool given(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);

    return v && !json_is_null(v);
}

/* logprobs: true with top_logprobs: N, or the older logprobs: N. */
static int read_logprobs(const json_t *j, struct gen_request *r, struct err *e)
{
    const json_t *v = json_object_get(j, "logprobs");
    int64_t top = (int64_t)r->top_logprobs;

    if (json_is_integer(v)) {
        if (json_get_int(j, "logprobs", 0, 20, &top, "request", e) < 0)
            return -1;
        r->logprobs = true;
    } else if (json_get_bool(j, "logprobs", &r->logprobs, "request", e) < 0) {
        return -1;
    }
    if (json_get_int(j, "top_logprobs", 0, 20, &top, "request", e) < 0)
        return -1;
    r->logprobs |= top > 0;
    r->top_logprobs = (size_t)top;
    return 0;
}

static int read_sampling(const struct talk *t, struct line *l, struct gen_request *r, struct err *e)
{
    const json_t *j = l->json;
    int64_t n = 1;

    if (json_get_int(j, "n", 1, 1, &n, "request", e) < 0 || read_logprobs(j, r, e))
        return -1;
    if (t->set.sampling.temperature == 0 && !t->cfg->greedy && !given(j, "temperature") &&
        (given(j, "top_p") || given(j, "top_k") || given(j, "min_p")))
        r->sampling.temperature = t->set.warm; /* as on the command line: who narrows the draw
                                                  wants one */
    return request_read(r, &l->mem, j, t->engine, e);
}

/* "prompt": a text, or ids. */
static int raw_prompt(const struct talk *t, const json_t *prompt, struct ids *out, struct err *e)
{
    json_t *v;
    size_t i;

    if (json_is_string(prompt))
        return talk_raw_ids(t, json_string_value(prompt), json_string_length(prompt), out, e);
    if (!json_is_array(prompt))
        return err_set(e, ERR_USAGE, "request: prompt is neither a string nor a list of ids");
    json_array_foreach(prompt, i, v)
    {
        const json_int_t id = json_integer_value(v);

        if (!json_is_integer(v) || id < 0 || id >= tok_size(t->engine->tok))
            return err_set(e, ERR_USAGE, "request: prompt[%zu] is no token id below %d", i,
                           tok_size(t->engine->tok));
        ids_add(out, (int32_t)id);
    }
    return 0;
}

static int read_prompt(const struct talk *t, struct line *l, struct err *e)
{
    json_t *messages = json_object_get(l->json, "messages"),
           *prompt = json_object_get(l->json, "prompt");
    struct prompt p;
    int rc;

    if (!messages == !prompt)
        return err_set(e, ERR_USAGE, "request: it needs either messages or prompt");
    if (prompt)
        return raw_prompt(t, prompt, &l->prompt, e);
    if (!t->format)
        return err_set(e, ERR_USAGE, "request: messages need a chat template: %s",
                       t->no_format ? t->no_format : "--raw switches it off");
    if (json_array_size(t->messages) &&
        json_is_array(messages)) { /* --system, unless the request has its own */
        const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));

        if (!role || strcmp(role, "system") != 0)
            json_array_insert(messages, 0, json_array_get(t->messages, 0));
    }
    if (!json_object_get(l->json, "date_string"))
        talk_date(t->cfg, l->json);
    prompt_init(&p);
    rc = chat_render(t->format, t->engine->tok, l->json, &p, e);
    if (rc == 0)
        ids_append(&l->prompt, p.ids.p, p.ids.n);
    prompt_release(&p);
    return rc;
}

static json_t *json_ids(const int32_t *p, size_t n)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, json_integer(p[i]));
    return a;
}

/* A token as the server's API has it, and its id. */
static json_t *json_token(const struct tok *tok, int32_t id, float logprob)
{
    json_t *j = request_token(tok, id, logprob);

    json_object_set_new(j, "id", json_integer(id));
    return j;
}

static json_t *json_logprobs(const struct tok *tok, const struct gen_result *r, size_t k)
{
    json_t *j = json_object(), *content = json_array();

    for (size_t i = 0; i < r->ids.n; i++) {
        json_t *one = json_token(tok, r->ids.p[i], r->logprob[i]), *top = json_array();

        for (size_t m = 0; m < k; m++)
            json_array_append_new(top,
                                  json_token(tok, r->top[i * k + m].id, r->top[i * k + m].logprob));
        json_object_set_new(one, "top_logprobs", top);
        json_array_append_new(content, one);
    }
    json_object_set_new(j, "content", content);
    return j;
}

static json_t *json_answer(const struct talk *t, const struct gen_request *r,
                           const struct gen_result *out)
{
    json_t *j = json_object(), *usage = json_object();

    json_object_set_new(j, "text", json_stringn(out->text.p, out->text.len));
    json_object_set_new(j, "ids", json_ids(out->ids.p, out->ids.n));
    json_object_set_new(j, "prompt_ids", json_ids(r->prompt, r->n_prompt));
    json_object_set_new(j, "finish_reason", json_string(finish_name(out->finish)));
    json_object_set_new(usage, "prompt_tokens", json_integer((json_int_t)r->n_prompt));
    json_object_set_new(usage, "completion_tokens", json_integer((json_int_t)out->ids.n));
    json_object_set_new(usage, "total_tokens",
                        json_integer((json_int_t)(r->n_prompt + out->ids.n)));
    json_object_set_new(usage, "prompt_tokens_details",
                        json_pack("{s:I}", "cached_tokens", (json_int_t)out->cached));
    if (out->guessed)
        json_object_set_new(usage, "completion_tokens_details",
                            json_pack("{s:I, s:I}", "accepted_prediction_tokens",
                                      (json_int_t)out->guessed_right, "rejected_prediction_tokens",
                                      (json_int_t)(out->guessed - out->guessed_right)));
    json_object_set_new(j, "usage", usage);
    if (r->sampling.temperature >
        0) /* a seed that JSON's integers cannot hold was never handed out */
        json_object_set_new(j, "seed", json_integer((json_int_t)r->sampling.seed));
    if (out->logprob)
        json_object_set_new(j, "logprobs", json_logprobs(t->engine->tok, out, r->top_logprobs));
    return j;
}

static void into_filter(void *arg, const char *p, size_t n)
{
    filter_text(arg, p, n);
}

/* What guards read: the messages, or a prompt that is continued, as a user's turn. */
static json_t *guard_messages(const struct talk *t, const struct line *l)
{
    json_t *messages = json_object_get(l->json, "messages");
    struct buf text;

    if (messages || !t->guards)
        return json_incref(messages);
    buf_init(&text, SIZE_MAX);
    tok_decode(t->engine->tok, l->prompt.p, l->prompt.n, false, &text);
    messages = json_pack("[{s:s, s:o}]", "role", "user", "content",
                         json_stringn_nocheck(text.p, text.len));
    buf_release(&text);
    return messages;
}

static int generate_guarded(struct talk *t, const json_t *messages, struct gen_request *r,
                            struct gen_result *out, struct err *e)
{
    struct filter f;
    int rc;

    filter_open(&f, t, messages, NULL, NULL);
    r->on_text = into_filter;
    r->arg = &f;
    r->cancel = filter_cancel(&f);
    rc = generate(t->session, r, out, e);
    if (rc == 0 && filter_end(&f, out, e)) {
        gen_result_release(out);
        rc = -1;
    }
    filter_close(&f);
    return rc;
}

/* The same with tools: the last turn's answer, the calls before it, and all messages that are new.
 */
static int answer_tools(struct talk *t, struct line *l, const struct gen_request *r, json_t **out,
                        struct err *e)
{
    struct tool_talk w = { .t = t, .base = l->json, .r = *r, .quiet = true };
    json_t *messages = json_copy(json_object_get(l->json, "messages")), *fresh = json_array();
    const size_t had = json_array_size(messages);
    int rc = -1;

    if (tool_talk(&w, messages, e) == 0) {
        struct gen_request last = *r;
        struct loop limits = { .limits.seconds = t->cfg->tool_time };
        char *note = loop_note(&limits, &w.loop);

        last.prompt = w.prompt.p;
        last.n_prompt = w.prompt.n;
        for (size_t i = had; i < json_array_size(messages); i++)
            json_array_append(fresh, json_array_get(messages, i));
        *out = json_answer(t, &last, &w.last);
        json_object_set_new(*out, "text", json_stringn(w.loop.text.p, w.loop.text.len));
        json_object_set(*out, "tool_calls", w.calls);
        json_object_set(*out, "messages", fresh);
        if (note)
            json_object_set_new(*out, "note", json_string(note));
        free(note);
        rc = 0;
    }
    tool_talk_release(&w);
    json_decref(messages);
    json_decref(fresh);
    return rc;
}

static int answer(struct talk *t, struct line *l, const struct buf *text, json_t **out,
                  struct err *e)
{
    struct gen_request r;
    struct gen_result result;
    json_t *messages;
    int rc;

    if (json_parse(&l->json, text->p, text->len, "request", e))
        return -1;
    if (!json_is_object(l->json))
        return err_set(e, ERR_USAGE, "request: not an object");
    talk_request(t, &r);
    r.sampling.seed &= INT64_MAX;
    if (read_sampling(t, l, &r, e) || request_grammar(&l->grammar, l->json, t->engine, e) ||
        read_prompt(t, l, e))
        return -1;
    if (l->grammar)
        r.grammar = l->grammar;
    r.prompt = l->prompt.p;
    r.n_prompt = l->prompt.n;
    messages = guard_messages(t, l);
    rc = guard_question(t, messages, &result, e);
    if (rc == 0 && t->kit && json_object_get(l->json, "messages")) {
        json_decref(messages);
        return answer_tools(t, l, &r, out, e);
    }
    if (rc == 0)
        rc = generate_guarded(t, messages, &r, &result, e);
    json_decref(messages);
    if (rc < 0)
        return -1;
    *out = json_answer(t, &r, &result);
    gen_result_release(&result);
    return 0;
}

static bool is_blank(const struct buf *b)
{
    return b->len == strspn(b->p, " \t\r");
}

int run_json(struct talk *t, struct err *e)
{
    struct buf text;
    int rc, status = 0;

    buf_init(&text, LINE_MAX_BYTES);
    while ((rc = file_line(&text, stdin, e)) > 0) {
        struct line *l;
        json_t *out = NULL;

        if (is_blank(&text))
            continue;
        l = xcalloc(1, sizeof(*l));
        if (answer(t, l, &text, &out, e)) {
            out = json_pack("{s:s}", "error", e->msg);
            if (!out) /* a message cut inside a character */
                out = json_pack("{s:s}", "error", "invalid request");
            status = 1;
        }
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(out);
        json_decref(l->json);
        ids_release(&l->prompt);
        grammar_unref(l->grammar);
        free(l);
        if (fflush(stdout))
            break;
    }
    buf_release(&text);
    return rc < 0 ? -1 : status;
}
