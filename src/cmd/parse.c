/* parse.c - `puna parse`: a model's raw answers in, text, stop reason and tool calls out. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cmd/opt.h"
#include "text/pyjson.h"
#include "text/toolcall.h"

struct parse_cfg {
    const char *tools, *builtin_tools;
    int64_t seed;
    bool json, code_interpreter, coerce;
};

static const struct opt opts[] = {
    OPT(BOOL, struct parse_cfg, json, NULL, NULL, "false",
        "JSON lines in and out, instead of one answer"),
    OPT(STR, struct parse_cfg, tools, NULL, "FILE", NULL,
        "declared tools, a JSON list as in a request (default: any name is a tool)"),
    OPT(STR, struct parse_cfg, builtin_tools, NULL, "LIST", NULL,
        "built-in tools that are on, comma separated"),
    OPT(BOOL, struct parse_cfg, code_interpreter, NULL, NULL, "true",
        "code behind <|python_tag|> is a call"),
    OPT(BOOL, struct parse_cfg, coerce, NULL, NULL, "true",
        "give arguments the type that the tool's schema declares"),
    OPT_RANGE(INT, struct parse_cfg, seed, NULL, "N", "0", 0, 9e15, "seed of the call ids"),
    { .name = NULL },
};

enum { INPUT_MAX = 64 << 20 };

struct job {
    struct tool_options o;
    json_t *tools, *builtin; /* owned */
};

static void write_answer(const struct tool_answer *a, size_t coerced)
{
    struct buf out;

    buf_init(&out, SIZE_MAX);
    buf_adds(&out, "{\"content\": ");
    pyjson_string(&out, a->content.p, a->content.len, 0);
    buf_addf(&out, ", \"stop_reason\": \"%s\", \"finish_reason\": \"%s\", \"tool_calls\": [",
             tool_stop_name(a->stop), tool_finish_reason(a->stop, a->n));
    for (size_t i = 0; i < a->n; i++) {
        buf_addf(&out, "%s{\"id\": \"%s\", \"name\": ", i ? ", " : "", a->calls[i].id);
        pyjson_string(&out, a->calls[i].name, strlen(a->calls[i].name), 0);
        buf_addf(&out, ", \"arguments\": %s}", a->calls[i].args.p);
    }
    buf_addc(&out, ']');
    if (coerced)
        buf_addf(&out, ", \"coerced\": %zu", coerced);
    buf_adds(&out, "}\n");
    fwrite(out.p, 1, out.len, stdout);
    buf_release(&out);
}

/* stop NULL = not known: an answer that breaks off inside a call was cut. */
static void parse_text(const struct tool_options *o, const char *text, size_t n,
                       const enum tool_stop *stop)
{
    struct tool_answer a;

    tool_answer_init(&a);
    const struct tool_events ev = tool_answer_events(&a);
    struct tool_parser *p = tool_parser_new(o, &ev);

    tool_parser_markup(p, text, n);
    tool_parser_end(p, stop ? *stop : tool_parser_open(p) ? TOOL_OUT_OF_TOKENS : TOOL_END_OF_TURN);
    write_answer(&a, tool_parser_coerced(p));
    tool_parser_free(p);
    tool_answer_release(&a);
}

static int read_stop(enum tool_stop *stop, const json_t *line, struct err *e)
{
    const char *s = "end_of_turn";
    size_t n;

    if (json_get_str(line, "stop_reason_in", &s, &n, "line", e) < 0)
        return -1;
    for (*stop = TOOL_END_OF_TURN; *stop <= TOOL_OUT_OF_TOKENS; (*stop)++)
        if (strcmp(s, tool_stop_name(*stop)) == 0)
            return 0;
    return err_set(e, ERR_USAGE,
                   "line: stop_reason_in \"%s\": end_of_turn, end_of_message or out_of_tokens", s);
}

