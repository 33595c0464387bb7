/* repl.c - the chat in the terminal: libedit for the line, the rest is commands. */
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cmd/common.h"
#include "cmd/run_int.h"
#include "hub/models.h"

enum { HISTORY_LINES = 1000, TEXT_MAX = 64 << 20, CHAT_MAX = 256 << 20 };

static volatile sig_atomic_t stop_answer; /* set by SIGINT, polled by generate() */
static const char *prompt_text = ">>> ";

struct chat {
    struct talk *t;
    EditLine *el;
    History *hist;
    char *hist_path; /* NULL = history is not kept */
    char **kept;     /* values given to /set live as long as the options that borrow them */
    size_t n_kept;
    bool done;
};

/* Asks the answer to stop, which it does after a token or 512 of the prompt; who does not want to
 * wait for that presses twice more. Terminal settings are the user's own while an answer runs. */
static void on_sigint(int sig)
{
    (void)sig;
    if (++stop_answer >= 3)
        _exit(130);
}

static char *prompt(EditLine *el)
{
    (void)el;
    return (char *)(uintptr_t)prompt_text; /* libedit does not write to it */
}

/* Bound to what a terminal sends before pasted text: all of it, up to the closing sequence, becomes
 * part of the line, its line ends too, so that a paste of many lines is one message. */
static unsigned char on_paste(EditLine *el, int c)
{
    static const wchar_t end[] = L"\033[201~";
    const size_t n_end = ARRAY_LEN(end) - 1;
    wchar_t *text = NULL, ch;
    size_t n = 0, kept = 0;

    (void)c;
    while (el_wgetc(el, &ch) == 1) {
        text = xrealloc(text, (n + 1) * sizeof(*text));
        text[n++] = ch;
        if (n >= n_end && !wmemcmp(text + n - n_end, end, n_end)) {
            n -= n_end;
            break;
        }
    }
    for (size_t i = 0; i < n; i++) {
        ch = text[i] == L'\r' ? L'\n' : text[i];
        if (ch == L'\n' || ch == L'\t' || ch >= 0xa0 || (ch >= 0x20 && ch < 0x7f))
            text[kept++] = ch;
    }
    if (kept && text[kept - 1] == L'\n')
        kept--;
    text = xrealloc(text, (kept + 1) * sizeof(*text));
    text[kept] = 0;
    if (kept)
        el_winsertstr(el, text);
    free(text);
    return CC_REFRESH;
}

/* ---- set-up ---- */

static void open_history(struct chat *c)
{
    HistEvent ev;
    char *dir;

    c->hist = history_init();
    if (!c->hist)
        return;
    history(c->hist, &ev, H_SETSIZE, HISTORY_LINES);
    history(c->hist, &ev, H_SETUNIQUE, 1);
    if (hub_state_dir(&dir, NULL) == 0) {
        if (dir_make(dir, NULL) == 0) {
            c->hist_path = path_join(dir, "history");
            history(c->hist, &ev, H_LOAD, c->hist_path);
        }
        free(dir);
    }
    el_set(c->el, EL_HIST, history, c->hist);
}

static void save_history(struct chat *c)
{
    HistEvent ev;
    const mode_t mask = umask(0077); /* what was asked is nobody else's business */

    if (c->hist && c->hist_path)
        history(c->hist, &ev, H_SAVE, c->hist_path);
    umask(mask);
}

