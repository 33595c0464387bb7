#include "tools/custom.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tools/http.h"
#include "tools/proc.h"

enum { ERRORS_KEPT = 4096 };

struct custom {
    json_t *argv; /* a list; NULL = HTTP; owned */
    json_t *env, *headers;
    char *url;
    bool get, private, json;
};

static void custom_free(void *own)
{
    struct custom *c = own;

    json_decref(c->argv);
    json_decref(c->env);
    json_decref(c->headers);
    free(c->url);
    free(c);
}

/* What a tool says must be text, and JSON where it promised that. */
static int check_text(const struct buf *b, bool json, struct err *e)
{
    json_t *j;

    if (!utf8_valid(b->p, b->len) || memchr(b->p, 0, b->len))
        return err_set(e, ERR_FORMAT, "the tool answered %zu bytes that are no text", b->len);
    if (!json)
        return 0;
    if (json_parse(&j, b->p, b->len, "the tool says that its answer is JSON, and it is not", e))
        return -1;
    json_decref(j);
    return 0;
}

static int call_command(struct kit_tool *t, const json_t *args, const char *text, size_t n,
                        double seconds, struct tool_result *r, struct err *e)
{
    const struct custom *c = t->own;
    const double began = clock_seconds();
    struct proc p;
    struct buf out, said;
    enum proc_end end;
    char how[64];
    int status, rc = -1;

    (void)args;
    if (proc_start(&p, c->argv, c->env, e))
        return -1;
    buf_init(&out, KIT_RESULT_MAX);
    buf_init(&said, ERRORS_KEPT);
    end = proc_talk(&p, text, n, true, began + seconds, NULL, NULL, &out, &said);
    proc_stop(&p, end == PROC_CLOSED ? &status : NULL);
    if (end == PROC_TIMEOUT) {
        err_set(e, ERR_TIMEOUT, "the tool was stopped after %.3g s (limit)", seconds);
    } else if (end == PROC_FLOOD) {
        err_set(e, ERR_FORMAT, "the tool was stopped: more than %d KiB of output (limit)",
                KIT_RESULT_MAX >> 10);
    } else if (status) {
        proc_status(how, sizeof(how), status);
        while (said.len && said.p[said.len - 1] == '\n')
            buf_cut(&said, said.len - 1);
        err_set(e, ERR_FAIL, "the tool ended with %s%s%.500s", how, said.len ? ": " : "", said.p);
    } else if (check_text(&out, c->json, e) == 0) {
        while (out.len && out.p[out.len - 1] == '\n')
            buf_cut(&out, out.len - 1);
        buf_add(&r->text, out.p, out.len);
        rc = 0;
    }
    buf_release(&out);
    buf_release(&said);
    return rc;
}

/* A GET's arguments are its query. */
static char *query_url(const char *url, const json_t *args)
{
    struct buf b;
    const char *key;
    json_t *v;

    buf_init(&b, 1 << 16);
    buf_adds(&b, url);
    json_object_foreach((json_t *)(uintptr_t)args, key, v)
    {
        char *text =
            json_is_string(v) ? xstrdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY);

        buf_addc(&b, strchr(b.p, '?') ? '&' : '?');
        http_escape(&b, key, strlen(key));
        buf_addc(&b, '=');
        http_escape(&b, text ? text : "", text ? strlen(text) : 0);
        free(text);
    }
    char *whole = buf_take(&b);

    buf_release(&b);
    return whole;
}

static int call_http(struct kit_tool *t, const json_t *args, const char *text, size_t n,
                     double seconds, struct tool_result *r, struct err *e)
{
    const struct custom *c = t->own;
    char *url = c->get ? query_url(c->url, args) : NULL;
    const struct http_request q = { .url = url ? url : c->url,
                                    .headers = c->headers,
                                    .body = c->get ? NULL : text,
                                    .n_body = n,
                                    .type = "application/json",
                                    .seconds = seconds,
                                    .private = c->private };
    struct http_reply a;
    int rc = -1;

    http_reply_init(&a, KIT_RESULT_MAX);
    if (http_fetch(&q, &a, e) == 0) {
        const bool json = c->json || strcmp(a.type, "application/json") == 0;

        if (a.status < 200 || a.status > 299)
            err_set(e, ERR_FAIL, "the tool answered with status %ld: %.300s", a.status, a.body.p);
        else
            rc = check_text(&a.body, json, e);
    }
    if (rc == 0)
        buf_add(&r->text, a.body.p, a.body.len);
    http_reply_release(&a);
    free(url);
    return rc;
}

