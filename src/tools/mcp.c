#include "tools/mcp.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tools/http.h"
#include "tools/proc.h"

#define REVISION "2025-06-18"
enum { ANSWER_MAX = 8 << 20, ERRORS_KEPT = 4096, PAGES_MAX = 64 };

struct mcp {
    pthread_mutex_t lock; /* one exchange at a time */
    json_t *argv, *env;   /* of a process; owned */
    char *url;            /* of a server; owned */
    json_t *headers;      /* owned */
    double timeout;
    struct proc p;
    struct buf in, said; /* read and not used yet; its standard error */
    bool ready;          /* hands were shaken */
    json_int_t id;       /* of the last request */
};

/* ---- messages ---- */

/* The answer to request `id`: 1 = *result, or an error of the server's; 0 = something else. */
static int take_answer(const json_t *j, json_int_t id, json_t **result, struct err *e)
{
    const json_t *error = json_object_get(j, "error");
    const json_t *value = json_object_get(j, "result");

    if (!json_is_integer(json_object_get(j, "id")) ||
        json_integer_value(json_object_get(j, "id")) != id || (!error && !value))
        return 0;
    *result = NULL;
    if (value) {
        *result = json_incref((json_t *)(uintptr_t)value);
    } else {
        const char *message = json_string_value(json_object_get(error, "message"));

        err_set(e, ERR_FAIL, "the server refuses: %.500s", message ? message : "no reason given");
    }
    return 1;
}

static char *message_text(const char *method, const json_t *params, json_int_t id)
{
    json_t *j = json_pack("{s:s, s:s}", "jsonrpc", "2.0", "method", method);
    char *text;

    if (id)
        json_object_set_new(j, "id", json_integer(id));
    if (params)
        json_object_set(j, "params", (json_t *)(uintptr_t)params);
    text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text;
}

/* ---- a process ---- */

static bool has_line(void *arg, const struct buf *out)
{
    (void)arg;
    return memchr(out->p, '\n', out->len) != NULL;
}

static int lost(struct mcp *m, enum proc_end end, double seconds, struct err *e)
{
    char how[64];
    int status = 0;

    proc_stop(&m->p, end == PROC_CLOSED ? &status : NULL);
    m->ready = false;
    buf_clear(&m->in);
    m->in.full = false;
    if (end == PROC_TIMEOUT)
        return err_set(e, ERR_TIMEOUT, "the server was stopped: no answer within %.3g s", seconds);
    if (end == PROC_FLOOD)
        return err_set(e, ERR_FORMAT, "the server was stopped: a message of more than %d KiB",
                       ANSWER_MAX >> 10);
    proc_status(how, sizeof(how), status);
    return err_set(e, ERR_FAIL, "the server ended with %s%s%.400s", how, m->said.len ? ": " : "",
                   m->said.p);
}

/* A request of the server's: it may ping, and nothing else. */
static void answer_server(struct mcp *m, const json_t *j)
{
    const char *method = json_string_value(json_object_get(j, "method"));
    json_t *id = json_object_get(j, "id"), *a;

    char *text, *line;

    if (!method || !id)
        return;
    a = strcmp(method, "ping") == 0
            ? json_pack("{s:s, s:O, s:{}}", "jsonrpc", "2.0", "id", id, "result")
            : json_pack("{s:s, s:O, s:{s:i, s:s}}", "jsonrpc", "2.0", "id", id, "error", "code",
                        -32601, "message", "not offered by this client");
    text = json_dumps(a, JSON_COMPACT);
    line = xasprintf("%s\n", text ? text : "{}");

    (void)!write(m->p.in, line, strlen(line)); /* short; a pipe that is full loses it */

    free(line);
    free(text);
    json_decref(a);
}

static int talk_process(struct mcp *m, const char *text, json_int_t id, double seconds,
                        json_t **result, struct err *e)
{
    const double end = clock_seconds() + seconds;
    char *line = xasprintf("%s\n", text);
    const char *send = line;
    int rc = 0;

    buf_clear(&m->said);
    while (rc == 0) {
        const char *stop;
        json_t *j;
        struct err bad;
        enum proc_end got;

        got = proc_talk(&m->p, send, strlen(send), false, end, has_line, NULL, &m->in, &m->said);
        send = "";
        if (got != PROC_DONE) {
            rc = lost(m, got, seconds, e);
            break;
        }
        stop = memchr(m->in.p, '\n', m->in.len);
        const size_t n = (size_t)(stop - m->in.p);

        if (json_parse(&j, m->in.p, n, "message", &bad) == 0) {
            rc = take_answer(j, id, result, e);
            if (rc == 0)
                answer_server(m, j);
            json_decref(j);
        } else if (n > strspn(m->in.p, " \r\t")) {
            rc = err_set(e, ERR_FORMAT, "the server sends what is no JSON: %.200s", bad.msg);
            proc_stop(&m->p, NULL);
            m->ready = false;
        }
        buf_remove(&m->in, 0, n + 1 < m->in.len ? n + 1 : m->in.len);
    }
    free(line);
    return rc < 0 || !*result ? -1 : 0;
}