static int chat_open(struct chat *c, struct talk *t, struct err *e)
{
    *c = (struct chat){ .t = t };
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* else libedit refuses every letter beyond ASCII */
    c->el = el_init("puna", stdin, stdout, stderr);
    if (!c->el)
        return err_set(e, ERR_FAIL, "the terminal cannot be used for line editing");
    el_set(c->el, EL_PROMPT, prompt);
    el_set(c->el, EL_EDITOR, "emacs");
    open_history(c);
    el_set(c->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(c->el, EL_ADDFN, "puna-paste", "insert pasted text", on_paste);
    el_set(c->el, EL_BIND, "\033[200~", "puna-paste", NULL);
    el_set(c->el, EL_SIGNAL, 1); /* a resized window, Ctrl-Z */
    el_source(c->el, NULL);      /* ~/.editrc */
    return 0;
}

static void chat_close(struct chat *c)
{
    if (c->hist)
        history_end(c->hist);
    if (c->el)
        el_end(c->el);
    for (size_t i = 0; i < c->n_kept; i++)
        free(c->kept[i]);
    free(c->kept);
    free(c->hist_path);
}

static const char *keep(struct chat *c, const char *s)
{
    c->kept = xrealloc(c->kept, (c->n_kept + 1) * sizeof(*c->kept));
    c->kept[c->n_kept] = xstrdup(s);
    return c->kept[c->n_kept++];
}

/* ---- reading ---- */

enum line { LINE_TEXT, LINE_END, LINE_DROPPED };

/* Asks the terminal to mark what is pasted. */
static void paste_mode(bool on)
{
    const char *term = getenv("TERM");

    if (!term || !*term || !strcmp(term, "dumb"))
        return;
    fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
    fflush(stdout);
}

/* One line without its newline. */
static enum line read_line(struct chat *c, const char *prompt_, struct buf *out)
{
    const char *s;
    int n = 0;

    prompt_text = prompt_;
    stop_answer = 0;
    paste_mode(true);
    s = el_gets(c->el, &n);
    paste_mode(false);
    if (!s && stop_answer) { /* Ctrl-C: libedit has put the terminal back */
        putchar('\n');
        return LINE_DROPPED;
    }
    if (!s || n <= 0) {
        putchar('\n');
        return LINE_END;
    }
    buf_add(out, s, (size_t)n - (s[n - 1] == '\n'));
    if (c->hist && n > 1) {
        HistEvent ev;

        history(c->hist, &ev, H_ENTER, s);
        save_history(c); /* now: a chat may end with the machine */
    }
    return LINE_TEXT;
}

/* A line, or with """ at its start all lines up to the next """. */
static enum line read_input(struct chat *c, struct buf *out)
{
    enum line got = read_line(c, ">>> ", out);

    if (got != LINE_TEXT || strncmp(out->p, "\"\"\"", 3) != 0)
        return got;
    buf_remove(out, 0, 3);
    for (;;) {
        const char *end = strstr(out->p, "\"\"\"");

        if (end) {
            buf_cut(out, (size_t)(end - out->p));
            return LINE_TEXT;
        }
        if (out->len)
            buf_addc(out, '\n');
        got = read_line(c, "... ", out);
        if (got != LINE_TEXT)
            return got;
    }
}

/* ---- commands ---- */

static void say(const struct err *e)
{
    fflush(stdout);
    fprintf(stderr, "error: %s\n", e->msg);
}

static void cmd_usage(void)
{
    fputs("/set NAME VALUE   change a setting (/set lists them)\n"
          "/system [TEXT]    show or replace the system message; /system \"\" removes it\n"
          "/show             the model and how much of the context is used\n"
          "/save FILE        write the conversation (JSON)\n"
          "/load FILE        go on with a saved conversation\n"
          "/clear            forget the conversation\n"
          "/help, /?         this list\n"
          "/bye              leave (also Ctrl-D, or Ctrl-C twice)\n"
          "\"\"\"               starts and ends a text of several lines\n"
          "Ctrl-C            stops an answer\n",
          stdout);
}

static const char *const settable[] = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_new_tokens",
    "seed",
    "stop",
    "logit_bias",
    "greedy",
    "verbose",
};

