/* tools.c - `puna tools`: what a model may call, and one call by hand. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/common.h"
#include "cmd/opt.h"
#include "tools/kit.h"

enum { INPUT_MAX = 16 << 20, FAILED = 3 };

struct tools_cfg {
    const char *action, *name, *input;
    const char *image_dir, *tools;
    double wall;
    int64_t memory;
    bool json;
};

static const struct opt opts[] = {
    OPT(ARG, struct tools_cfg, action, NULL, "list|exec", "list", "what to do"),
    OPT(ARG, struct tools_cfg, name, NULL, "NAME", "", "the tool"),
    OPT(ARG, struct tools_cfg, input, NULL, "-", "-", "its input is on standard input"),
    OPT(STR, struct tools_cfg, tools, NULL, "LIST", NULL,
        "files of tools besides the built-in ones, as puna run takes them"),
    OPT(STR, struct tools_cfg, image_dir, NULL, "DIR", NULL, "save plots there as plot-N.png"),
    OPT_RANGE(NUM, struct tools_cfg, wall, NULL, "S", "30", 0.01, 86400,
              "seconds one run may take"),
    OPT_RANGE(INT, struct tools_cfg, memory, NULL, "MIB", "1024", 64, 1 << 20,
              "memory of all its processes together"),
    OPT(BOOL, struct tools_cfg, json, NULL, NULL, NULL, "one JSON object on stdout"),
    { .name = NULL },
};

/* The user's own: where they can be declared they can be used. */
static void list_kit(const struct kit *k, bool json, json_t *top)
{
    for (size_t i = 0; k && i < k->n; i++) {
        const char *what = json_string_value(
            json_object_get(json_object_get(k->tool[i].decl, "function"), "description"));

        if (json)
            json_array_append_new(top, json_pack("{s:s, s:s, s:b, s:O}", "name", k->tool[i].name,
                                                 "what", what ? what : "", "usable", 1, "declared",
                                                 k->tool[i].decl));
        else
            printf("%-18s %s\n", k->tool[i].name, what ? what : "");
    }
}

static int list(const struct tools_cfg *c, const struct kit *k)
{
    json_t *top = json_array();
    size_t n;
    const struct tool *const *all = tool_all(&n);

    for (size_t i = 0; i < n; i++) {
        struct err why = { 0 };
        const bool usable = all[i]->check(&why) == 0;

        if (c->json)
            json_array_append_new(top, json_pack("{s:s, s:s, s:b, s:s*}", "name", all[i]->name,
                                                 "what", all[i]->what, "usable", (int)usable,
                                                 "reason", usable ? NULL : why.msg));
        else
            printf("%-18s %s%s%s\n", all[i]->name, all[i]->what,
                   usable ? "" : "; not usable: ", usable ? "" : why.msg);
    }
    list_kit(k, c->json, top);
    if (c->json) {
        json_dumpf(top, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(top);
    return 0;
}

static void show(const struct tools_cfg *c, const struct tool_result *r)
{
    if (!c->json) {
        fwrite(r->text.p, 1, r->text.len, stdout);
        if (r->text.len && r->text.p[r->text.len - 1] != '\n')
            putchar('\n');
        fputs(r->images.p, stderr);
        return;
    }
    json_t *images = json_array(), *j;

    for (const char *p = r->images.p; *p;) {
        const size_t n = strcspn(p, "\n");

        json_array_append_new(images, json_stringn(p, n));
        p += n + (p[n] == '\n');
    }
    j = json_pack("{s:b, s:o, s:f, s:o}", "failed", (int)r->failed, "text",
                  json_stringn(r->text.p, r->text.len), "seconds", r->seconds, "images", images);
    json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(j);
}

/* A built-in tool takes its input as it is, the user's own the JSON object of their arguments. */
static int call(const struct tools_cfg *c, struct kit *k, const struct buf *input,
                struct tool_result *r, struct err *e)
{
    const struct tool *t = tool_by_name(c->name);
    struct tool_session s;
    char *wrong = NULL;
    int rc = 0;

    if (t) {
        tool_session_init(&s);
        s.image_dir = c->image_dir;
        s.code_limits.wall = c->wall;
        s.code_limits.memory = (size_t)c->memory << 20;
        rc = t->run(&s, input->p, input->len, r, e);
        tool_session_release(&s);
    } else if ((wrong = kit_complaint(k, c->name, input->p, input->len))) {
        rc = err_set(e, ERR_USAGE, "%s: %s", c->name, wrong);
    } else {
        kit_call(k, NULL, c->name, input->p, input->len, c->wall, r);
    }
    free(wrong);
    return rc;
}

static int exec(const struct tools_cfg *c, struct kit *k, struct err *e)
{
    struct tool_result r;
    struct buf input;
    int rc = -1;

    if (!tool_by_name(c->name) && !(k && kit_find(k, c->name)))
        return err_set(e, ERR_USAGE, "no tool '%.60s'; `puna tools` lists them", c->name);
    if (strcmp(c->input, "-") != 0)
        return err_set(e, ERR_USAGE, "the tool's input comes on standard input: give - for it");
    buf_init(&input, INPUT_MAX);
    tool_result_init(&r);
    if (stdin_read(&input, "the tool's input", e) == 0 && call(c, k, &input, &r, e) == 0) {
        show(c, &r);
        rc = r.failed ? FAILED : 0;
    }
    tool_result_release(&r);
    buf_release(&input);
    return rc;
}

static int run(const void *cfg, struct err *e)
{
    const struct tools_cfg *c = cfg;
    struct kit *k = NULL;
    int rc;

    if (c->tools && kit_open(&k, c->tools, e))
        return err_wrap(e, "--tools");
    rc = strcmp(c->action, "exec") == 0 ? exec(c, k, e) : list(c, k);
    kit_close(k);
    return rc;
}

const struct cmd cmd_tools = {
    .name = "tools",
    .summary = "what a model may call, and one call by hand",
    .usage = "[list] | exec NAME - [OPTIONS]",
    .help =
        "list says which built-in tools of Llama 3.1 can be used here, and why not. exec runs one "
        "on its "
        "input, which comes on standard input, and prints what the model would be told; the exit "
        "status "
        "is 3 when the call failed.\n"
        "\n"
        "brave_search and wolfram_alpha ask the services of that name with your key from "
        "BRAVE_SEARCH_API_KEY and WOLFRAM_ALPHA_API_KEY. --tools FILE adds tools of your own: "
        "functions with a command or an HTTP endpoint, and MCP servers; docs/tools.md has the "
        "file's form. Their input is the JSON object of their arguments.\n"
        "\n"
        "code_interpreter runs Python behind walls of the kernel: no network, no files but its "
        "own, limits "
        "on time, memory, processes and output. Where the walls cannot be set up, nothing runs.\n"
        "\n"
        "EXAMPLES\n"
        "  puna tools\n"
        "  echo 'sum(range(10))' | puna tools exec code_interpreter -\n"
        "  puna tools exec code_interpreter - --image-dir . < plot.py\n",
    .opts = opts,
    .cfg_size = sizeof(struct tools_cfg),
    .run = run,
};