/* ---- declarations ---- */

static int texts(const json_t *obj, const char *key, json_t **out, struct err *e)
{
    const char *name;
    json_t *v, *found = NULL;

    if (json_get_obj(obj, key, &found, "tool", e) < 0)
        return -1;
    json_object_foreach(found, name, v) if (!json_is_string(v)) return err_set(
        e, ERR_USAGE, "tool: %s.%.60s is no text", key, name);
    *out = json_incref(found);
    return 0;
}

/* "command": a list of texts, or a line for the shell. */
static int read_command(struct custom *c, const json_t *v, struct err *e)
{
    size_t i;
    json_t *one;

    if (json_is_string(v) && json_string_length(v)) {
        c->argv = json_pack("[s, s, O]", "/bin/sh", "-c", v);
        return 0;
    }
    if (!json_is_array(v) || json_array_size(v) == 0)
        return err_set(e, ERR_USAGE, "tool: command is neither a text nor a list of texts");
    json_array_foreach((json_t *)(uintptr_t)v, i, one) if (!json_is_string(one)) return err_set(
        e, ERR_USAGE, "tool: command[%zu] is no text", i);
    c->argv = json_incref((json_t *)(uintptr_t)v);
    return 0;
}

static int read_own(struct custom *c, const json_t *decl, struct kit_tool *t, struct err *e)
{
    const json_t *command = json_object_get(decl, "command");
    const char *url = NULL, *method = NULL, *output = NULL;

    if (json_get_str(decl, "url", &url, NULL, "tool", e) < 0 ||
        json_get_str(decl, "method", &method, NULL, "tool", e) < 0 ||
        json_get_str(decl, "output", &output, NULL, "tool", e) < 0 ||
        json_get_bool(decl, "private", &c->private, "tool", e) < 0 ||
        json_get_num(decl, "timeout", 0.001, 3600, &t->timeout, "tool", e) < 0 ||
        texts(decl, "env", &c->env, e) || texts(decl, "headers", &c->headers, e))
        return -1;
    if (!command == !url)
        return err_set(e, ERR_USAGE, "tool %s: it needs a \"command\" or a \"url\", one of them",
                       t->name);
    if (method && strcmp(method, "GET") != 0 && strcmp(method, "POST") != 0)
        return err_set(e, ERR_USAGE, "tool %s: method '%.20s' is neither GET nor POST", t->name,
                       method);
    if (output && strcmp(output, "json") != 0 && strcmp(output, "text") != 0)
        return err_set(e, ERR_USAGE, "tool %s: output '%.20s' is neither text nor json", t->name,
                       output);
    c->json = output && *output == 'j';
    c->get = method && *method == 'G';
    c->url = url ? xstrdup(url) : NULL;
    return command ? read_command(c, command, e) : 0;
}

int custom_add(struct kit *k, const json_t *decl, struct err *e)
{
    const json_t *f = json_object_get(decl, "function");
    struct custom *c;
    struct kit_tool *t;
    json_t *shown;

    if (!json_is_object(decl))
        return err_set(e, ERR_USAGE, "not an object");
    if (json_is_object(f)) {
        shown = json_pack("{s:s, s:O}", "type", "function", "function", f);
    } else {
        static const char *const keys[] = { "name", "description", "parameters" };
        json_t *bare = json_object();

        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
            if (json_object_get(decl, keys[i]))
                json_object_set(bare, keys[i], json_object_get(decl, keys[i]));
        shown = json_pack("{s:s, s:o}", "type", "function", "function", bare);
    }
    if (kit_add(k, shown, "--tools", &t, e))
        return -1;
    c = xcalloc(1, sizeof(*c));
    t->own = c;
    t->own_free = custom_free;
    if (read_own(c, decl, t, e))
        return -1;
    t->call = c->argv ? call_command : call_http;
    return 0;
}
