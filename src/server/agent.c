/* agent.c - the loop of tools/loop.h runs on a thread of its own, where tools may take their time;
 * its turns are generations of the call like any other, begun and heard on the server's thread. */
#include "server/agent.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/thread.h"
#include "guard/guards.h"
#include "server/http_int.h"
#include "tools/loop.h"

struct agent {
    struct call *c;
    struct oai *o;
    json_t *first;    /* the body as it came: o->r borrows from it */
    json_t *messages; /* the loop's */
    json_t *own;      /* names of the tools that the server runs */
    struct tool_session session;
    struct loop_result result;
    json_t *ran; /* [{"id", "name", "arguments", "failed", "result", "seconds"}] */
    bool failed; /* the loop: err */
    struct err err;

    /* the server's thread */
    struct gen *gen; /* of the turn that runs, or the last */
    struct buf said; /* all content so far */
    bool opened;     /* the stream */
    uint64_t turn;
    json_t *client_calls; /* of the last turn: what the client is to run */

    /* between the two: a turn is asked for and handed back */
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool is_over;
    json_t *asked; /* messages of the turn */
    struct tool_answer *out;
    size_t tokens;
    int rc;
    struct err turn_err;
};

/* ---- a turn, on the server's thread ---- */

static void hand_back(struct agent *a, int rc)
{
    pthread_mutex_lock(&a->lock);
    a->rc = rc;
    a->is_over = true;
    pthread_cond_signal(&a->over);
    pthread_mutex_unlock(&a->lock);
}

static void begin(void *arg)
{
    struct agent *a = arg;
    struct call *c = a->c;
    json_t *body = json_deep_copy(a->first);

    json_object_set_new(body, "messages", a->asked);
    json_decref(c->body);
    c->body = body;
    if (c->talk) {
        json_decref(c->talk);
        c->talk = json_deep_copy(a->asked);
    }
    a->o->r.gen.sampling.seed = rng_u64(a->o->r.gen.sampling.seed, ++a->turn);
    if (!call_alive(c)) {
        err_set(&a->turn_err, ERR_FAIL, "the client has left");
        hand_back(a, -1);
    } else if (chat_begin(c, a->o, &a->turn_err)) {
        hand_back(a, -1);
    }
    if (a->o->choice == TOOLS_REQUIRED || a->o->choice == TOOLS_NAMED)
        a->o->r.gen.grammar = NULL; /* the call that was forced comes in this turn */
}

static void on_content(void *arg, const char *p, size_t n)
{
    struct agent *a = arg;

    buf_add(&a->said, p, n);
    if (a->o->stream)
        chat_send_text(a->c, a->gen, p, n);
}

static void open_turn(struct agent *a, struct gen *g)
{
    struct choice *ch = choice_of(g);
    const struct tool_events ev = tool_answer_events(&ch->answer);
    json_t *declared = json_object();

    if (a->o->tools)
        json_object_set(declared, "tools", a->o->tools);
    if (a->o->builtin)
        json_object_set(declared, "builtin_tools", a->o->builtin);
    a->gen = g;
    ch->answer.on_content = on_content;
    ch->answer.arg = a;
    ch->parser = loop_parser(declared, a->o->exact, g->ticket ^ (uint64_t)a->o->created << 20, &ev);
    ch->opened = a->opened;
    json_decref(declared);
}

static bool is_own(const struct agent *a, const char *name)
{
    for (size_t i = 0; i < json_array_size(a->own); i++)
        if (strcmp(json_string_value(json_array_get(a->own, i)), name) == 0)
            return true;
    return false;
}

/* Whether the turn calls what the client declared: then it is the client's to go on. */
static bool calls_client(const struct agent *a, const struct tool_answer *t)
{
    const json_t *tools = json_object_get(a->first, "tools");

    for (size_t i = 0; i < t->n; i++)
        for (size_t k = 0; k < json_array_size(tools); k++) {
            const json_t *f = json_object_get(json_array_get(tools, k), "function");
            const char *name = json_string_value(json_object_get(f, "name"));

            if (name && strcmp(name, t->calls[i].name) == 0 && !is_own(a, name))
                return true;
        }
    return false;
}

static void end_turn(struct agent *a, struct gen *g)
{
    struct choice *ch = choice_of(g);
    struct tool_answer mine = ch->answer;
    bool stop = g->finish == FINISH_FILTER;

    if (stop)
        while (mine.n)
            tool_answer_drop(&mine);
    if (calls_client(a, &mine)) {
        a->client_calls = chat_calls(a->o, &mine);
        stop = true;
    }
    ch->answer = *a->out; /* the loop's fresh one is released with the choice */
    *a->out = mine;
    a->tokens = g->n_tokens;
    hand_back(a, stop);
}

