/* openai_chat.c - POST /v1/chat/completions. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/agent.h"
#include "server/field.h"
#include "server/judge.h"
#include "server/openai.h"

/* ---- answers ---- */

static json_t *logprob_of(const struct call *c, const struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = c->m->engine->tok;
    json_t *j = request_token(tok, ev->id, ev->logprob), *top = json_array();

    for (size_t i = 0; i < g->top && ev->top; i++)
        json_array_append_new(top, request_token(tok, ev->top[i].id, ev->top[i].logprob));
    json_object_set_new(j, "top_logprobs", top);
    return j;
}

json_t *chat_chunk(const struct call *c, const struct gen *g, json_t *delta, json_t *logprobs,
                   const char *finish)
{
    const struct oai *o = c->state;

    if (c->s->o.compat_tgi) /* which says it each time */
        json_object_set_new(delta, "role", json_string("assistant"));
    json_t *j = oai_envelope(
        c, "chat.completion.chunk",
        json_pack("{s:i, s:o, s:o, s:s?}", "index", (int)g->index, "delta", delta, "logprobs",
                  logprobs ? json_pack("{s:o, s:n}", "content", logprobs, "refusal") : json_null(),
                  "finish_reason", finish));

    if (o->include_usage || c->s->o.compat_tgi)
        json_object_set_new(j, "usage", o->continuous ? oai_usage(o) : json_null());
    return j;
}

void chat_open_choice(struct call *c, struct gen *g)
{
    struct choice *ch = choice_of(g);

    if (ch->opened)
        return;
    ch->opened = true;
    stream_data(c, chat_chunk(c, g, json_pack("{s:s, s:s}", "role", "assistant", "content", ""),
                              NULL, NULL));
}

/* Text (with the logprobs that belong to it) as far as it may be shown. */
void chat_send_text(struct call *c, struct gen *g, const char *text, size_t n)
{
    const struct oai *o = c->state;
    struct choice *ch = choice_of(g);
    json_t *tokens = NULL;

    if (n == 0 && !(o->logprobs && g->ended && json_array_size(ch->tokens)))
        return;
    if (o->logprobs) {
        tokens = ch->tokens;
        ch->tokens = json_array();
    }
    chat_open_choice(c, g);
    stream_data(
        c, chat_chunk(c, g, json_pack("{s:s%}", "content", text ? text : "", n), tokens, NULL));
}

static const char *finish_reason(const struct gen *g)
{
    const struct oai *o = g->call->state;
    const struct choice *ch = g->state;
    const size_t calls = !ch->parser ? 0 : o->stream ? ch->sent - ch->cancelled : ch->answer.n;

    return calls && g->finish == FINISH_STOP && !g->call->s->o.compat_tgi ? "tool_calls"
                                                                          : oai_finish(g);
}

/* ---- tool calls in a stream ---- */

static void on_content(void *arg, const char *p, size_t n)
{
    struct choice *ch = arg;

    chat_send_text(ch->gen->call, ch->gen, p, n);
}

static void send_call(struct choice *ch, size_t index, json_t *one)
{
    struct call *c = ch->gen->call;
    json_t *tokens = NULL;

    if (((const struct oai *)c->state)->logprobs) {
        tokens = ch->tokens;
        ch->tokens = json_array();
    }
    json_object_set_new(one, "index", json_integer((json_int_t)(index + ch->cancelled)));
    chat_open_choice(c, ch->gen);
    stream_data(c, chat_chunk(c, ch->gen, json_pack("{s:[o]}", "tool_calls", one), tokens, NULL));
}

static bool wanted(const struct choice *ch, size_t index)
{
    const struct oai *o = ch->gen->call->state;

    return o->parallel || index == 0;
}

static void on_call_begin(void *arg, size_t index, const char *id, const char *name)
{
    struct choice *ch = arg;

    if (!wanted(ch, index))
        return;
    ch->sent++;
    send_call(ch, index,
              json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function", "function",
                        "name", name, "arguments", ""));
}

static void on_call_args(void *arg, size_t index, const char *p, size_t n)
{
    struct choice *ch = arg;

    if (n && wanted(ch, index))
        send_call(ch, index, json_pack("{s:{s:s%}}", "function", "arguments", p, n));
}

/* What was sent cannot be taken back; its number is not used again. */
static void on_call_cancel(void *arg, size_t index)
{
    struct choice *ch = arg;

    if (wanted(ch, index))
        ch->cancelled++;
}

static const struct tool_events stream_events = {
    .content = on_content,
    .call_begin = on_call_begin,
    .call_args = on_call_args,
    .call_cancel = on_call_cancel,
};