static void show_settings(const struct talk *t)
{
    const struct settings *s = &t->set;

    printf("temperature        %g\ntop_p              %g\ntop_k              %lld\nmin_p           "
           "   %g\n"
           "repetition_penalty %g\nfrequency_penalty  %g\npresence_penalty   %g\n",
           s->sampling.temperature, s->sampling.top_p, (long long)s->sampling.top_k,
           s->sampling.min_p, s->sampling.repetition_penalty, s->sampling.frequency_penalty,
           s->sampling.presence_penalty);
    printf("max_new_tokens     %zu%s\n", s->max_new_tokens,
           s->max_new_tokens ? "" : " (up to the context)");
    if (s->seeded)
        printf("seed               %llu\n", (unsigned long long)s->sampling.seed);
    else
        puts("seed               fresh for every answer");
    for (size_t i = 0; i < s->n_stop; i++)
        printf("stop               %s\n", s->stop[i]);
    for (size_t i = 0; i < s->sampling.n_bias; i++)
        printf("logit_bias         %d=%g\n", s->bias[i].id, (double)s->bias[i].bias);
    printf("verbose            %s\n", t->cfg->verbose ? "true" : "false");
}

/* Cuts the first word off *rest. */
static char *next_word(char **rest)
{
    char *word = *rest + strspn(*rest, " \t");
    char *end = word + strcspn(word, " \t");

    *rest = *end ? end + 1 + strspn(end + 1, " \t") : end;
    *end = 0;
    return word;
}

/* Takes one pair of quotation marks off. */
static char *unquote(char *s)
{
    size_t n = strlen(s);

    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        s[--n] = 0;
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
        s[n - 1] = 0;
        s++;
    }
    return s;
}

static int cmd_set(struct chat *c, char *rest, struct err *e)
{
    struct run_cfg *cfg = c->t->cfg;
    const char *name, *value;
    char *word = next_word(&rest);
    bool ok = false;

    if (!*word) {
        show_settings(c->t);
        return 0;
    }
    if (!strcmp(word, "parameter")) /* as in ollama */
        word = next_word(&rest);
    value = unquote(rest);
    if (!strcmp(word, "system")) {
        talk_system(c->t, value);
        return 0;
    }
    if (!strcmp(word, "quiet")) {
        cfg->verbose = false;
        return 0;
    }
    name = opt_canonical(&cmd_run, word);
    for (size_t i = 0; name && i < ARRAY_LEN(settable); i++)
        ok |= !strcmp(name, settable[i]);
    if (name && !ok)
        return err_set(e, ERR_USAGE, "%s can only be chosen at the start: puna run --%s ...", word,
                       word);
    if (!name) {
        const char *near = opt_nearest(word, settable, ARRAY_LEN(settable));

        return err_set(e, ERR_USAGE, "no setting '%.60s'%s%s; /set lists them", word,
                       near ? "; did you mean " : "", near ? near : "");
    }
    if (!*value && (!strcmp(name, "greedy") || !strcmp(name, "verbose")))
        value = "true";
    if (!strcmp(name, "stop")) /* the new list replaces the old one; no value = none */
        cfg->stop.n = 0;
    if (!strcmp(name, "logit_bias"))
        cfg->logit_bias.n = 0;
    if (*value || (strcmp(name, "stop") != 0 && strcmp(name, "logit_bias") != 0))
        if (opt_set((void *)cfg, name, keep(c, value), e))
            return -1;
    if (talk_settings(c->t, e)) {
        struct err again;

        cfg->logit_bias.n = 0; /* the only value that the table does not check itself */
        if (talk_settings(c->t, &again))
            BUG("settings without a bias fail: %s", again.msg);
        return -1;
    }
    if (!strcmp(name, "temperature") || !strcmp(name, "top_p") || !strcmp(name, "top_k") ||
        !strcmp(name, "min_p"))
        cfg->greedy = false; /* the last word counts */
    return talk_settings(c->t, e);
}

