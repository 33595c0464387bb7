#include "tools/kit.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "tools/custom.h"
#include "tools/mcp.h"

enum { FILE_MAX = 4 << 20, NAME_MAX_BYTES = 64 };

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";

struct kit_tool *kit_find(struct kit *k, const char *name)
{
    for (size_t i = 0; i < k->n; i++)
        if (strcmp(k->tool[i].name, name) == 0)
            return &k->tool[i];
    return NULL;
}

int kit_add(struct kit *k, json_t *decl, const char *what, struct kit_tool **out, struct err *e)
{
    const char *name =
        json_string_value(json_object_get(json_object_get(decl, "function"), "name"));
    const size_t n = name ? strlen(name) : 0;
    int rc = 0;

    if (n == 0 || n > NAME_MAX_BYTES || strspn(name, letters) != n)
        rc = err_set(e, ERR_USAGE,
                     "%.200s: a tool's name is 1 to %d letters, digits, underscores, dots or "
                     "dashes, not '%.80s'",
                     what, NAME_MAX_BYTES, name ? name : "");
    else if (kit_find(k, name))
        rc = err_set(e, ERR_USAGE, "%.200s: a second tool '%s'", what, name);
    else if (k->n == KIT_TOOLS)
        rc = err_set(e, ERR_USAGE, "%.200s: more than %d tools", what, KIT_TOOLS);
    if (rc) {
        json_decref(decl);
        return -1;
    }
    *out = &k->tool[k->n++];
    **out = (struct kit_tool){ .decl = decl, .name = name, .timeout = KIT_TIMEOUT };
    return 0;
}

/* ---- built-in tools ---- */

static int call_builtin(const struct kit_tool *t, struct tool_session *s, const json_t *args,
                        struct tool_result *r, struct err *e)
{
    const json_t *input = json_object_get(args, t->builtin->arg);
    int rc;

    if (!json_is_string(input))
        return err_set(e, ERR_USAGE, "%s needs \"%s\", a text", t->name, t->builtin->arg);
    pthread_mutex_lock(&s->lock);
    rc = t->builtin->run(s, json_string_value(input), json_string_length(input), r, e);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int kit_add_builtin(struct kit *k, const char *name, struct err *e)
{
    const struct tool *b = tool_by_name(name);
    struct kit_tool *t;

    if (!b)
        return err_set(e, ERR_USAGE,
                       "no tool and no file '%.200s'; `puna tools` lists the built-in ones", name);
    if (b->check(e))
        return err_wrap(e, "%s", name);
    if (kit_add(k,
                json_pack("{s:s, s:{s:s, s:s, s:{s:s, s:{s:{s:s}}, s:[s]}}}", "type", "function",
                          "function", "name", b->name, "description", b->what, "parameters", "type",
                          "object", "properties", b->arg, "type", "string", "required", b->arg),
                "--tools", &t, e))
        return -1;
    t->builtin = b;
    return 0;
}

/* ---- files ---- */

int kit_add_file(struct kit *k, const json_t *file, const char *what, struct err *e)
{
    const json_t *list = json_is_array(file) ? file : json_object_get(file, "tools");
    const json_t *servers = json_object_get(file, "mcpServers");
    const char *name;
    size_t i;
    json_t *v;

    if (!json_is_array(list) && !json_is_object(servers))
        return err_set(e, ERR_FORMAT,
                       "%.200s: neither a list of tools (\"tools\") nor of servers "
                       "(\"mcpServers\")",
                       what);
    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        if (custom_add(k, v, e))
            return err_wrap(e, "%.200s: tools[%zu]", what, i);
    }
    json_object_foreach((json_t *)(uintptr_t)servers, name, v)
    {
        struct mcp *m;

        if (mcp_open(&m, v, e))
            return err_wrap(e, "%.200s: MCP server %.80s", what, name);
        k->mcp = xrealloc(k->mcp, (k->n_mcp + 1) * sizeof(*k->mcp));
        k->mcp[k->n_mcp++] = m;
        if (mcp_add(k, m, e))
            return err_wrap(e, "%.200s: MCP server %.80s", what, name);
    }
    return 0;
}

static int add_path(struct kit *k, const char *path, struct err *e)
{
    json_t *file;
    int rc;

    if (json_parse_file(&file, path, FILE_MAX, e))
        return -1;
    rc = kit_add_file(k, file, path, e);
    json_decref(file);
    return rc;
}

int kit_open(struct kit **out, const char *spec, struct err *e)
{
    struct kit *k = xcalloc(1, sizeof(*k));
    char *copy = xstrdup(spec), *rest = copy;
    const char *word;
    int rc = 0;

    tool_session_init(&k->session);
    while (rc == 0 && (word = strsep(&rest, ",")))
        if (*word)
            rc = file_exists(word) ? add_path(k, word, e) : kit_add_builtin(k, word, e);
    if (rc == 0 && k->n == 0)
        rc = err_set(e, ERR_USAGE, "--tools: no tool is named");
    free(copy);
    if (rc) {
        kit_close(k);
        return -1;
    }
    *out = k;
    return 0;
}

