#include "tools/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/mem.h"

enum { CONNECT_S = 5 };

struct fetch {
    const struct http_request *q;
    struct http_reply *r;
    bool refused; /* an address that is not allowed */
};

/* libcurl and the twenty libraries that it needs are opened by the first request: they would cost
 * every start of the program 3 MiB and some milliseconds. */
#define CURL_FUNCTIONS(F)                                                                          \
    F(easy_init)                                                                                   \
    F(easy_setopt) F(easy_perform) F(easy_getinfo) F(easy_cleanup) F(easy_strerror) F(free)        \
        F(global_init) F(slist_append) F(slist_free_all) F(url) F(url_cleanup) F(url_get)          \
            F(url_set)

#undef curl_easy_setopt /* the header's checks of types */
#undef curl_easy_getinfo

static struct {
#define FIELD(name) __typeof__(curl_##name) *name;
    CURL_FUNCTIONS(FIELD)
#undef FIELD
    char why[256]; /* it could not be opened; "" = it was */
} curl;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void)
{
    void *lib = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);

    if (!lib) {
        snprintf(curl.why, sizeof(curl.why), "%.200s", dlerror());
        return;
    }
#define LOAD(name)                                                                                 \
    if (!(*(void **)(void *)&curl.name = dlsym(lib, "curl_" #name)))                               \
        snprintf(curl.why, sizeof(curl.why), "no curl_" #name " in libcurl.so.4");
    CURL_FUNCTIONS(LOAD)
#undef LOAD
    if (!curl.why[0] && curl.global_init(CURL_GLOBAL_DEFAULT))
        snprintf(curl.why, sizeof(curl.why), "libcurl does not start");
}

void http_reply_init(struct http_reply *r, size_t max)
{
    *r = (struct http_reply){ 0 };
    buf_init(&r->body, max);
}

void http_reply_release(struct http_reply *r)
{
    buf_release(&r->body);
}

void http_escape(struct buf *out, const char *p, size_t n)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (size_t i = 0; i < n; i++)
        if (p[i] && strchr(plain, p[i]))
            buf_addc(out, p[i]);
        else
            buf_addf(out, "%%%02X", (unsigned char)p[i]);
}

/* ---- addresses ---- */

static bool private4(uint32_t a)
{
    static const struct {
        uint32_t net, bits;
    } nets[] = {
        { 0x00000000, 8 },                      /* this network */
        { 0x0A000000, 8 },  { 0x64400000, 10 }, /* carrier-grade NAT */
        { 0x7F000000, 8 },  { 0xA9FE0000, 16 }, /* link-local: cloud metadata too */
        { 0xAC100000, 12 }, { 0xC0000000, 24 }, { 0xC0A80000, 16 },
        { 0xC6120000, 15 }, { 0xE0000000, 3 }, /* multicast and above */
    };

    for (size_t i = 0; i < ARRAY_LEN(nets); i++)
        if ((a ^ nets[i].net) >> (32 - nets[i].bits) == 0)
            return true;
    return false;
}

static bool private6(const uint8_t a[16])
{
    static const uint8_t zero[15];
    uint32_t v4;

    memcpy(&v4, a + 12, 4);
    if (memcmp(a, zero, 10) == 0 && ((a[10] == 0xFF && a[11] == 0xFF) || (a[10] | a[11]) == 0))
        return memcmp(a, zero, 12) == 0 && ntohl(v4) <= 1 ? true : private4(ntohl(v4));
    if (a[0] == 0 && a[1] == 0x64 && a[2] == 0xFF && a[3] == 0x9B) /* 64:ff9b::/96, NAT64 */
        return private4(ntohl(v4));
    return (a[0] & 0xFE) == 0xFC || a[0] == 0xFE || a[0] == 0xFF || a[0] == 0 ||
           (a[0] == 0x20 && a[1] == 0x02); /* 6to4 carries any IPv4 */
}

static bool is_private(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return private4(ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr));
    if (a->sa_family == AF_INET6)
        return private6(((const struct sockaddr_in6 *)(const void *)a)->sin6_addr.s6_addr);
    return true;
}

/* Asked for every address that is about to be connected to, after the name was resolved. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct fetch *f = arg;

    (void)purpose;
    if (!f->q->private && is_private(&a->addr)) {
        f->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* ---- the exchange ---- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct fetch *f = arg;

    buf_add(&f->r->body, p, size * n);
    return f->r->body.full ? 0 : size * n;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct fetch *f = arg;
    const char *want = f->q->want;
    const size_t k = want ? strlen(want) : 0;
    size_t len = size * n;

    if (want && len > k && strncasecmp(p, want, k) == 0 && p[k] == ':') {
        const char *v = p + k + 1;

        len -= k + 1;
        while (len && *v == ' ')
            v++, len--;
        while (len && (v[len - 1] == '\r' || v[len - 1] == '\n' || v[len - 1] == ' '))
            len--;
        if (len < sizeof(f->r->got)) {
            memcpy(f->r->got, v, len);
            f->r->got[len] = 0;
        }
    }
    return size * n;
}

static struct curl_slist *header_list(const struct http_request *q)
{
    struct curl_slist *list = NULL;
    const char *key;
    json_t *v;
    char *line;

    json_object_foreach((json_t *)(uintptr_t)q->headers, key, v)
    {
        if (!json_is_string(v) || strpbrk(key, "\r\n:") || strpbrk(json_string_value(v), "\r\n"))
            continue;
        line = xasprintf("%s: %s", key, json_string_value(v));
        list = curl.slist_append(list, line);
        free(line);
    }
    if (q->body) {
        line = xasprintf("Content-Type: %s", q->type);
        list = curl.slist_append(list, line);
        free(line);
        list = curl.slist_append(list, "Expect:");
    }
    return list;
}

static void set_up(CURL *c, struct fetch *f, struct curl_slist *headers)
{
    const struct http_request *q = f->q;

    curl.easy_setopt(c, CURLOPT_URL, q->url);
    curl.easy_setopt(c, CURLOPT_PROTOCOLS_STR, q->tls ? "https" : "http,https");
    curl.easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl.easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl.easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl.easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(q->seconds * 1e3) + 1);
    curl.easy_setopt(c, CURLOPT_USERAGENT, "puna/" PUNA_VERSION);
    curl.easy_setopt(c, CURLOPT_ACCEPT_ENCODING, "");
    curl.easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl.easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl.easy_setopt(c, CURLOPT_OPENSOCKETDATA, f);
    curl.easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl.easy_setopt(c, CURLOPT_WRITEDATA, f);
    curl.easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl.easy_setopt(c, CURLOPT_HEADERDATA, f);
    if (!q->private)
        curl.easy_setopt(c, CURLOPT_NOPROXY, "*");
    if (q->body) {
        curl.easy_setopt(c, CURLOPT_POST, 1L);
        curl.easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->n_body);
        curl.easy_setopt(c, CURLOPT_POSTFIELDS, q->body);
    }
}

static int host_of(const char *url, char *out, size_t size, struct err *e)
{
    CURLU *u = curl.url();
    char *host = NULL;
    int rc = 0;

    if (!u || curl.url_set(u, CURLUPART_URL, url, 0) || curl.url_get(u, CURLUPART_HOST, &host, 0))
        rc = err_set(e, ERR_USAGE, "not a URL: '%.100s'", url);
    else
        snprintf(out, size, "%.200s", host);
    curl.free(host);
    curl.url_cleanup(u);
    return rc;
}

static int explain(const struct fetch *f, CURLcode code, const char *host, struct err *e)
{
    const struct http_request *q = f->q;

    if (f->refused)
        return err_set(e, ERR_NETWORK,
                       "%.200s is an address of a private network; \"private\": true in the tool's "
                       "file allows it",
                       host);
    if (f->r->body.full)
        return err_set(e, ERR_NETWORK, "%.200s: the answer has more than %zu bytes (limit)", host,
                       f->r->body.max);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(e, ERR_TIMEOUT, "%.200s: no answer within %.3g s", host, q->seconds);
    if (code == CURLE_UNSUPPORTED_PROTOCOL)
        return err_set(e, ERR_USAGE, "%.200s: only %s is spoken", host,
                       q->tls ? "https" : "http and https");
    return err_set(e, ERR_NETWORK, "%.200s: %s", host, curl.easy_strerror(code));
}

int http_fetch(const struct http_request *q, struct http_reply *r, struct err *e)
{
    struct fetch f = { .q = q, .r = r };
    struct curl_slist *headers;
    char host[256];
    const char *type = NULL;
    CURLcode code;
    CURL *c;

    pthread_once(&once, start);
    if (curl.why[0])
        return err_set(e, ERR_NETWORK, "HTTP needs libcurl (Debian's libcurl4): %s", curl.why);
    if (host_of(q->url, host, sizeof(host), e))
        return -1;
    c = curl.easy_init();
    if (!c)
        return err_set(e, ERR_MEMORY, "libcurl cannot be started");
    headers = header_list(q);
    set_up(c, &f, headers);
    code = curl.easy_perform(c);
    curl.easy_getinfo(c, CURLINFO_RESPONSE_CODE, &r->status);
    curl.easy_getinfo(c, CURLINFO_CONTENT_TYPE, &type);
    snprintf(r->type, sizeof(r->type), "%.*s", type ? (int)strcspn(type, "; ") : 0,
             type ? type : "");
    curl.easy_cleanup(c);
    curl.slist_free_all(headers);
    return code == CURLE_OK ? 0 : explain(&f, code, host, e);
}