static void cmd_show(const struct talk *t)
{
    const struct hparams *h = t->engine->model->hp;
    const json_t *first = json_array_get(t->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));

    fputs("model    ", stdout);
    put_text(stdout, t->model, strlen(t->model));
    printf("\ntemplate %s\ncontext  %zu of %zu tokens (the model allows %lld)\nmessages "
           "%zu\n",
           t->format ? t->format->name : "none (--raw)", session_len(t->session),
           session_ctx(t->session), (long long)h->ctx, json_array_size(t->messages));
    if (role && !strcmp(role, "system")) {
        const json_t *text = json_object_get(first, "content");

        fputs("system   ", stdout);
        put_text(stdout, json_string_value(text), json_string_length(text));
        putchar('\n');
    }
}

/* A file that is no saved chat is not written over. */
static int cmd_save(struct talk *t, const char *path, struct err *e)
{
    struct out_file o;
    json_t *old = NULL, *top, *ids;

    if (!*path)
        return err_set(e, ERR_USAGE, "/save needs the name of a file");
    if (file_exists(path)) {
        const bool ours = !json_parse_file(&old, path, CHAT_MAX, NULL) &&
                          json_is_array(json_object_get(old, "messages"));

        json_decref(old);
        if (!ours)
            return err_set(e, ERR_FAIL,
                           "%.400s is there already and is no saved chat; choose another name",
                           path);
    }
    if (out_open(&o, path, e))
        return -1;
    ids = json_array();
    for (size_t i = 0; i < t->past.n; i++)
        json_array_append_new(ids, json_integer(t->past.p[i]));
    top = json_pack("{s:s, s:O, s:o}", "model", t->model, "messages", t->messages, "ids", ids);
    if (!top) {
        out_abort(&o);
        return err_set(e, ERR_FAIL, "%.400s: the path of the model is not valid UTF-8", t->model);
    }
    json_dumpf(top, o.f, JSON_INDENT(1));
    fputc('\n', o.f);
    json_decref(top);
    if (out_commit(&o, e))
        return -1;
    printf("saved %zu messages to %s\n", json_array_size(t->messages), path);
    return 0;
}

/* The ids that a saved conversation was made of; compose() uses them where they still fit. */
static void load_ids(struct talk *t, const json_t *list)
{
    const json_t *v;
    size_t i;

    t->past.n = 0;
    json_array_foreach(list, i, v)
    {
        const json_int_t id = json_integer_value(v);

        if (!json_is_integer(v) || id < 0 || id >= tok_size(t->engine->tok)) {
            t->past.n = 0;
            return;
        }
        ids_add(&t->past, (int32_t)id);
    }
}

static int cmd_load(struct talk *t, const char *path, struct err *e)
{
    json_t *top, *messages, *m;
    size_t i;
    int rc = -1;

    if (!*path)
        return err_set(e, ERR_USAGE, "/load needs the name of a file");
    if (json_parse_file(&top, path, CHAT_MAX, e))
        return -1;
    messages = json_object_get(top, "messages");
    if (!json_is_array(messages)) {
        err_set(e, ERR_FORMAT, "%.400s: no list of messages", path);
        goto done;
    }
    json_array_foreach(messages, i, m) if (!json_is_string(json_object_get(m, "role")) ||
                                           !json_is_string(json_object_get(m, "content")))
    {
        err_set(e, ERR_FORMAT, "%.400s: message %zu has no role and content", path, i);
        goto done;
    }
    json_decref(t->messages);
    t->messages = json_incref(messages);
    load_ids(t, json_object_get(top, "ids"));
    t->turn = 0; /* the next answer draws as it would have */
    json_array_foreach(messages, i, m) t->turn +=
        !strcmp(json_string_value(json_object_get(m, "role")), "assistant");
    printf("loaded %zu messages\n", json_array_size(messages));
    rc = 0;
done:
    json_decref(top);
    return rc;
}