static int parse_line(const struct job *j, const char *text, size_t n, struct err *e)
{
    struct tool_options o = j->o;
    json_t *line, *tools = NULL, *builtin = NULL;
    enum tool_stop stop;
    const char *s;
    size_t len;
    int rc = -1;

    if (pyjson_read(&line, text, n, PYJSON_UNIQUE, "line", e))
        return -1;
    if (!json_is_object(line)) {
        err_set(e, ERR_USAGE, "line: not an object");
        goto done;
    }
    const int found = json_get_str(line, "text", &s, &len, "line", e);

    if (found == 0)
        err_set(e, ERR_USAGE, "line: no \"text\"");
    const bool stop_given = json_object_get(line, "stop_reason_in") != NULL;

    if (found <= 0 || read_stop(&stop, line, e) ||
        json_get_arr(line, "tools", &tools, "line", e) < 0 ||
        json_get_arr(line, "builtin_tools", &builtin, "line", e) < 0 ||
        json_get_bool(line, "code_interpreter", &o.code, "line", e) < 0)
        goto done;
    if (tools || builtin) {
        o.tools = tools;
        o.builtin_tools = builtin;
        o.any = false;
    }
    parse_text(&o, s, len, stop_given ? &stop : NULL);
    rc = 0;
done:
    json_decref(line);
    return rc;
}

static int parse_lines(const struct job *j, struct err *e)
{
    struct buf text;
    int rc, status = 0;

    buf_init(&text, INPUT_MAX);
    while ((rc = file_line(&text, stdin, e)) > 0) {
        if (text.len == strspn(text.p, " \t\r"))
            continue;
        if (parse_line(j, text.p, text.len, e)) {
            struct buf out;

            buf_init(&out, SIZE_MAX);
            pyjson_string(&out, e->msg, strlen(e->msg), 0);
            printf("{\"error\": %s}\n", out.p);
            buf_release(&out);
            status = 1;
        }
        if (fflush(stdout))
            break;
    }
    buf_release(&text);
    return rc < 0 ? -1 : status;
}

static int parse_stdin(const struct job *j, struct err *e)
{
    struct buf b;
    char part[1 << 14];
    size_t n;
    int rc;

    buf_init(&b, INPUT_MAX);
    while ((n = fread(part, 1, sizeof(part), stdin)) > 0)
        buf_add(&b, part, n);
    rc = buf_check(&b, "standard input", e);
    if (rc == 0)
        parse_text(&j->o, b.p, b.len, NULL);
    buf_release(&b);
    return rc;
}

static json_t *split(const char *list)
{
    json_t *a = json_array();

    for (const char *p = list; *p;) {
        const size_t n = strcspn(p, ",");

        json_array_append_new(a, json_stringn(p, n));
        p += n + (p[n] == ',');
    }
    return a;
}

static int run(const void *cfg, struct err *e)
{
    const struct parse_cfg *c = cfg;
    struct job j = {
        .o = { .code = c->code_interpreter, .coerce = c->coerce, .seed = (uint64_t)c->seed }
    };
    int rc = -1;

    if (c->tools && json_parse_file(&j.tools, c->tools, INPUT_MAX, e))
        return -1;
    if (c->tools && !json_is_array(j.tools)) {
        err_set(e, ERR_USAGE, "%s: not a JSON list of tools", c->tools);
        goto done;
    }
    if (c->builtin_tools)
        j.builtin = split(c->builtin_tools);
    j.o.tools = j.tools;
    j.o.builtin_tools = j.builtin;
    j.o.any = !j.tools && !j.builtin;
    rc = c->json ? parse_lines(&j, e) : parse_stdin(&j, e);
done:
    json_decref(j.tools);
    json_decref(j.builtin);
    return rc;
}

const struct cmd cmd_parse = {
    .name = "parse",
    .summary = "text and tool calls of a model's raw answer",
    .usage = "[--json] < ANSWER",
    .help =
        "Reads a raw answer, control tokens spelt out, and prints its content, why it stopped and "
        "the tool\ncalls in it. With --json, one {\"text\": ...} per line.\n"
        "\n"
        "EXAMPLES\n"
        "\n"
        "    echo '<|python_tag|>brave_search.call(query=\"llama\")<|eom_id|>' | puna parse\n",
    .opts = opts,
    .cfg_size = sizeof(struct parse_cfg),
    .run = run,
};
