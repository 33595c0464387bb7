/* door.c - what must hold before a handler sees a call: a request that can be read in one way only,
 * for a route that exists, of a page, host and key that may, with a body that is JSON. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <math.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "server/field.h"
#include "server/http_int.h"
#include "server/judge.h"
#include "server/metrics.h"

#define ROUTE(name, fn, dialect, open, fields, help) handler fn;
#include "server/route.def"
#undef ROUTE

static const struct route routes[] = {
#define ROUTE(name, fn, dialect, open, fields, help) { name, fn, dialect, open, fields, help },
#include "server/route.def"
#undef ROUTE
};

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

static bool only(const char *s, const char *more)
{
    for (; *s; s++)
        if (!strchr(letters, *s) && !strchr(more, *s))
            return false;
    return true;
}

static void new_id(struct call *c)
{
    const char *theirs = header_in(c, "x-request-id");
    uint8_t raw[16] = { 0 };
    size_t n = theirs ? strlen(theirs) : 0;

    if (n > 0 && n < sizeof(c->id) && only(theirs, "._-")) {
        memcpy(c->id, theirs, n + 1);
        return;
    }
    c->odd_id = theirs != NULL;
    if (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
        BUG("getrandom: %s", strerror(errno));
    for (size_t i = 0; i < sizeof(raw); i++)
        snprintf(c->id + 2 * i, 3, "%02x", raw[i]);
}

/* 00-TRACE-SPAN-FLAGS in small hexadecimal letters; anything else is none. */
static void read_trace(struct call *c)
{
    static const char form[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
    const char *theirs = header_in(c, "traceparent");

    if (!theirs || strlen(theirs) != sizeof(form) - 1)
        return;
    for (size_t i = 0; form[i]; i++)
        if (form[i] == 'x' ? !strchr("0123456789abcdef", theirs[i]) : theirs[i] != form[i])
            return;
    memcpy(c->trace, theirs, sizeof(form));
}

/* What a proxy in front may have read otherwise than we do: two lengths, or a length and an
 * encoding; names that are none; an encoding spelt in another way. NULL = all is clear. */
static const char *unclear(const struct call *c)
{
    const struct evkeyvalq *in = evhttp_request_get_input_headers(c->req);
    const struct evkeyval *h;
    int lengths = 0, encodings = 0, hosts = 0;
    bool empty = false;

    for (h = in->tqh_first; h; h = h->next.tqe_next) {
        const bool length = strcasecmp(h->key, "Content-Length") == 0;
        const bool encoding = strcasecmp(h->key, "Transfer-Encoding") == 0;

        if (!*h->key || !only(h->key, "!#$%&'*+-.^_`|~"))
            return "a header's name is not a token";
        for (const char *p = h->value; *p; p++)
            if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
                return "a header holds a control character";
        if (length && h->value[strspn(h->value, "0123456789")])
            return "Content-Length is not a number";
        empty |= length && strspn(h->value, "0") == strlen(h->value);
        if (encoding && strcasecmp(h->value, "chunked") != 0)
            return "the only Transfer-Encoding is chunked";
        lengths += length;
        encodings += encoding;
        hosts += strcasecmp(h->key, "Host") == 0;
    }
    if (lengths + encodings > 1)
        return "the request's length is ambiguous";
    if (encodings + lengths && !empty && evhttp_request_get_command(c->req) != EVHTTP_REQ_POST)
        return "only a POST has a body"; /* libevent would take it for the next request */
    if (hosts != 1 && (hosts > 1 || c->req->minor > 0))
        return "HTTP/1.1 needs one Host header";
    if (c->req->uri && strchr(c->req->uri, '#'))
        return "the target holds a fragment";
    return NULL;
}

/* A page of another site may give this machine's address a name of its own (DNS rebinding): a name
 * in the Host header must be one we are known by. An address cannot be such a name. */
static bool host_is_ours(const struct call *c)
{
    static const char *const local[] = { "localhost" };
    const char *host = header_in(c, "Host");
    const struct server_opts *o = &c->s->o;
    char address[64];
    uint8_t bytes[16];
    size_t n;

    if (!host)
        return true;
    n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (n > strlen(host))
        return false;
    if (n < sizeof(address)) {
        memcpy(address, host + (*host == '['), n);
        address[*host == '[' ? n - 2 : n] = 0;
        if (inet_pton(*host == '[' ? AF_INET6 : AF_INET, address, bytes) == 1)
            return true;
    }
    return listed(local, ARRAY_LEN(local), host, n) || listed(o->hosts, o->n_hosts, host, n) ||
           (strlen(o->host) == n && strncasecmp(o->host, host, n) == 0) || o->n_keys > 0;
}

static bool origin_is_listed(const struct call *c)
{
    const char *origin = header_in(c, "Origin");

    return origin && listed(c->s->o.origins, c->s->o.n_origins, origin, strlen(origin));
}

/* A browser says which page calls. A POST of one that is not listed is refused; what a GET shows
 * cannot be read by it. */
static bool origin_is_ours(const struct call *c)
{
    const char *origin = header_in(c, "Origin"), *host = header_in(c, "Host");
    const char *name = origin ? strstr(origin, "://") : NULL;

    return !origin || evhttp_request_get_command(c->req) != EVHTTP_REQ_POST ||
           origin_is_listed(c) || (name && host && strcasecmp(name + 3, host) == 0);
}

static bool key_is_right(struct call *c)
{
    const struct server *s = c->s;
    const char *auth = header_in(c, "Authorization"), *key = header_in(c, "api-key"); /* Azure's */
    uint8_t hash[SHA256_DIGEST_LENGTH];
    bool right = false;

    if (s->o.n_keys == 0)
        return true;
    if (auth && strncasecmp(auth, "Bearer ", 7) == 0)
        key = auth + 7;
    if (!key)
        return false;
    SHA256((const uint8_t *)key, strlen(key), hash);
    for (size_t i = 0; i < s->o.n_keys; i++) { /* all of them, in equal time */
        const bool this = CRYPTO_memcmp(hash, s->http->keys[i].hash, sizeof(hash)) == 0;

        right |= this;
        c->key += this * (i - c->key);
    }
    return right;
}

/* A key may send per_minute requests at once; then one for each of its minute's parts. */
static bool has_turn(struct call *c)
{
    const double most = (double)c->s->o.per_minute, now = clock_seconds();
    struct key *k = &c->s->http->keys[c->key];

    if (most <= 0)
        return true;
    k->left += (now - k->at) * most / 60;
    k->left = k->left < most ? k->left : most;
    k->at = now;
    call_header(c, "x-ratelimit-limit-requests", "%.0f", most);
    call_header(c, "x-ratelimit-remaining-requests", "%.0f", k->left < 1 ? 0 : floor(k->left - 1));
    if (k->left < 1) {
        call_header(c, "Retry-After", "%.0f", ceil((1 - k->left) * 60 / most));
        return false;
    }
    k->left--;
    return true;
}

static int read_body(struct call *c, struct err *e)
{
    struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
    const size_t n = evbuffer_get_length(in);
    const char *p = n ? (const char *)evbuffer_pullup(in, -1) : "";

    if (!p)
        return err_set(e, ERR_MEMORY, "no memory for a body of %zu bytes", n);
    if (n == 0)
        return err_set(e, ERR_USAGE, "the request has no body; a JSON object is expected");
    if (json_parse(&c->body, p, n, "request", e)) {
        e->code = ERR_USAGE;
        return -1;
    }
    if (!json_is_object(c->body))
        return err_set(e, ERR_USAGE, "the request's body must be a JSON object");
    return 0;
}

static const char *method_name(enum evhttp_cmd_type m)
{
    return m == EVHTTP_REQ_GET || m == EVHTTP_REQ_HEAD ? "GET"
           : m == EVHTTP_REQ_POST                      ? "POST"
           : m == EVHTTP_REQ_OPTIONS                   ? "OPTIONS"
                                                       : "?";
}

const struct route *route_table(size_t *n)
{
    *n = ARRAY_LEN(routes);
    return routes;
}

/* The route of a path; *other: the path exists under another method. */
static const struct route *find_route(const struct server_opts *o, const char *method,
                                      const char *path, bool *other)
{
    if (o->health_route && strcmp(path, o->health_route) == 0)
        path = "/health";
    if (o->predict_route && strcmp(path, o->predict_route) == 0)
        path = "/vertex";
    *other = false;
    for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
        const char *of_route = strchr(routes[i].name, ' ') + 1;
        const size_t n = strlen(of_route);

        if (of_route[n - 1] == '*' ? strncmp(of_route, path, n - 1) != 0 || !path[n - 1]
                                   : strcmp(of_route, path) != 0)
            continue;
        if (strncmp(routes[i].name, method, strlen(method)) == 0)
            return &routes[i];
        *other = true;
    }
    return NULL;
}

