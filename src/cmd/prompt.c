/* prompt.c - `puna prompt`: the exact prompt a chat becomes, as bytes or as bytes and ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmd/common.h"
#include "cmd/opt.h"
#include "hub/models.h"
#include "text/chat.h"
#include "text/pyjson.h"

enum { REQUEST_MAX = 64 << 20 };

struct prompt_cfg {
    const char *tokenizer;
    const char *template;
    const char *date;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct prompt_cfg, tokenizer, NULL, "TOKENIZER", NULL,
        "tokenizer.model, tokenizer.json, GGUF file, model folder or short name"),
    OPT(STR, struct prompt_cfg, template, "--chat-template", "NAME", NULL,
        "chat format, instead of the one the tokenizer's template is"),
    OPT(STR, struct prompt_cfg, date, "--date-string", "DATE", NULL,
        "date of a Llama prompt, \"26 Jul 2024\"; today = this day, none = no date lines"),
    OPT(BOOL, struct prompt_cfg, json, NULL, NULL, NULL, "JSON lines in, JSON lines out"),
    { .name = NULL },
};

/* ---- a line of JSON ---- */

/* What the recorded prompts of the reference libraries call their kinds, and the format that each
 * is. */
static const struct source {
    const char *name;
    const char *format;
} sources[] = {
    { "hf_template_3.1", "llama3.1" },
    { "llama_guard_cookbook", "llama-guard3-cookbook" },
    { "llama_guard_default", "llama-guard3" },
    { "llama_guard_hf", "llama-guard3-hf" },
    { "llama_guard_meta", "llama-guard3-meta" },
    { "meta_base", NULL },
    { "meta_chat_format", "meta" },
    { "meta_interface", "meta-docs" },
    { "meta_stack", "meta-stack" },
    { "meta_tool_response", "meta" },
};

static void add_message(json_t *list, const char *role, json_t *content)
{
    json_t *m = json_object();

    json_object_set_new(m, "role", json_string(role));
    json_object_set_new(m, "content", content);
    json_array_append_new(list, m);
}

/* meta_interface: {"instruction", "user"} are the messages. */
static void add_interface(json_t *input)
{
    json_t *list = json_array(), *instruction = json_object_get(input, "instruction");
    json_t *user = json_object_get(input, "user");

    if (instruction && !json_is_null(instruction))
        add_message(list, "system", json_incref(instruction));
    add_message(list, "user", user ? json_incref(user) : json_null());
    json_object_set_new(input, "messages", list);
}

/* llama_guard_cookbook: {"conversation"} are the texts of user and agent in turn. */
static void add_conversation(json_t *input)
{
    json_t *list = json_array(), *v;
    size_t i;

    json_array_foreach(json_object_get(input, "conversation"), i, v)
        add_message(list, i % 2 ? "assistant" : "user", json_incref(v));
    json_object_set_new(input, "messages", list);
}

/* meta_tool_response: the result of a run of code is the last message. */
static int add_result(json_t *input, struct err *e)
{
    json_t *list = json_object_get(input, "messages");
    struct buf text;
    int rc;

    buf_init(&text, REQUEST_MAX);
    rc = chat_code_result(json_object_get(input, "tool_response"), &text, e);
    if (rc == 0)
        add_message(list, "tool", json_stringn_nocheck(text.p, text.len));
    buf_release(&text);
    return rc;
}

static int by_source(const struct tok *t, const char *name, json_t *input, struct prompt *out,
                     struct err *e)
{
    const struct source *s = NULL;
    char names[256] = "";

    for (size_t i = 0; i < ARRAY_LEN(sources); i++)
        if (strcmp(sources[i].name, name) == 0)
            s = &sources[i];
    if (!s) {
        for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
            const size_t n = strlen(names);

            snprintf(names + n, sizeof(names) - n, "%s%s", i ? ", " : "", sources[i].name);
        }
        return err_set(e, ERR_USAGE, "request: source '%.40s' is none of %s", name, names);
    }
    if (!s->format) {
        const char *text = "";
        size_t n = 0;

        if (json_get_str(input, "text", &text, &n, "input", e) < 0)
            return -1;
        return chat_base(t, text, n, out, e);
    }
    if (strcmp(name, "meta_interface") == 0)
        add_interface(input);
    if (strcmp(name, "llama_guard_cookbook") == 0)
        add_conversation(input);
    if (strcmp(name, "meta_tool_response") == 0 && add_result(input, e))
        return -1;
    return chat_render(chat_by_name(s->format), t, input, out, e);
}

static int render(const struct prompt_cfg *c, const struct tok *t, json_t *request,
                  struct prompt *out, struct err *e)
{
    const struct chat_format *f;
    const char *source;
    size_t n;

    if (!json_is_object(request))
        return err_set(e, ERR_USAGE, "request: not an object");
    const int rc = json_get_str(request, "source", &source, &n, "request", e);