void agent_event(struct agent *a, struct gen *g, const struct sched_event *ev)
{
    struct oai *o = a->o;
    const bool alive = call_alive(a->c);

    if (a->gen != g)
        open_turn(a, g);
    if (ev->kind == SCHED_FAILED || (ev->kind == SCHED_DONE && !alive)) {
        if (ev->kind == SCHED_FAILED)
            a->turn_err = *ev->err;
        else
            err_set(&a->turn_err, ERR_FAIL, "the client has left");
        hand_back(a, -1);
        return;
    }
    if (!alive)
        return;
    if (ev->kind == SCHED_PROMPT) {
        o->n_cached += ev->cached;
        if (o->stream)
            chat_open_choice(a->c, g);
        a->opened = o->stream;
        return;
    }
    o->n_answer_tokens += ev->kind == SCHED_TOKEN;
    chat_parse(g, ev);
    if (ev->kind == SCHED_DONE)
        end_turn(a, g);
}

/* ---- the loop, on its own thread ---- */

static int answer(void *arg, json_t *messages, struct tool_answer *out, size_t *tokens,
                  struct err *e)
{
    struct agent *a = arg;

    a->asked = json_deep_copy(messages);
    a->out = out;
    a->is_over = false;
    server_post(a->c->s, begin, a);
    pthread_mutex_lock(&a->lock);
    while (!a->is_over)
        pthread_cond_wait(&a->over, &a->lock);
    pthread_mutex_unlock(&a->lock);
    *tokens = a->tokens;
    if (a->rc < 0)
        *e = a->turn_err;
    return a->rc;
}

static const char *refuse(void *arg, const struct tool_call *c)
{
    struct agent *a = arg;
    struct guards *g = a->c->s->o.guards;
    struct finding f;
    struct buf text;
    struct err e;
    int rc;

    if (!is_own(a, c->name))
        return "this tool is not offered";
    if (!guards_judge_output(g))
        return NULL;
    buf_init(&text, SIZE_MAX);
    buf_addf(&text, "%s(%s)", c->name, c->args.p);
    rc = guards_turn(g, a->messages, text.p, text.len, &f, NULL, &e);
    buf_release(&text);
    return rc || f.bad ? "a guard does not allow this call" : NULL;
}

static int check(void *arg, const struct tool_call *c, struct tool_result *r, struct err *e)
{
    struct agent *a = arg;
    struct guards *g = a->c->s->o.guards;
    struct finding f = { 0 };

    (void)c;
    if (g && guards_text(g, r->text.p, r->text.len, true, &f, e))
        return -1;
    if (f.bad) {
        r->failed = true;
        buf_clear(&r->text);
        buf_adds(&r->text, "error: withheld, it looks like an attack on you");
    }
    return 0;
}

static void ended(void *arg, const struct tool_call *c, const struct tool_result *r)
{
    struct agent *a = arg;

    json_array_append_new(a->ran, json_pack("{s:s, s:s, s:s%, s:b, s:s%, s:f}", "id", c->id, "name",
                                            c->name, "arguments", c->args.p, c->args.len, "failed",
                                            (int)r->failed, "result", r->text.p, r->text.len,
                                            "seconds", r->seconds));
}

static void finish(void *arg);

static void *run(void *arg)
{
    struct agent *a = arg;
    const struct loop l = { .kit = a->c->s->o.kit,
                            .session = &a->session,
                            .limits = loop_limits_default,
                            .arg = a,
                            .answer = answer,
                            .refuse = refuse,
                            .check = check,
                            .ended = ended };

    a->failed = tool_loop(&l, a->messages, &a->result, &a->err) != 0;
    server_post(a->c->s, finish, a);
    return NULL;
}

/* ---- the end, on the server's thread ---- */

static const char *reason(const struct agent *a)
{
    return a->client_calls                ? "tool_calls"
           : a->result.end != LOOP_ANSWER ? "length"
                                          : oai_finish(a->gen);
}

static void send_whole(struct agent *a)
{
    struct oai *o = a->o;
    json_t *message = json_pack("{s:s, s:s%, s:n}", "role", "assistant", "content", a->said.p,
                                a->said.len, "refusal");
    json_t *j;

    if (a->client_calls) {
        if (a->said.len == 0)
            json_object_set_new(message, "content", json_null());
        json_object_set(message, "tool_calls", a->client_calls);
    }
    json_object_set(message, "server_tool_calls", a->ran);
    j = oai_envelope(a->c, "chat.completion",
                     json_pack("{s:i, s:o, s:n, s:s}", "index", 0, "message", message, "logprobs",
                               "finish_reason", reason(a)));
    json_object_set_new(j, "usage", oai_usage(o));
    reply_json(a->c, 200, j);
}