void kit_close(struct kit *k)
{
    if (!k)
        return;
    for (size_t i = 0; i < k->n; i++) {
        if (k->tool[i].own_free)
            k->tool[i].own_free(k->tool[i].own);
        json_decref(k->tool[i].decl);
    }
    for (size_t i = 0; i < k->n_mcp; i++)
        mcp_close(k->mcp[i]);
    free(k->mcp);
    tool_session_release(&k->session);
    free(k);
}

/* ---- requests and calls ---- */

void kit_declare(const struct kit *k, const struct chat_format *f, json_t *request)
{
    json_t *tools = json_array(), *builtin = json_array();

    for (size_t i = 0; i < k->n; i++)
        if (k->tool[i].builtin && f && f->builtins)
            json_array_append_new(builtin, json_string(k->tool[i].name));
        else
            json_array_append(tools, k->tool[i].decl);
    if (json_array_size(tools))
        json_object_set(request, "tools", tools);
    if (json_array_size(builtin))
        json_object_set(request, "builtin_tools", builtin);
    json_object_set_new(request, "parallel_tool_calls", json_true());
    json_decref(tools);
    json_decref(builtin);
}

void kit_call(struct kit *k, struct tool_session *session, const char *name, const char *args,
              size_t n, double seconds, struct tool_result *r)
{
    struct kit_tool *t = kit_find(k, name);
    struct err e = { 0 };
    json_t *j = NULL;
    int rc = -1;

    if (!t)
        err_set(&e, ERR_USAGE, "there is no tool '%.64s'", name);
    else if (json_parse(&j, args, n, "arguments", &e) == 0) {
        if (json_is_object(j) && t->builtin && !t->call)
            rc = call_builtin(t, session ? session : &k->session, j, r, &e);
        else if (json_is_object(j))
            rc = t->call(t, j, args, n, seconds < t->timeout ? seconds : t->timeout, r, &e);
        else
            err_set(&e, ERR_USAGE, "the arguments are no object");
    }
    if (rc) {
        r->failed = true;
        buf_clear(&r->text);
        buf_addf(&r->text, "error: %s", e.msg);
    }
    json_decref(j);
}

/* ---- arguments against a schema ---- */

static bool is_type(const json_t *v, const char *type)
{
    return strcmp(type, "string") == 0    ? json_is_string(v)
           : strcmp(type, "integer") == 0 ? json_is_integer(v)
           : strcmp(type, "number") == 0  ? json_is_number(v)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(v)
           : strcmp(type, "array") == 0   ? json_is_array(v)
           : strcmp(type, "object") == 0  ? json_is_object(v)
           : strcmp(type, "null") == 0    ? json_is_null(v)
                                          : true;
}

static bool has_type(const json_t *v, const json_t *type)
{
    size_t i;
    json_t *one;

    if (json_is_string(type))
        return is_type(v, json_string_value(type));
    json_array_foreach((json_t *)(uintptr_t)type, i,
                       one) if (json_is_string(one) &&
                                is_type(v, json_string_value(one))) return true;
    return json_array_size(type) == 0;
}

static bool in_list(const json_t *v, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_equal(json_array_get(list, i), v))
            return true;
    return false;
}

static char *field_complaint(const char *key, const json_t *v, const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum");
    char *want, *said = NULL;

    if (type && !has_type(v, type)) {
        want = json_dumps(type, JSON_ENCODE_ANY);
        said = xasprintf("\"%.64s\" must be of type %.200s", key, want ? want : "?");
        free(want);
    } else if (json_is_array(list) && !in_list(v, list)) {
        want = json_dumps(list, JSON_ENCODE_ANY);
        said = xasprintf("\"%.64s\" must be one of %.400s", key, want ? want : "?");
        free(want);
    }
    return said;
}

char *kit_complaint(const struct kit *k, const char *name, const char *args, size_t n)
{
    const struct kit_tool *t = kit_find((struct kit *)(uintptr_t)k, name);
    const json_t *schema, *fields;
    json_t *j, *v;
    const char *key;
    char *said = NULL;
    struct err e;
    size_t i;

    if (!t)
        return xasprintf("there is no tool '%.64s'", name);
    if (json_parse(&j, args, n, "arguments", &e))
        return xstrdup(e.msg);
    schema = json_object_get(json_object_get(t->decl, "function"), "parameters");
    fields = json_object_get(schema, "properties");
    if (!json_is_object(j))
        said = xstrdup("the arguments are no object");
    json_array_foreach(json_object_get(schema, "required"), i, v)
    {
        if (!said && json_is_string(v) && !json_object_get(j, json_string_value(v)))
            said = xasprintf("\"%.64s\" is missing", json_string_value(v));
    }
    json_object_foreach(j, key, v)
    {
        if (!said)
            said = field_complaint(key, v, json_object_get(fields, key));
    }
    json_decref(j);
    return said;
}