static bool has_code(const json_t *builtin)
{
    for (size_t i = 0; i < json_array_size(builtin); i++) {
        const char *s = json_string_value(json_array_get(builtin, i));

        if (s && strcmp(s, "code_interpreter") == 0)
            return true;
    }
    return false;
}

static void open_parser(struct gen *g)
{
    const struct oai *o = g->call->state;
    struct choice *ch = choice_of(g);
    const struct tool_options to = { .tools = o->tools,
                                     .builtin_tools = o->builtin,
                                     .code = has_code(o->builtin),
                                     .exact = o->exact,
                                     .coerce = true,
                                     .seed = g->ticket ^ (uint64_t)o->created << 20 };
    struct tool_events ev = o->stream ? stream_events : tool_answer_events(&ch->answer);

    if (o->stream)
        ev.arg = ch;
    ch->parser = tool_parser_new(&to, &ev);
}

void chat_parse(struct gen *g, const struct sched_event *ev)
{
    const struct tok *tok = g->call->m->engine->tok;
    struct choice *ch = g->state;
    const int32_t id = ev->kind == SCHED_TOKEN ? ev->id : ev->stop_id;

    if (ev->n_text)
        tool_parser_text(ch->parser, ev->text, ev->n_text);
    if (id >= 0 && tok_is_special(tok, id))
        tool_parser_token(ch->parser, tok, id);
    if (ev->kind == SCHED_DONE)
        tool_parser_end(ch->parser,
                        ev->finish == FINISH_STOP ? TOOL_END_OF_TURN : TOOL_OUT_OF_TOKENS);
}

json_t *chat_calls(const struct oai *o, const struct tool_answer *a)
{
    json_t *list = json_array();

    for (size_t i = 0; i < a->n && (o->parallel || i == 0); i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:{s:s, s:s%}}", "id", a->calls[i].id, "type",
                                        "function", "function", "name", a->calls[i].name,
                                        "arguments", a->calls[i].args.p, a->calls[i].args.len));
    return list;
}

/* ---- the end ---- */

void chat_end_stream(struct call *c)
{
    struct oai *o = c->state;

    if (o->include_usage) {
        json_t *j = oai_envelope(c, "chat.completion.chunk", NULL);

        json_object_set_new(j, "usage", oai_usage(o));
        stream_data(c, j);
    }
    stream_raw(c, "[DONE]");
    stream_end(c);
}

static json_t *whole(struct call *c, struct gen *g)
{
    const struct oai *o = c->state;
    struct choice *ch = choice_of(g);
    const struct buf *text = ch->parser ? &ch->answer.content : &g->text;
    json_t *message = json_pack("{s:s, s:s%, s:n}", "role", "assistant", "content", text->p,
                                text->len, "refusal");

    if (ch->parser && ch->answer.n) {
        if (text->len == 0)
            json_object_set_new(message, "content", json_null());
        json_object_set_new(message, "tool_calls", chat_calls(o, &ch->answer));
    }

    json_t *j = json_pack(
        "{s:i, s:o, s:o, s:s}", "index", (int)g->index, "message", message, "logprobs",
        o->logprobs ? json_pack("{s:O, s:n}", "content", ch->tokens, "refusal") : json_null(),
        "finish_reason", finish_reason(g));

    judge_note(g, j);
    return j;
}

static void end_whole(struct call *c)
{
    struct oai *o = c->state;
    json_t *j = oai_envelope(c, "chat.completion", NULL);
    json_t *choices = json_object_get(j, "choices");

    for (size_t i = 0; i < o->n; i++)
        for (struct gen *g = c->gens; g; g = g->next)
            if (g->index == i) {
                json_array_append_new(choices, whole(c, g));
                if (o->score && i == 0)
                    json_object_set(j, "prompt_logprobs", choice_of(g)->prompt_logprobs);
            }
    json_object_set_new(j, "usage", oai_usage(o));
    reply_json(c, 200, j);
}

/* ---- events ---- */

static void on_event(struct gen *g, const struct sched_event *ev)
{
    struct call *c = g->call;
    struct oai *o = c->state;

    if (o->agent) {
        agent_event(o->agent, g, ev);
        return;
    }
    if (!call_alive(c) || o->failed)
        return;
    if (o->tools && o->choice != TOOLS_NONE && !choice_of(g)->parser)
        open_parser(g);
    if (ev->kind == SCHED_PROMPT) {
        o->n_cached += g->index == 0 ? ev->cached : 0;
        if (o->score && g->index == 0)
            choice_of(g)->prompt_logprobs = oai_scores(g, ev);
        if (o->stream)
            chat_open_choice(c, g);
        return;
    }
    if (ev->kind == SCHED_FAILED) {
        oai_failed(g);
        return;
    }
    if (ev->kind == SCHED_TOKEN) {
        o->n_answer_tokens++;
        if (o->logprobs)
            json_array_append_new(choice_of(g)->tokens, logprob_of(c, g, ev));
    }
    if (choice_of(g)->parser)
        chat_parse(g, ev);
    else if (o->stream)
        chat_send_text(c, g, ev->text, ev->n_text);
    if (ev->kind != SCHED_DONE)
        return;
    if (o->stream) {
        chat_open_choice(c, g);
        json_t *last = chat_chunk(c, g, json_object(), NULL, finish_reason(g));

        judge_note(g, json_array_get(json_object_get(last, "choices"), 0));
        stream_data(c, last);
    }
    if (oai_all_ended(c)) {
        if (o->stream)
            chat_end_stream(c);
        else
            end_whole(c);
    }
}