char *call_tail(const struct call *c)
{
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(c->req));

    return evhttp_uridecode(path + strlen(strchr(c->route->name, ' ') + 1) - 1, 0, NULL);
}

static bool is_json(const char *type)
{
    return type && strncasecmp(type, "application/json", 16) == 0 &&
           (type[16] == 0 || type[16] == ';' || type[16] == ' ');
}

/* A browser asks before it sends: yes to pages that are listed. The OpenAI client's headers have
 * names that change, so that any token is allowed. */
static void preflight(struct call *c)
{
    const char *headers = header_in(c, "Access-Control-Request-Headers");

    if (!origin_is_listed(c)) {
        reply_status(c, 403, "invalid_request_error", "origin_not_allowed",
                     "pages of this origin may not call (--cors-allow-origin)");
        return;
    }
    call_header(c, "Access-Control-Allow-Methods", "GET, POST");
    call_header(c, "Access-Control-Allow-Headers", "%s",
                headers && strlen(headers) < 500 && only(headers, "-_, ")
                    ? headers
                    : "authorization, content-type");
    call_header(c, "Access-Control-Max-Age", "600");
    reply_text(c, 204, NULL, NULL, 0);
}

/* What must hold before a handler sees the call. */
static bool let_in(struct call *c, const char *method, bool other)
{
    const char *why = unclear(c), *range = header_in(c, "Range");
    struct err e;

    if (why) {
        call_header(c, "Connection", "close");
        reply_status(c, 400, "invalid_request_error", NULL, why);
        return false;
    }
    if (!host_is_ours(c)) {
        reply_status(c, 403, "invalid_request_error", "host_not_allowed",
                     "this server is not known by the name in the Host header (--allowed-host)");
        return false;
    }
    if (!origin_is_ours(c)) {
        reply_status(c, 403, "invalid_request_error", "origin_not_allowed",
                     "pages of this origin may not call (--cors-allow-origin)");
        return false;
    }
    if (strcmp(method, "OPTIONS") == 0) {
        preflight(c);
        return false;
    }
    if (range && strchr(range, ',')) {
        reply_status(c, 416, "invalid_request_error", NULL, "ranges are not served");
        return false;
    }
    if (c->odd_id) {
        reply_status(c, 400, "invalid_request_error", NULL,
                     "x-request-id takes up to 128 letters, digits, dots, dashes and underscores");
        return false;
    }
    if (!c->route) {
        reply_status(c, other ? 405 : 404, "invalid_request_error", "unknown_url",
                     other ? "this path takes another method" : "unknown path");
        return false;
    }
    if (!c->route->open && !key_is_right(c)) {
        call_header(c, "WWW-Authenticate", "Bearer");
        reply_status(c, 401, "invalid_request_error", "invalid_api_key",
                     "a valid API key is required: Authorization: Bearer KEY");
        return false;
    }
    if (strcmp(method, "POST") != 0)
        return true;
    if (!has_turn(c)) {
        metrics_failed(c->s->metrics, F_OVERLOADED);
        reply_status(c, 429, c->dialect == TGI ? "overloaded" : "requests", "rate_limit_exceeded",
                     "this key has sent its requests of this minute; Retry-After has the seconds");
        return false;
    }
    if (header_in(c, "Content-Encoding") || !is_json(header_in(c, "Content-Type"))) {
        reply_status(c, 415, "invalid_request_error", NULL,
                     "the body must be plain JSON: Content-Type: application/json");
        return false;
    }
    if (read_body(c, &e)) {
        reply_error(c, &e);
        return false;
    }
    served_choose(c);
    return true;
}

void door(struct call *c)
{
    const char *method = method_name(evhttp_request_get_command(c->req));
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(c->req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    const char *extra;
    bool other = false;

    new_id(c);
    read_trace(c);
    c->route = path ? find_route(&c->s->o, method, path, &other) : NULL;
    c->dialect = c->s->o.compat_tgi ? TGI : c->route ? c->route->dialect : OPENAI;
    extra = header_in(c, "extra-parameters"); /* Azure's */
    c->strict = c->s->o.strict || (extra && strcmp(extra, "error") == 0);
    if (let_in(c, method, other) && !judge_input(c))
        c->route->fn(c);
}

void door_open(struct server *s)
{
    struct http *h = s->http;

    h->keys = xcalloc(s->o.n_keys + 1, sizeof(*h->keys));
    for (size_t i = 0; i < s->o.n_keys; i++)
        SHA256((const uint8_t *)s->o.keys[i], strlen(s->o.keys[i]), h->keys[i].hash);
    for (size_t i = 0; i <= s->o.n_keys; i++)
        h->keys[i].left = (double)s->o.per_minute;
}

void door_close(struct server *s)
{
    free(s->http->keys);
}
