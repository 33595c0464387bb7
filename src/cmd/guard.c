/* guard.c - `puna guard`: a guard model's verdict on a text, an answer, or conversations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmd/common.h"
#include "cmd/guard_int.h"
#include "guard/llama_guard.h"
#include "guard/prompt_guard.h"
#include "hub/models.h"
#include "text/chat.h"

static const struct opt opts[] = {
    OPT(ARG, struct guard_cfg, model, NULL, "MODEL", NULL, "a Llama Guard 3 or a Prompt Guard"),
    OPT(ARG, struct guard_cfg, text, NULL, "TEXT", "", "what a user said; else standard input"),
    OPT(STR, struct guard_cfg, answer, NULL, "TEXT", NULL, "judge this answer to TEXT"),
    OPT(STR, struct guard_cfg, categories, NULL, "FILE", NULL,
        "JSON list of {\"code\", \"name\", \"description\"?} in place of S1 to S14"),
    OPT(STR, struct guard_cfg, exclude, NULL, "CODES", NULL, "codes to leave out: S6,S13"),
    OPT_RANGE(NUM, struct guard_cfg, threshold, NULL, "P", NULL, 0, 1,
              "unsafe from this probability on; else as Llama Guard says, 0.5 for Prompt Guard"),
    OPT(BOOL, struct guard_cfg, third_party, NULL, NULL, NULL,
        "Prompt Guard: the text is not the user's own but a tool's or a page's"),
    OPT_RANGE(NUM, struct guard_cfg, temperature, NULL, "T", "1", 0.01, 100,
              "Prompt Guard: divides the logits"),
    OPT_RANGE(INT, struct guard_cfg, ctx, "-c,--ctx-size", "N", "0", 0, 1e9,
              "context in tokens (0 = the model's, up to 8192)"),
    OPT_RANGE(INT, struct guard_cfg, threads, "-t", "N", "0", 0, 1024, "threads (0 = all cores)"),
    OPT(STR, struct guard_cfg, dtype, NULL, "auto|f32|bf16", "auto",
        "arithmetic of the matrix products"),
    OPT(STR, struct guard_cfg, isa, NULL, "NAME", NULL, "highest instruction set to use"),
    OPT(STR, struct guard_cfg, device, NULL, "cpu|cuda|auto", "auto", "where to compute"),
    OPT(BOOL, struct guard_cfg, json, NULL, NULL, NULL,
        "requests as JSON lines on standard input, verdicts as JSON lines"),
    { .name = NULL },
};

/* ---- requests ---- */

static void add_message(json_t *list, const char *role, const char *text, size_t n)
{
    json_t *m = json_object();

    json_object_set_new(m, "role", json_string(role));
    json_object_set_new(m, "content", json_stringn(text, n));
    json_array_append_new(list, m);
}

/* --categories and --exclude, where the request has none of its own. */
static int add_policy(const struct guard_cfg *c, json_t *request, struct err *e)
{
    json_t *list;

    if (c->categories && !json_object_get(request, "categories")) {
        if (json_parse_file(&list, c->categories, GUARD_TEXT_MAX, e))
            return -1;
        json_object_set_new(request, "categories", list);
    }
    if (c->exclude && !json_object_get(request, "excluded_categories")) {
        list = json_array();
        for (const char *p = c->exclude; *p; p += strspn(p, ", ")) {
            const size_t n = strcspn(p, ", ");

            json_array_append_new(list, json_stringn(p, n));
            p += n;
        }
        json_object_set_new(request, "excluded_categories", list);
    }
    return 0;
}

static json_t *codes_of(const struct guard_verdict *v)
{
    json_t *list = json_array();

    for (const char *p = v->codes; *p;) {
        const size_t n = strcspn(p, ",");

        json_array_append_new(list, json_stringn(p, n));
        p += n + (p[n] == ',');
    }
    return list;
}

/* ---- JSON lines ---- */

int guard_lines(guard_answer *answer, void *arg, struct err *e)
{
    struct buf line;
    int rc, status = 0;

    buf_init(&line, GUARD_TEXT_MAX);
    while ((rc = file_line(&line, stdin, e)) > 0) {
        json_t *request, *out = NULL;
        struct err why = { 0 };

        if (line.len == strspn(line.p, " \t\r"))
            continue;
        if (json_parse(&request, line.p, line.len, "request", &why) == 0) {
            if (json_is_object(request))
                out = answer(arg, request, &why);
            else
                err_set(&why, ERR_USAGE, "request: not an object");
            json_decref(request);
        }
        if (!out) {
            out = json_pack("{s:s}", "error", why.msg);
            status = 1;
        }
        json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(out);
        if (fflush(stdout))
            break;
    }
    buf_release(&line);
    return rc < 0 ? -1 : status;
}

struct judge {
    const struct guard_cfg *c;
    struct llama_guard *j;
};