/* A message without an answer. */
static void tell_process(struct mcp *m, const char *text)
{
    char *line = xasprintf("%s\n", text);

    (void)!write(m->p.in, line, strlen(line)); /* a few bytes into an empty pipe */
    free(line);
}

/* ---- a server ---- */

static int read_events(const struct buf *b, json_int_t id, json_t **result, struct err *e)
{
    struct buf data;
    int found = 0;

    buf_init(&data, ANSWER_MAX);
    for (const char *p = b->p; *p && !found;) {
        const size_t n = strcspn(p, "\r\n");
        json_t *j;

        if (n > 5 && strncmp(p, "data:", 5) == 0)
            buf_add(&data, p + 5, n - 5);
        p += n;
        p += *p == '\r' ? 1 + (p[1] == '\n') : *p == '\n';
        if (n && *p)
            continue;
        if (data.len && json_parse(&j, data.p, data.len, "event", NULL) == 0) {
            found = take_answer(j, id, result, e);
            json_decref(j);
        }
        buf_clear(&data);
    }
    buf_release(&data);
    return found;
}

static int talk_http(struct mcp *m, const char *text, json_int_t id, double seconds,
                     json_t **result, struct err *e)
{
    const struct http_request q = { .url = m->url,
                                    .headers = m->headers,
                                    .body = text,
                                    .n_body = strlen(text),
                                    .type = "application/json",
                                    .seconds = seconds,
                                    .private = true,
                                    .want = "Mcp-Session-Id" };
    struct http_reply a;
    int found = 0;
    json_t *j;

    http_reply_init(&a, ANSWER_MAX);
    if (http_fetch(&q, &a, e)) {
        found = -1;
    } else if (a.status < 200 || a.status > 299) {
        m->ready = m->ready && a.status != 404; /* it has forgotten the session */
        found =
            err_set(e, ERR_FAIL, "the server answers with status %ld: %.300s", a.status, a.body.p);
    } else if (*a.got) {
        json_object_set_new(m->headers, "Mcp-Session-Id", json_string(a.got));
    }
    if (found == 0 && id && strcmp(a.type, "text/event-stream") == 0) {
        found = read_events(&a.body, id, result, e);
    } else if (found == 0 && id) {
        found = json_parse(&j, a.body.p, a.body.len, "the server's answer", e);
        if (found == 0) {
            found = take_answer(j, id, result, e);
            json_decref(j);
        }
    }
    if (found == 0 && id)
        err_set(e, ERR_FORMAT, "the server's answer (%.60s) does not belong to the request",
                a.type);
    http_reply_release(&a);
    return id ? (found == 1 && *result ? 0 : -1) : found;
}

/* ---- calls ---- */

static int shake(struct mcp *m, double seconds, struct err *e);

/* The lock is held. */
static int request(struct mcp *m, const char *method, const json_t *params, double seconds,
                   json_t **result, struct err *e)
{
    char *text;
    int rc;

    if (!m->ready && strcmp(method, "initialize") != 0 && shake(m, seconds, e))
        return -1;
    text = message_text(method, params, ++m->id);
    *result = NULL;
    rc = m->url ? talk_http(m, text, m->id, seconds, result, e)
                : talk_process(m, text, m->id, seconds, result, e);
    free(text);
    return rc;
}

static int shake(struct mcp *m, double seconds, struct err *e)
{
    json_t *params =
               json_pack("{s:s, s:{}, s:{s:s, s:s}}", "protocolVersion", REVISION, "capabilities",
                         "clientInfo", "name", "puna", "version", PUNA_VERSION),
           *result = NULL, *nothing = NULL;
    const char *revision;
    char *text;
    int rc = -1;

    if (m->url) {
        json_object_del(m->headers, "Mcp-Session-Id");
        json_object_del(m->headers, "MCP-Protocol-Version");
    } else if (m->p.pid == 0 && proc_start(&m->p, m->argv, m->env, e)) {
        goto done;
    }
    if (request(m, "initialize", params, seconds, &result, e))
        goto done;
    revision = json_string_value(json_object_get(result, "protocolVersion"));
    if (!revision) {
        err_set(e, ERR_FORMAT, "the server names no protocolVersion");
        goto done;
    }
    text = message_text("notifications/initialized", NULL, 0);
    if (m->url) {
        json_object_set_new(m->headers, "MCP-Protocol-Version", json_string(revision));
        rc = talk_http(m, text, 0, seconds, &nothing, e);
    } else {
        tell_process(m, text);
        rc = 0;
    }
    free(text);
    m->ready = rc == 0;
done:
    json_decref(params);
    json_decref(result);
    return rc;
}

/* The parts of a result that are text; what else there is, is named. */
static void content_text(const json_t *list, struct buf *out)
{
    size_t i;
    json_t *v;

    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        const char *type = json_string_value(json_object_get(v, "type"));
        const char *text = json_string_value(json_object_get(v, "text"));

        if (!text)
            text = json_string_value(json_object_get(json_object_get(v, "resource"), "text"));
        if (out->len)
            buf_addc(out, '\n');
        if (text)
            buf_adds(out, text);
        else
            buf_addf(out, "[%.40s left out]", type ? type : "something without a type");
    }
}

