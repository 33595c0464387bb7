/* talk_tools.c - answers with tools: the model's turns, what it calls, and what is shown of it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cmd/common.h"
#include "cmd/run_int.h"

enum { SHOWN_LINES = 12, SHOWN_BYTES = 1200 };

/* ---- options ---- */

static int open_choice(struct talk *t, struct err *e)
{
    const char *choice = t->cfg->tool_choice;
    const bool named = strcmp(choice, "required") != 0;
    json_t *tools, *what;
    int rc;

    if (strcmp(choice, "auto") == 0)
        return 0;
    if (t->grammar)
        return err_set(e, ERR_USAGE, "--tool-choice forces a call, and --grammar another form");
    if (named && !kit_find(t->kit, choice))
        return err_set(e, ERR_USAGE, "--tool-choice '%.64s' is neither auto, required nor a tool",
                       choice);
    tools = json_array();
    for (size_t i = 0; i < t->kit->n; i++)
        json_array_append(tools, t->kit->tool[i].decl);
    what =
        json_pack("{s:o, s:s?, s:b}", "tools", tools, "only", named ? choice : NULL, "parallel", 0);
    rc = grammars_get_json(t->engine->grammars, GRAMMAR_TOOLS, what, &t->must_call, e);
    json_decref(what);
    return rc ? err_wrap(e, "--tool-choice") : 0;
}

int talk_tools_open(struct talk *t, struct err *e)
{
    const struct run_cfg *c = t->cfg;

    if (!c->tools)
        return 0;
    if (!t->format)
        return err_set(e, ERR_USAGE, "--tools needs a chat template: %s",
                       t->no_format ? t->no_format : "--raw switches it off");
    if (kit_open(&t->kit, c->tools, e))
        return err_wrap(e, "--tools");
    t->kit->session.image_dir = c->image_dir;
    return open_choice(t, e);
}

/* ---- shown ---- */

/* The first lines of what a tool brought. */
static void show_part(const char *p, size_t n)
{
    size_t lines = 0, k = 0;

    while (k < n && k < SHOWN_BYTES && lines < SHOWN_LINES)
        lines += p[k++] == '\n';
    while (k < n && ((unsigned char)p[k] & 0xC0) == 0x80)
        k++;
    put_text(stderr, p, k);
    if (k < n)
        fprintf(stderr, "\n... %zu bytes more", n - k);
    if (n && (k < n || p[k - 1] != '\n'))
        fputc('\n', stderr);
}

static void show_call(const struct tool_call *c)
{
    json_t *args = json_loadb(c->args.p, c->args.len, 0, NULL);
    const json_t *code = json_object_get(args, "code");

    progress_end();
    fflush(stdout);
    fprintf(stderr, "[%s] ", c->name);
    if (json_is_string(code) && json_object_size(args) == 1)
        show_part(json_string_value(code), json_string_length(code));
    else
        show_part(c->args.p, c->args.len);
    json_decref(args);
}

static void begun(void *arg, const struct tool_call *c, size_t n)
{
    const struct tool_talk *w = arg;

    (void)n;
    if (!w->quiet && strcmp(w->t->cfg->approve, "ask") != 0) /* asking has shown it */
        show_call(c);
}

static void ended(void *arg, const struct tool_call *c, const struct tool_result *r)
{
    struct tool_talk *w = arg;
    json_t *args = json_loadb(c->args.p, c->args.len, 0, NULL);

    json_array_append_new(w->calls,
                          json_pack("{s:s, s:o, s:b, s:s%, s:f}", "name", c->name, "arguments",
                                    args ? args : json_stringn(c->args.p, c->args.len), "failed",
                                    (int)r->failed, "result", r->text.p, r->text.len, "seconds",
                                    r->seconds));
    if (w->quiet)
        return;
    fprintf(stderr, "[%s: %s after %.2f s] ", c->name, r->failed ? "failed" : "done", r->seconds);
    show_part(r->text.p, r->text.len);
    if (r->text.len == 0)
        fputc('\n', stderr);
    put_text(stderr, r->images.p, r->images.len);
}

static const char denied[] = "the user does not allow this call";

/* --approve: asks the terminal, whatever standard input is. */
static const char *approve(const struct tool_talk *w, const struct tool_call *c)
{
    const char *how = w->t->cfg->approve;
    char line[16] = "";
    FILE *tty;

    if (strcmp(how, "auto") == 0)
        return NULL;
    if (strcmp(how, "never") == 0) {
        if (!w->quiet)
            show_call(c);
        return denied;
    }
    tty = fopen("/dev/tty", "r+e");
    if (!tty) {
        fprintf(stderr,
                "note: no terminal to ask whether %s may be called: refused (--approve auto)\n",
                c->name);
        return denied;
    }
    show_call(c);
    fputs("run it? [y/N] ", tty);
    fflush(tty);
    const bool yes = fgets(line, sizeof(line), tty) && (*line == 'y' || *line == 'Y');

    fclose(tty);
    return yes ? NULL : denied;
}

/* A guard reads a call as the assistant's turn that it is, before anybody is asked. */
static const char *refuse(void *arg, const struct tool_call *c)
{
    struct tool_talk *w = arg;
    struct finding f = { 0 };
    struct err e;
    struct buf text;

    if (!guards_judge_output(w->t->guards))
        return approve(w, c);
    buf_init(&text, SIZE_MAX);
    buf_addf(&text, "%s(%s)", c->name, c->args.p);
    const int rc = guards_turn(w->t->guards, w->messages, text.p, text.len, &f, NULL, &e);

    buf_release(&text);
    if (rc == 0 && !f.bad)
        return approve(w, c);
    if (rc == 0)
        guard_note("the call is refused", &f);
    else
        fprintf(stderr, "error: %s\n", e.msg);
    return "a guard does not allow this call";
}