/* ---- requests ---- */

static int read_logprobs(const json_t *j, struct oai *o, struct gen_request *r, struct err *e)
{
    int64_t top = 0;

    if (json_get_bool(j, "logprobs", &o->logprobs, "request", e) < 0 ||
        json_get_int(j, "top_logprobs", 0, REQUEST_TOP, &top, "request", e) < 0)
        return -1;
    if (top && !o->logprobs)
        return err_set(e, ERR_USAGE, "request: top_logprobs needs logprobs: true");
    r->logprobs = o->logprobs;
    r->top_logprobs = o->top = (size_t)top;
    return 0;
}

int oai_render(struct call *c, struct prompt *p, struct err *e)
{
    if (!c->m->format)
        return err_set(e, ERR_USAGE, "this model has no chat template; use /v1/completions");
    json_t *final = NULL;
    int rc;

    if (oai_template_kwargs(c, true, e) || oai_take_final(c, &final, e) ||
        oai_adapt_messages(c, e)) {
        json_decref(final);
        return -1;
    }
    if (!json_object_get(c->body, "date_string"))
        json_object_set_new(c->body, "date_string", json_string("today"));
    rc = chat_render(c->m->format, c->m->engine->tok, c->body, p, e);
    if (rc == 0 && final) {
        buf_add(&p->text, json_string_value(final), json_string_length(final));
        rc = tok_encode(c->m->engine->tok, json_string_value(final), json_string_length(final),
                        TOK_PLAIN, &p->ids, e);
    }
    json_decref(final);
    return rc;
}

static int read_request(struct call *c, struct oai *o, struct err *e)
{
    struct sched_request *r = &o->r;
    int64_t priority = 0, best_of = 1;

    if (oai_read(c, o, &r->gen, &o->mem, e) || read_logprobs(c->body, o, &r->gen, e) ||
        json_get_int(c->body, "priority", -1000, 1000, &priority, "request", e) < 0 ||
        agent_open(c, o, e) || oai_read_tools(c, o, e))
        return -1;
    r->gen.grammar = o->grammar;
    if (fields_check(c, c->body, IN_CHAT, e))
        return -1;
    if (json_get_int(c->body, "best_of", 1, (int64_t)o->n, &best_of, "request", e) < 0)
        return -1;
    if (o->tools)
        r->gen.keep_special = false; /* the parser is told of control tokens by id */
    r->priority = (int)priority;
    r->salt = o->salt;
    r->adapter = o->adapter;
    return 0;
}

int chat_begin(struct call *c, struct oai *o, struct err *e)
{
    struct sched_request r = o->r;
    const uint64_t seed = r.gen.sampling.seed;
    struct prompt p;
    int rc = -1;

    prompt_init(&p);
    if (oai_render(c, &p, e))
        goto done;
    oai_cut(o, &p.ids);
    r.gen.prompt = p.ids.p;
    r.gen.n_prompt = p.ids.n;
    o->n_prompt_tokens += p.ids.n;
    if (oai_read_scores(c, o, &r, p.ids.n, e))
        goto done;
    for (size_t i = 0; i < o->n; i++) {
        r.gen.sampling.seed = i ? rng_u64(seed, i) : seed;
        r.score = o->score && i == 0;
        if (gen_start(c, &r, i, on_event, NULL, e))
            goto done;
    }
    rc = 0;
done:
    prompt_release(&p);
    return rc;
}

static int start(struct call *c, struct oai *o, struct err *e)
{
    if (read_request(c, o, e))
        return -1;
    if (o->agent && o->choice == TOOLS_NONE) {
        agent_free(o->agent);
        o->agent = NULL;
    }
    return o->agent ? agent_start(c, o, e) : chat_begin(c, o, e);
}

void chat_completions(struct call *c)
{
    struct oai *o = xcalloc(1, sizeof(*o));
    struct err e;

    c->state = o;
    c->state_free = oai_free;
    o->chat = true;
    o->n_prompts = 1;
    if (start(c, o, &e)) {
        o->failed = true;
        reply_refusal(c, &e);
    }
}