static int command(struct chat *c, char *line, struct err *e)
{
    static const char *const names[] = { "/set",  "/system", "/show", "/save",
                                         "/load", "/clear",  "/help", "/bye" };
    char *rest = line, *word = next_word(&rest);
    const char *near;

    if (!strcmp(word, "/set"))
        return cmd_set(c, rest, e);
    if (!strcmp(word, "/save"))
        return cmd_save(c->t, unquote(rest), e);
    if (!strcmp(word, "/load"))
        return cmd_load(c->t, unquote(rest), e);
    if (!strcmp(word, "/system")) {
        if (*rest)
            talk_system(c->t, unquote(rest));
        else
            cmd_show(c->t);
    } else if (!strcmp(word, "/show")) {
        cmd_show(c->t);
    } else if (!strcmp(word, "/clear")) {
        talk_clear(c->t);
        puts("the conversation is forgotten");
    } else if (!strcmp(word, "/help") || !strcmp(word, "/?")) {
        cmd_usage();
    } else if (!strcmp(word, "/bye") || !strcmp(word, "/exit") || !strcmp(word, "/quit")) {
        c->done = true;
    } else {
        near = opt_nearest(word, names, ARRAY_LEN(names));
        return err_set(e, ERR_USAGE, "no command '%.60s'%s%s; /? lists them", word,
                       near ? "; did you mean " : "", near ? near : "");
    }
    return 0;
}

/* ---- the loop ---- */

static void ask(struct chat *c, const struct buf *text)
{
    struct shower show = { .newline = false, .cancel = &stop_answer };
    struct gen_result r;
    struct err e = { 0 };

    stop_answer = 0;
    if (talk_ask(c->t, text->p, text->len, show_text, show_progress, &show, &r, &e)) {
        progress_end();
        if (c->t->past.n)
            fprintf(stderr, "error: %s; /clear starts afresh\n", e.msg);
        else
            say(&e);
        return;
    }
    progress_end();
    if (!show.newline && !(r.finish == FINISH_FILTER && r.text.len == 0))
        putchar('\n');
    fflush(stdout);
    if (r.finish == FINISH_CANCELLED)
        fputs("(stopped)\n", stderr);
    show_notes(c->t, &r);
    if (r.finish == FINISH_LENGTH && session_len(c->t->session) + 1 >= session_ctx(c->t->session))
        fputs("note: /clear starts afresh\n", stderr);
    gen_result_release(&r);
}

static void loop(struct chat *c)
{
    bool dropped = false; /* the last line was dropped by Ctrl-C */
    struct buf text;

    buf_init(&text, TEXT_MAX);
    while (!c->done && !ferror(stdout)) {
        struct err e = { 0 };

        buf_clear(&text);
        const enum line got = read_input(c, &text);

        if (got == LINE_END || (got == LINE_DROPPED && dropped))
            break;
        dropped = got == LINE_DROPPED;
        if (dropped) {
            puts("(Ctrl-C again or Ctrl-D leaves, /? shows the commands)");
            continue;
        }
        if (buf_check(&text, "input", &e))
            say(&e);
        else if (!utf8_valid(text.p, text.len))
            fputs("error: the input is not valid UTF-8\n", stderr);
        else if (text.p[0] == '/' && !strchr(text.p, '\n')) {
            if (command(c, text.p, &e))
                say(&e);
        } else if (text.len > strspn(text.p, " \t\n")) {
            ask(c, &text);
        }
        fflush(stdout);
    }
    buf_release(&text);
}

int repl(struct talk *t, struct err *e)
{
    struct sigaction act = { .sa_handler = on_sigint, .sa_flags = SA_RESTART }, old;
    struct chat c;

    if (chat_open(&c, t, e))
        return -1;
    t->cancel = &stop_answer;
    sigaction(SIGINT, &act, &old);
    show_banner(t, stderr);
    fputs("/? shows the commands, Ctrl-D leaves\n", stderr);
    loop(&c);
    sigaction(SIGINT, &old, NULL);
    chat_close(&c);
    return 0;
}