/* What looks like an attack does not reach the model. */
static int check(void *arg, const struct tool_call *c, struct tool_result *r, struct err *e)
{
    struct tool_talk *w = arg;
    struct finding f = { 0 };

    (void)c;
    if (!w->t->guards)
        return 0;
    if (guards_text(w->t->guards, r->text.p, r->text.len, true, &f, e))
        return -1;
    if (f.bad) {
        guard_note("what the tool brought is withheld", &f);
        r->failed = true;
        buf_clear(&r->text);
        buf_adds(&r->text, "error: withheld, it looks like an attack on you");
    }
    return 0;
}

/* ---- turns ---- */

static void on_content(void *arg, const char *p, size_t n)
{
    struct tool_talk *w = arg;

    filter_text(&w->filter, p, n);
}

static void on_text(void *arg, const char *p, size_t n)
{
    struct tool_talk *w = arg;

    tool_parser_text(w->parser, p, n);
}

static void on_token(void *arg, int32_t id)
{
    struct tool_talk *w = arg;
    const struct tok *tok = w->t->engine->tok;

    if (tok_is_special(tok, id))
        tool_parser_token(w->parser, tok, id);
}

static void on_progress(void *arg, size_t done, size_t total)
{
    struct tool_talk *w = arg;

    if (w->r.on_progress)
        w->r.on_progress(w->r.arg, done, total);
}

/* A turn of a JSON request: its own messages and fields, with the tools. */
static int turn_of_request(struct tool_talk *w, const json_t *messages, struct gen_request *r,
                           struct err *e)
{
    json_t *request = talk_chat_request(w->t, messages), *own = json_copy(w->base);
    struct prompt p;
    int rc;

    json_object_del(own, "messages");
    json_object_del(own, "tools");
    json_object_update(request, own);
    prompt_init(&p);
    rc = chat_render(w->t->format, w->t->engine->tok, request, &p, e);
    w->prompt.n = 0;
    if (rc == 0)
        ids_append(&w->prompt, p.ids.p, p.ids.n);
    r->prompt = w->prompt.p;
    r->n_prompt = w->prompt.n;
    if (rc == 0)
        rc = generate(w->t->session, r, &w->last, e);
    prompt_release(&p);
    json_decref(request);
    json_decref(own);
    return rc;
}

static int answer(void *arg, json_t *messages, struct tool_answer *out, size_t *tokens,
                  struct err *e)
{
    struct tool_talk *w = arg;
    const struct tool_events ev = tool_answer_events(out);
    json_t *declared = json_object();
    struct gen_request r = w->r;
    int rc;

    gen_result_release(&w->last);
    kit_declare(w->t->kit, w->t->format, declared);
    out->on_content = on_content;
    out->arg = w;
    w->parser = loop_parser(declared, false, rng_fresh_seed(), &ev);
    r.on_text = on_text;
    r.on_token = on_token;
    r.on_progress = on_progress;
    r.arg = w;
    if (w->first && w->t->must_call)
        r.grammar = w->t->must_call;
    w->first = false;
    filter_open(&w->filter, w->t, messages, w->r.on_text, w->r.arg);
    r.cancel = filter_cancel(&w->filter);
    rc = w->base ? turn_of_request(w, messages, &r, e) : talk_turn(w->t, &r, &w->last, e);
    if (rc == 0) {
        tool_parser_end(w->parser,
                        w->last.finish == FINISH_LENGTH ? TOOL_OUT_OF_TOKENS : TOOL_END_OF_TURN);
        *tokens = w->last.ids.n;
    }
    tool_parser_free(w->parser);
    w->parser = NULL;
    json_decref(declared);
    if (rc == 0)
        rc = filter_end(&w->filter, &w->last, e);
    filter_close(&w->filter);
    if (rc == 0 && w->last.finish == FINISH_FILTER) { /* its text was cut to what was shown */
        buf_clear(&out->content);
        buf_add(&out->content, w->last.text.p, w->last.text.len);
        while (out->n)
            tool_answer_drop(out);
    }
    return rc ? -1 : w->last.finish == FINISH_CANCELLED || w->last.finish == FINISH_FILTER;
}

int tool_talk(struct tool_talk *w, json_t *messages, struct err *e)
{
    const struct run_cfg *c = w->t->cfg;
    const struct loop l = { .kit = w->t->kit,
                            .limits = { .steps = (size_t)c->tool_steps,
                                        .seconds = c->tool_time,
                                        .tokens = (size_t)c->tool_tokens },
                            .cancel = w->t->cancel,
                            .arg = w,
                            .answer = answer,
                            .refuse = refuse,
                            .check = check,
                            .begun = begun,
                            .ended = ended };
    char *note;

    w->calls = json_array();
    w->messages = messages;
    w->first = true;
    loop_result_init(&w->loop);
    if (tool_loop(&l, messages, &w->loop, e))
        return -1;
    note = loop_note(&l, &w->loop);
    if (note && !w->quiet)
        fprintf(stderr, "note: %s\n", note);
    free(note);
    return 0;
}

void tool_talk_release(struct tool_talk *w)
{
    loop_result_release(&w->loop);
    gen_result_release(&w->last);
    ids_release(&w->prompt);
    json_decref(w->calls);
}
