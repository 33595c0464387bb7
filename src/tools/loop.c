#include "tools/loop.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/utf8.h"
#include "tools/proc.h"

const struct loop_limits loop_limits_default = { .steps = 8, .seconds = 600, .tokens = 16384 };

void loop_result_init(struct loop_result *r)
{
    *r = (struct loop_result){ 0 };
    buf_init(&r->text, SIZE_MAX);
}

void loop_result_release(struct loop_result *r)
{
    buf_release(&r->text);
}

char *loop_note(const struct loop *l, const struct loop_result *r)
{
    switch (r->end) {
    case LOOP_STEPS:
        return xasprintf("stopped after %zu turns with tool calls (limit)", r->steps);
    case LOOP_TIME:
        return xasprintf("stopped after %.3g s of turns and tool calls (limit)", l->limits.seconds);
    case LOOP_TOKENS:
        return xasprintf("stopped after %zu tokens in turns with tool calls (limit)", r->tokens);
    case LOOP_CANCELLED:
        return xstrdup("stopped");
    case LOOP_ANSWER:
        break;
    }
    return NULL;
}

struct tool_parser *loop_parser(const json_t *request, bool exact, uint64_t seed,
                                const struct tool_events *ev)
{
    const json_t *builtin = json_object_get(request, "builtin_tools");
    bool code = false;

    for (size_t i = 0; i < json_array_size(builtin); i++)
        code |= strcmp(json_string_value(json_array_get(builtin, i)), "code_interpreter") == 0;
    const struct tool_options o = { .tools = json_object_get(request, "tools"),
                                    .builtin_tools = builtin,
                                    .code = code,
                                    .exact = exact,
                                    .coerce = true,
                                    .seed = seed };

    return tool_parser_new(&o, ev);
}

/* ---- turns that are no good ---- */

/* The name that text would call if every name were a tool; "" = it reads like a call without one;
 * NULL = it is an answer. The caller frees it. */
static char *call_in(const struct tool_answer *a)
{
    const struct tool_options any = { .any = true };
    const size_t skip = strspn(a->content.p, " \t\r\n");
    const char *text = a->content.p + skip;
    struct tool_answer read;
    struct tool_events ev;
    struct tool_parser *p;
    char *name = NULL;

    tool_answer_init(&read);
    ev = tool_answer_events(&read);
    p = tool_parser_new(&any, &ev);
    tool_parser_text(p, a->content.p, a->content.len);
    tool_parser_end(p, TOOL_END_OF_TURN);
    tool_parser_free(p);
    if (read.n)
        name = xstrdup(read.calls[0].name);
    else if (strncmp(text, "<function=", 10) == 0 || a->stop == TOOL_END_OF_MESSAGE ||
             (*text == '{' && strstr(text, "\"name\"") &&
              (strstr(text, "\"parameters\"") || strstr(text, "\"arguments\""))))
        name = xstrdup("");
    tool_answer_release(&read);
    return name;
}

static void list_tools(const struct kit *k, struct buf *b)
{
    for (size_t i = 0; i < k->n; i++)
        buf_addf(b, "%s%s", i ? ", " : "", k->tool[i].name);
}

/* What is wrong with a turn's calls, for the model; NULL = nothing. The caller frees it. */
static char *complaint(const struct loop *l, const struct tool_answer *a)
{
    struct buf b;
    char *what;

    if (a->stop == TOOL_OUT_OF_TOKENS && a->n == 0)
        return NULL; /* cut off, not wrong */
    buf_init(&b, 1 << 16);
    for (size_t i = 0; i < a->n && b.len == 0; i++) {
        what = kit_complaint(l->kit, a->calls[i].name, a->calls[i].args.p, a->calls[i].args.len);
        if (what)
            buf_addf(&b, "the call of %.64s cannot run: %s", a->calls[i].name, what);
        free(what);
    }
    if (a->n == 0 && (what = call_in(a))) {
        if (*what)
            buf_addf(&b, "there is no tool '%.64s'", what);
        else
            buf_adds(&b, "the call cannot be read");
        free(what);
    }
    what = NULL;
    if (b.len) {
        buf_adds(&b, ". Tools: ");
        list_tools(l->kit, &b);
        buf_adds(&b, ". Write the call again, or answer without one");
        what = buf_take(&b);
    }
    buf_release(&b);
    return what;
}