static int call(struct kit_tool *t, const json_t *args, const char *text, size_t n, double seconds,
                struct tool_result *r, struct err *e)
{
    struct mcp *m = t->own;
    json_t *params = json_pack("{s:s, s:O}", "name", t->name, "arguments", args), *result = NULL;
    int rc;

    (void)text;
    (void)n;
    pthread_mutex_lock(&m->lock);
    rc = request(m, "tools/call", params, seconds, &result, e);
    pthread_mutex_unlock(&m->lock);
    if (rc == 0) {
        const json_t *structured = json_object_get(result, "structuredContent");

        content_text(json_object_get(result, "content"), &r->text);
        if (r->text.len == 0 && structured) {
            char *j = json_dumps(structured, 0);

            buf_adds(&r->text, j ? j : "");
            free(j);
        }
        r->failed = json_is_true(json_object_get(result, "isError"));
        rc = buf_check(&r->text, "the tool's answer", e);
    }
    json_decref(params);
    json_decref(result);
    return rc;
}

static int add_page(struct kit *k, struct mcp *m, const json_t *list, struct err *e)
{
    size_t i;
    json_t *v;

    json_array_foreach((json_t *)(uintptr_t)list, i, v)
    {
        json_t *f = json_object();
        struct kit_tool *t;

        json_object_set(f, "name", json_object_get(v, "name"));
        if (json_is_string(json_object_get(v, "description")))
            json_object_set(f, "description", json_object_get(v, "description"));
        if (json_is_object(json_object_get(v, "inputSchema")))
            json_object_set(f, "parameters", json_object_get(v, "inputSchema"));
        if (kit_add(k, json_pack("{s:s, s:o}", "type", "function", "function", f), "tools/list", &t,
                    e))
            return -1;
        t->own = m;
        t->call = call;
        t->timeout = m->timeout;
    }
    return 0;
}

int mcp_add(struct kit *k, struct mcp *m, struct err *e)
{
    json_t *params = json_object();
    int rc = 0;

    for (int page = 0; rc == 0 && page < PAGES_MAX; page++) {
        json_t *result = NULL;
        const json_t *next = NULL;

        pthread_mutex_lock(&m->lock);
        rc = request(m, "tools/list", params, m->timeout, &result, e);
        pthread_mutex_unlock(&m->lock);
        if (rc == 0)
            rc = add_page(k, m, json_object_get(result, "tools"), e);
        next = json_object_get(result, "nextCursor");
        if (json_is_string(next))
            json_object_set(params, "cursor", (json_t *)(uintptr_t)next);
        else
            page = PAGES_MAX;
        json_decref(result);
    }
    json_decref(params);
    return rc;
}

static int read_config(struct mcp *m, const json_t *config, struct err *e)
{
    const char *command = NULL, *url = NULL;
    json_t *args = NULL, *env = NULL, *headers = NULL;

    if (!json_is_object(config))
        return err_set(e, ERR_USAGE, "not an object");
    if (json_get_str(config, "command", &command, NULL, "server", e) < 0 ||
        json_get_str(config, "url", &url, NULL, "server", e) < 0 ||
        json_get_arr(config, "args", &args, "server", e) < 0 ||
        json_get_obj(config, "env", &env, "server", e) < 0 ||
        json_get_obj(config, "headers", &headers, "server", e) < 0 ||
        json_get_num(config, "timeout", 0.001, 3600, &m->timeout, "server", e) < 0)
        return -1;
    if (!command == !url)
        return err_set(e, ERR_USAGE, "it needs a \"command\" or a \"url\", one of them");
    m->url = url ? xstrdup(url) : NULL;
    m->env = json_incref(env);
    m->headers = headers ? json_copy(headers) : json_object();
    json_object_set_new(m->headers, "Accept", json_string("application/json, text/event-stream"));
    m->argv = json_pack("[s*]", command);
    for (size_t i = 0; command && i < json_array_size(args); i++) {
        if (!json_is_string(json_array_get(args, i)))
            return err_set(e, ERR_USAGE, "args[%zu] is no text", i);
        json_array_append(m->argv, json_array_get(args, i));
    }
    return 0;
}

int mcp_open(struct mcp **out, const json_t *config, struct err *e)
{
    struct mcp *m = xcalloc(1, sizeof(*m));

    m->timeout = KIT_TIMEOUT;
    m->p = (struct proc){ .in = -1, .out = -1, .err = -1 };
    pthread_mutex_init(&m->lock, NULL);
    buf_init(&m->in, ANSWER_MAX);
    buf_init(&m->said, ERRORS_KEPT);
    if (read_config(m, config, e) || shake(m, m->timeout, e)) {
        mcp_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

void mcp_close(struct mcp *m)
{
    if (!m)
        return;
    proc_stop(&m->p, NULL);
    buf_release(&m->in);
    buf_release(&m->said);
    json_decref(m->argv);
    json_decref(m->env);
    json_decref(m->headers);
    free(m->url);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