    if (rc < 0)
        return -1;
    if (rc == 1) {
        json_t *input = NULL;
        const int found = json_get_obj(request, "input", &input, "request", e);

        if (found <= 0)
            return found ? -1 : err_set(e, ERR_USAGE, "request: a source needs an input");
        return by_source(t, source, input, out, e);
    }
    if (c->date)
        json_object_set_new(request, "date_string", json_string(c->date));
    if (!c->template) {
        if (chat_detect(&f, t, e))
            return -1;
    } else {
        f = chat_by_name(c->template);
        if (!f)
            return err_set(e, ERR_USAGE, "--template: no chat format '%.60s'; there is %s",
                           c->template, chat_names());
    }
    return chat_render(f, t, request, out, e);
}

static int read_and_render(const struct prompt_cfg *c, const struct tok *t, const struct buf *text,
                           struct prompt *out, struct err *e)
{
    json_t *request;
    int rc;

    if (pyjson_read(&request, text->p, text->len, 0, "request", e))
        return -1;
    rc = render(c, t, request, out, e);
    json_decref(request);
    return rc;
}

static void print_json(const struct prompt *p)
{
    struct buf b;

    buf_init(&b, SIZE_MAX);
    buf_adds(&b, "{\"prompt\": ");
    pyjson_string(&b, p->text.p, p->text.len, 0);
    buf_adds(&b, ", \"ids\": [");
    for (size_t i = 0; i < p->ids.n; i++)
        buf_addf(&b, "%s%d", i ? ", " : "", p->ids.p[i]);
    buf_adds(&b, "]}\n");
    fwrite(b.p, 1, b.len, stdout);
    buf_release(&b);
}

static void print_error(const struct err *e)
{
    struct buf b;

    buf_init(&b, SIZE_MAX);
    buf_adds(&b, "{\"error\": ");
    pyjson_string(&b, e->msg, strlen(e->msg), 0);
    buf_adds(&b, "}\n");
    fwrite(b.p, 1, b.len, stdout);
    buf_release(&b);
}

/* Every line is answered by one; a bad one says why and the rest goes on. */
static int lines(const struct prompt_cfg *c, const struct tok *t, struct err *e)
{
    struct buf line;
    int rc, status = 0;

    buf_init(&line, REQUEST_MAX);
    while ((rc = file_line(&line, stdin, e)) > 0) {
        struct prompt p;
        struct err why = { 0 };

        if (line.len == strspn(line.p, " \t\r"))
            continue;
        prompt_init(&p);
        if (read_and_render(c, t, &line, &p, &why)) {
            print_error(&why);
            status = 1;
        } else {
            print_json(&p);
        }
        prompt_release(&p);
        if (fflush(stdout))
            break;
    }
    buf_release(&line);
    return rc < 0 ? -1 : status;
}

/* ---- one request ---- */

static int one(const struct prompt_cfg *c, const struct tok *t, struct err *e)
{
    struct prompt p;
    struct buf text;
    int rc = -1;

    buf_init(&text, REQUEST_MAX);
    prompt_init(&p);
    if (stdin_read(&text, "one request as JSON", e) == 0 &&
        read_and_render(c, t, &text, &p, e) == 0) {
        fwrite(p.text.p, 1, p.text.len, stdout);
        rc = 0;
    }
    prompt_release(&p);
    buf_release(&text);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct prompt_cfg *c = cfg;
    struct tok *t = NULL;
    char *path = NULL;
    int rc = -1;

    if (!file_exists(c->tokenizer) && !file_is_dir(c->tokenizer) &&
        hub_resolve(c->tokenizer, &path, e))
        return -1;
    if (tok_open(&t, path ? path : c->tokenizer, e) == 0)
        rc = c->json ? lines(c, t, e) : one(c, t, e);
    tok_free(t);
    free(path);
    return rc;
}

const struct cmd cmd_prompt = {
    .name = "prompt",
    .summary = "the exact prompt that a chat becomes",
    .usage = "TOKENIZER [--template NAME] [--date DATE] [--json] < REQUEST",
    .help = "Reads one request as OpenAI's API has it (messages, tools, ...) and prints the bytes "
            "of its\n"
            "prompt. With --json every line of the input is a request and is answered by one line "
            "with\n"
            "the prompt and its token ids, or with an error. Content never becomes a control "
            "token: the\n"
            "ids say what the bytes alone cannot.\n"
            "\n"
            "EXAMPLES\n"
            "\n"
            "    echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' | puna prompt "
            "smollm2\n"
            "    puna prompt tokenizer.model --template llama3.1 --date today --json < "
            "requests.jsonl\n",
    .opts = opts,
    .cfg_size = sizeof(struct prompt_cfg),
    .run = run,
};