/* ---- messages ---- */

static void add_message(json_t *messages, const char *role, const char *text, size_t n)
{
    json_array_append_new(messages,
                          json_pack("{s:s, s:s%}", "role", role, "content", text ? text : "", n));
}

/* The turn that made the calls from..to; its text stands before the first. */
static void add_calls(json_t *messages, const struct tool_answer *a, size_t from, size_t to)
{
    json_t *list = json_array();

    for (size_t i = from; i < to; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:{s:s, s:s%}}", "id", a->calls[i].id, "type",
                                        "function", "function", "name", a->calls[i].name,
                                        "arguments", a->calls[i].args.p, a->calls[i].args.len));
    json_array_append_new(messages, json_pack("{s:s, s:s%, s:o}", "role", "assistant", "content",
                                              a->content.p, a->content.len, "tool_calls", list));
}

/* A result that is a JSON object stays one, so that a template prints it and not a text that holds
 * it. */
static void add_result(json_t *messages, const struct tool_call *c, const struct tool_result *r)
{
    json_t *content = NULL;

    if (r->text.len && r->text.p[0] == '{' &&
        json_parse(&content, r->text.p, r->text.len, "result", NULL))
        content = NULL;
    if (!json_is_object(content)) {
        json_decref(content);
        content = json_stringn(r->text.p, r->text.len);
    }
    json_array_append_new(messages, json_pack("{s:s, s:s, s:s, s:o}", "role", "tool",
                                              "tool_call_id", c->id, "name", c->name, "content",
                                              content ? content : json_string("")));
}

/* ---- calls ---- */

struct running {
    const struct loop *l;
    const struct tool_call *c;
    struct tool_result r;
    double seconds; /* that are left */
    pthread_t thread;
    bool threaded, denied;
};

static void *run_call(void *arg)
{
    struct running *c = arg;
    const double began = clock_seconds();

    kit_call(c->l->kit, c->l->session, c->c->name, c->c->args.p, c->c->args.len, c->seconds, &c->r);
    c->r.seconds = clock_seconds() - began;
    return NULL;
}

/* Text alone goes to the model: what a tool says is made valid. */
static void clean(struct tool_result *r)
{
    struct buf b;

    if (utf8_valid(r->text.p, r->text.len))
        return;
    buf_init(&b, SIZE_MAX);
    utf8_sanitize(&b, r->text.p, r->text.len);
    buf_clear(&r->text);
    buf_add(&r->text, b.p, b.len);
    buf_release(&b);
}

static void deny(struct running *c, const char *why)
{
    c->denied = true;
    c->r.failed = true;
    buf_addf(&c->r.text, "error: %s", why);
}

/* A built-in tool's call stands alone in a turn: its spelling has no room for a second. */
static bool stand_alone(const struct loop *l, const struct tool_answer *a)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct kit_tool *t = kit_find(l->kit, a->calls[i].name);

        if (t && t->builtin)
            return true;
    }
    return false;
}

/* The calls of one turn: asked about one by one, run side by side, told in their order. */
static int run_calls(const struct loop *l, const struct tool_answer *a, double end,
                     json_t *messages, struct err *e)
{
    struct running *c = xcalloc(a->n, sizeof(*c));
    const bool alone = stand_alone(l, a);
    int rc = 0;

    for (size_t i = 0; i < a->n; i++) {
        c[i] = (struct running){ .l = l, .c = &a->calls[i] };
        tool_result_init(&c[i].r);
        const char *why = l->cancel && *l->cancel ? "stopped by the user"
                          : l->refuse             ? l->refuse(l->arg, c[i].c)
                                                  : NULL;

        if (why)
            deny(&c[i], why);
        else if (l->begun)
            l->begun(l->arg, c[i].c, a->n);
    }
    for (size_t i = 0; i < a->n; i++) {
        c[i].seconds = end - clock_seconds();
        if (c[i].denied)
            continue;
        c[i].threaded = a->n > 1 && thread_start(&c[i].thread, run_call, &c[i]) == 0;
        if (!c[i].threaded)
            run_call(&c[i]);
    }
    for (size_t i = 0; i < a->n; i++) {
        if (c[i].threaded)
            pthread_join(c[i].thread, NULL);
        clean(&c[i].r);
        if (rc == 0 && l->check && !c[i].denied)
            rc = l->check(l->arg, c[i].c, &c[i].r, e);
        if (rc == 0 && l->ended)
            l->ended(l->arg, c[i].c, &c[i].r);
        if (rc == 0 && (i == 0 || alone))
            add_calls(messages, a, i, alone ? i + 1 : a->n);
        if (rc == 0)
            add_result(messages, c[i].c, &c[i].r);
        tool_result_release(&c[i].r);
    }
    free(c);
    return rc;
}

