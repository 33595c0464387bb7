#include "tools/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/pyjson.h"
#include "tools/http.h"

enum { QUESTION_MAX = 400, ANSWER_MAX = 1 << 20 }; /* bytes */
static const double timeout_s = 20;

int service_check(const struct service *s, struct err *e)
{
    const char *key = getenv(s->key_env);

    return key && *key
               ? 0
               : err_set(e, ERR_AUTH, "%s needs a key in the environment: %s", s->name, s->key_env);
}

static int read_answer(const struct service *s, const struct http_reply *a, const char *question,
                       size_t n, struct tool_result *r, struct err *e)
{
    json_t *answer, *shaped;

    if (a->status == 401 || a->status == 403)
        return err_set(e, ERR_AUTH, "%s refuses the key in %s (status %ld)", s->name, s->key_env,
                       a->status);
    if (a->status != 200)
        return err_set(e, ERR_NETWORK, "%s answers with status %ld%s", s->name, a->status,
                       a->status == 429 ? ": too many questions for this key" : "");
    if (json_parse(&answer, a->body.p, a->body.len, s->name, e))
        return -1;
    shaped = s->shape(answer, question, n);
    json_decref(answer);
    if (!shaped)
        return err_set(e, ERR_FORMAT, "%s answers in a form that is not its documented one",
                       s->name);
    pyjson_write(&r->text, shaped, 0, 0);
    json_decref(shaped);
    return buf_check(&r->text, s->name, e);
}

int service_ask(const struct service *s, const char *question, size_t n, struct tool_result *r,
                struct err *e)
{
    const char *key = getenv(s->key_env), *other = getenv(s->url_env);
    json_t *headers = json_pack("{s:s}", "Accept", "application/json");
    struct http_reply a;
    struct buf url;
    int rc = -1;

    buf_init(&url, 1 << 16);
    http_reply_init(&a, ANSWER_MAX);
    if (n == 0 || n > QUESTION_MAX) {
        err_set(e, ERR_USAGE, "the query has %zu bytes; 1 to %d are taken", n, QUESTION_MAX);
        goto done;
    }
    if (service_check(s, e))
        goto done;
    buf_addf(&url, "%s?%s=", other ? other : s->url, s->ask);
    http_escape(&url, question, n);
    buf_adds(&url, s->more);
    if (s->key_field) {
        json_object_set_new(headers, s->key_field, json_string(key));
    } else {
        buf_addf(&url, "&%s=", s->key_query);
        http_escape(&url, key, strlen(key));
    }
    const struct http_request q = {
        .url = url.p, .headers = headers, .seconds = timeout_s, .private = true, .tls = !other
    };

    if (http_fetch(&q, &a, e) == 0)
        rc = read_answer(s, &a, question, n, r, e);
done:
    buf_release(&url);
    http_reply_release(&a);
    json_decref(headers);
    return rc;
}