static json_t *answer_line(void *arg, json_t *request, struct err *e)
{
    const struct judge *a = arg;
    json_t *text = json_object_get(request, "text");
    struct guard_verdict v;

    if (json_is_string(text)) {
        json_t *list = json_array();

        add_message(list, "user", json_string_value(text), json_string_length(text));
        json_object_set_new(request, "messages", list);
    }
    if (add_policy(a->c, request, e) || llama_guard_judge(a->j, request, &v, e))
        return NULL;
    return json_pack("{s:s, s:o, s:f, s:f, s:I}", "verdict", v.unsafe ? "unsafe" : "safe",
                     "categories", codes_of(&v), "probability", v.p, "share", v.share,
                     "prompt_tokens", (json_int_t)v.n_prompt);
}

/* ---- one text ---- */

int guard_stdin(struct buf *out, struct err *e)
{
    if (stdin_read(out, "the text", e))
        return -1;
    if (out->len && out->p[out->len - 1] == '\n')
        buf_cut(out, out->len - 1);
    return 0;
}

static void print_verdict(const struct guard_verdict *v)
{
    fputs(v->unsafe ? "unsafe" : "safe", stdout);
    for (const char *p = v->codes; *p;) {
        const size_t n = strcspn(p, ",");
        char code[16];

        snprintf(code, sizeof(code), "%.*s", (int)n, p);
        const char *name = chat_guard_category(code);

        printf("%s %s%s%s", p == v->codes ? ":" : ",", code, name ? " " : "", name ? name : "");
        p += n + (p[n] == ',');
    }
    printf("\nprobability %.4f\n", v->p);
}

static int one(const struct guard_cfg *c, struct llama_guard *j, struct err *e)
{
    json_t *request = json_object(), *list = json_array();
    struct guard_verdict v;
    struct buf text;
    int rc = -1;

    buf_init(&text, GUARD_TEXT_MAX);
    buf_adds(&text, c->text);
    json_object_set_new(request, "messages", list);
    if (!*c->text && guard_stdin(&text, e))
        goto done;
    add_message(list, "user", text.p, text.len);
    if (c->answer)
        add_message(list, "assistant", c->answer, strlen(c->answer));
    if (add_policy(c, request, e) || llama_guard_judge(j, request, &v, e))
        goto done;
    print_verdict(&v);
    rc = v.unsafe ? GUARD_UNSAFE : 0;
done:
    json_decref(request);
    buf_release(&text);
    return rc;
}

static int judge(const struct guard_cfg *c, const char *path, const struct engine_opts *o,
                 struct err *e)
{
    struct engine *g;
    struct judge a = { .c = c };
    int rc = -1;

    if (engine_open(&g, path, o, e))
        return -1;
    if (llama_guard_open(&a.j, g, (size_t)c->ctx, opt_given(c, "threshold") ? c->threshold : -1,
                         e) == 0)
        rc = c->json ? guard_lines(answer_line, &a, e) : one(c, a.j, e);
    llama_guard_close(a.j);
    engine_close(g);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct guard_cfg *c = cfg;
    struct engine_opts o;
    char *path;
    int rc;

    if (c->json && (*c->text || c->answer))
        return err_set(e, ERR_USAGE, "--json reads requests from standard input; it takes no TEXT");
    if (engine_opts_fill(&o, c->threads, c->dtype, c->isa, c->device, e) ||
        hub_resolve(c->model, &path, e))
        return -1;
    rc = prompt_guard_is(path) ? guard_prompt(c, path, &o, e) : judge(c, path, &o, e);
    free(path);
    return rc;
}

const struct cmd cmd_guard = {
    .name = "guard",
    .summary = "judge a text or a conversation with Llama Guard or Prompt Guard",
    .usage = "MODEL [TEXT] [--answer TEXT] | MODEL --json",
    .help =
        "Says whether the last turn is safe: what a user said (TEXT, or standard input), or with "
        "--answer what an assistant answered. The exit status is 0 for safe and 3 for unsafe; an "
        "answer of the model that is neither is an error.\n"
        "\n"
        "The probability is that of \"unsafe\" as the first token of the verdict, which Meta's "
        "model "
        "card uses as the score.\n"
        "\n"
        "Prompt Guard instead reads one text and says how likely it attacks the model that will "
        "read it: a "
        "jailbreak in a user's own words or, with --third-party, also an instruction in what tools "
        "bring. "
        "Long text is read in windows that overlap, and the worst counts.\n"
        "\n"
        "JSON\n"
        "With --json every line is a request, {\"messages\": [...]} or {\"text\"}, with "
        "\"categories\" and \"excluded_categories\" where they differ, and is answered by a line "
        "{\"verdict\", \"categories\", \"probability\", \"share\", \"prompt_tokens\"} or "
        "{\"error\"}; "
        "share is the probability among \"safe\" and \"unsafe\" alone. Prompt Guard takes "
        "{\"text\"} and answers {\"verdict\", "
        "\"probability\", \"labels\", \"jailbreak\", \"injection\", \"windows\"}. The exit status "
        "is 1 when a "
        "line was an error.\n"
        "\n"
        "EXAMPLES\n"
        "  puna guard ./Llama-Guard-3-8B 'How do I pick a lock?'\n"
        "  puna guard guard.gguf 'How do I pick a lock?' --answer 'First, get a wrench.'\n"
        "  puna guard guard.gguf --json < conversations.jsonl\n",
    .opts = opts,
    .cfg_size = sizeof(struct guard_cfg),
    .run = run,
};