static void send_end(struct agent *a)
{
    struct call *c = a->c;

    for (size_t i = 0; i < json_array_size(a->client_calls); i++) {
        json_t *one = json_copy(json_array_get(a->client_calls, i));

        json_object_set_new(one, "index", json_integer((json_int_t)i));
        stream_data(c, chat_chunk(c, a->gen, json_pack("{s:[o]}", "tool_calls", one), NULL, NULL));
    }
    stream_data(
        c, chat_chunk(c, a->gen, json_pack("{s:O}", "server_tool_calls", a->ran), NULL, reason(a)));
    chat_end_stream(c);
}

static void finish(void *arg)
{
    struct agent *a = arg;
    struct call *c = a->c;

    if (!call_alive(c)) {
        ;
    } else if (a->failed && a->opened) {
        stream_error(c, &a->err);
    } else if (a->failed) {
        reply_error(c, &a->err);
    } else if (a->o->stream) {
        send_end(a);
    } else {
        send_whole(a);
    }
    c->s->http->n_agents--;
    call_gen_ended(c);
}

/* ---- the request ---- */

/* Sorts builtin_tools: what the server runs is known to the model by its own spelling, or is shown
 * as a function; other names stay the client's. */
static int sort_tools(struct agent *a, json_t *body, struct err *e)
{
    const bool spelt = a->c->m->format && a->c->m->format->builtins;
    const json_t *names = json_object_get(body, "builtin_tools");
    json_t *builtin = json_array(), *tools = json_array(), *v;
    int rc = 0;
    size_t i;

    json_array_extend(tools, json_object_get(body, "tools"));
    json_array_foreach((json_t *)(uintptr_t)names, i, v)
    {
        struct kit_tool *t =
            json_is_string(v) ? kit_find(a->c->s->o.kit, json_string_value(v)) : NULL;

        if (t)
            json_array_append(a->own, v);
        if (t && !(t->builtin && spelt))
            json_array_append(tools, t->decl);
        else
            json_array_append(builtin, v);
    }
    if (json_array_size(a->own) && a->o->n != 1)
        rc = err_set(e, ERR_USAGE, "n: tools that the server runs go with one answer");
    else if (json_array_size(a->own) && (a->o->logprobs || a->o->score))
        rc = err_set(e, ERR_USAGE,
                     "logprobs: there are none with tools that the server runs; leave them out");
    if (rc == 0 && json_array_size(a->own)) {
        json_object_del(body, "builtin_tools");
        if (json_array_size(builtin))
            json_object_set(body, "builtin_tools", builtin);
        if (json_array_size(tools))
            json_object_set(body, "tools", tools);
    }
    json_decref(builtin);
    json_decref(tools);
    return rc;
}

static struct agent *agent_new(struct call *c, struct oai *o)
{
    struct agent *a = xcalloc(1, sizeof(*a));

    a->c = c;
    a->o = o;
    a->own = json_array();
    a->ran = json_array();
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->over, NULL);
    tool_session_init(&a->session);
    loop_result_init(&a->result);
    buf_init(&a->said, SIZE_MAX);
    return a;
}

void agent_free(struct agent *a)
{
    if (!a)
        return;
    json_decref(a->first);
    json_decref(a->messages);
    json_decref(a->own);
    json_decref(a->ran);
    json_decref(a->client_calls);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->over);
    tool_session_release(&a->session);
    loop_result_release(&a->result);
    buf_release(&a->said);
    free(a);
}

int agent_open(struct call *c, struct oai *o, struct err *e)
{
    struct agent *a;

    if (!c->s->o.kit || c->refusal.bad || !json_object_get(c->body, "builtin_tools"))
        return 0;
    a = agent_new(c, o);
    if (sort_tools(a, c->body, e)) {
        agent_free(a);
        return -1;
    }
    if (json_array_size(a->own))
        o->agent = a;
    else
        agent_free(a);
    return 0;
}

int agent_start(struct call *c, struct oai *o, struct err *e)
{
    struct agent *a = o->agent;
    pthread_t thread;

    if (!c->admitted && call_admit(c, e))
        return -1;
    json_object_set_new(c->body, "parallel_tool_calls", json_boolean(o->parallel));
    a->first = json_incref(c->body);
    a->messages = json_deep_copy(json_object_get(c->body, "messages"));
    o->r.gen.keep_special = false;
    if (thread_start(&thread, run, a))
        return err_set(e, ERR_MEMORY, "no thread for the tools");
    pthread_detach(thread);
    c->n_running++;
    c->s->http->n_agents++;
    return 0;
}
