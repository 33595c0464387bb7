/* tool_wolfram_alpha.c - computed answers from Wolfram|Alpha's Full Results API
 * (products.wolframalpha.com/api/documentation), cut down to what a model can use: the question as
 * it was understood and the pods up to the result. */
#include <string.h>

#include <jansson.h>

#include "tools/service.h"

static json_t *pod(const json_t *p)
{
    json_t *parts = json_array(), *v, *out;
    size_t i;

    json_array_foreach(json_object_get(p, "subpods"), i, v)
    {
        const char *title = json_string_value(json_object_get(v, "title"));
        const char *text = json_string_value(json_object_get(v, "plaintext"));

        json_array_append_new(parts, json_pack("{s:s, s:s}", "title", title ? title : "",
                                               "plaintext", text ? text : ""));
    }
    out = json_pack("{s:O?}", "title", json_object_get(p, "title"));
    if (json_is_true(json_object_get(p, "primary")))
        json_object_set_new(out, "primary", json_true());
    json_object_set_new(out, "subpods", parts);
    return out;
}

static json_t *shape(const json_t *answer, const char *question, size_t n)
{
    const json_t *q = json_object_get(answer, "queryresult");
    const char *input = json_string_value(json_object_get(q, "inputstring"));
    json_t *pods = json_array(), *v;
    size_t i;

    json_array_foreach(json_object_get(q, "pods"), i, v)
    {
        const char *title = json_string_value(json_object_get(v, "title"));

        json_array_append_new(pods, pod(v));
        if (title && strcmp(title, "Result") == 0)
            break;
    }
    if (!json_is_object(q)) {
        json_decref(pods);
        return NULL;
    }
    return json_pack("{s:{s:b, s:s%, s:o}}", "queryresult", "success",
                     (int)json_is_true(json_object_get(q, "success")), "inputstring",
                     input ? input : question, input ? strlen(input) : n, "pods", pods);
}

static const struct service wolfram = {
    .name = "wolfram_alpha",
    .key_env = "WOLFRAM_ALPHA_API_KEY",
    .url_env = "WOLFRAM_ALPHA_URL",
    .url = "https://api.wolframalpha.com/v2/query",
    .key_query = "appid",
    .ask = "input",
    .more = "&format=plaintext&output=json",
    .shape = shape,
};

static int check(struct err *e)
{
    return service_check(&wolfram, e);
}

static int run(struct tool_session *s, const char *input, size_t n, struct tool_result *r,
               struct err *e)
{
    (void)s;
    return service_ask(&wolfram, input, n, r, e);
}

const struct tool tool_wolfram_alpha = {
    .name = "wolfram_alpha",
    .what = "computed answers from Wolfram|Alpha",
    .arg = "query",
    .check = check,
    .run = run,
};