/* Nothing happened: the messages of a turn that failed are taken back. */
static void take_back(json_t *messages, size_t n)
{
    while (json_array_size(messages) > n)
        json_array_remove(messages, json_array_size(messages) - 1);
}

static enum loop_end limit(const struct loop *l, const struct loop_result *r, double end)
{
    return l->cancel && *l->cancel         ? LOOP_CANCELLED
           : r->steps >= l->limits.steps   ? LOOP_STEPS
           : clock_seconds() >= end        ? LOOP_TIME
           : r->tokens >= l->limits.tokens ? LOOP_TOKENS
                                           : LOOP_ANSWER;
}

/* The turn as it was, and what is wrong with it as what its calls brought. */
static void correct(const struct loop *l, json_t *messages, const struct tool_answer *a,
                    const char *wrong)
{
    const bool alone = stand_alone(l, a);

    if (a->n == 0)
        add_message(messages, "assistant", a->content.p, a->content.len);
    for (size_t i = 0; i < (a->n ? a->n : 1); i++) {
        if (a->n && (i == 0 || alone))
            add_calls(messages, a, i, alone ? i + 1 : a->n);
        json_array_append_new(messages,
                              json_pack("{s:s, s:s*, s:s+}", "role", "tool", "tool_call_id",
                                        a->n ? a->calls[i].id : NULL, "content", "error: ", wrong));
    }
}

/* One turn. 1 = it was the last. */
static int turn(const struct loop *l, json_t *messages, double end, bool *corrected,
                struct loop_result *out, struct err *e)
{
    struct tool_answer a;
    size_t tokens = 0;
    char *wrong = NULL;
    int rc;

    tool_answer_init(&a);
    rc = l->answer(l->arg, messages, &a, &tokens, e);
    out->tokens += tokens;
    if (rc == 0)
        wrong = complaint(l, &a);
    if (rc >= 0) {
        buf_clear(&out->text);
        buf_add(&out->text, a.content.p, a.content.len);
        out->stop = a.stop;
    }
    if (rc < 0) {
        rc = -1;
    } else if (wrong && *corrected) {
        rc = err_set(e, ERR_FORMAT, "the model's call is no good after a correction too: %.500s",
                     wrong);
    } else if (wrong) {
        *corrected = true;
        correct(l, messages, &a, wrong);
    } else if (rc == 1 || a.n == 0) {
        add_message(messages, "assistant", a.content.p, a.content.len);
        rc = 1;
    } else {
        out->steps++;
        out->calls += a.n;
        rc = run_calls(l, &a, end, messages, e);
    }
    free(wrong);
    tool_answer_release(&a);
    return rc;
}

int tool_loop(const struct loop *l, json_t *messages, struct loop_result *out, struct err *e)
{
    const double end = clock_seconds() + l->limits.seconds;
    const size_t had = json_array_size(messages);
    bool corrected = false;
    int rc = 0;

    while (rc == 0) {
        rc = turn(l, messages, end, &corrected, out, e);
        if (rc == 0 && (out->end = limit(l, out, end)) != LOOP_ANSWER)
            rc = 1;
    }
    if (rc < 0)
        take_back(messages, had);
    return rc < 0 ? -1 : 0;
}
