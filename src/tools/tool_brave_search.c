/* tool_brave_search.c - web search over Brave's API (api-dashboard.search.brave.com, "Web search"),
 * told in the form that Llama 3.1 was trained on: {"query", "top_k": [{"title", "url",
 * "description", "type": "search_result"}]}. */
#include <string.h>

#include <jansson.h>

#include "tools/service.h"

enum { RESULTS = 5 };

/* The i-th result of a group: web, news, videos, faq, ... */
static void add(json_t *top, const json_t *answer, const char *group, size_t i)
{
    const json_t *r = json_array_get(
        json_object_get(json_object_get(answer, strcmp(group, "search") ? group : "web"),
                        "results"),
        i);
    const bool faq = strcmp(group, "faq") == 0;
    json_t *title = json_object_get(r, faq ? "question" : "title"),
           *what = json_object_get(r, faq ? "answer" : "description"),
           *url = json_object_get(r, "url");

    if (json_array_size(top) < RESULTS && json_is_string(title) && json_is_string(url))
        json_array_append_new(top, json_pack("{s:O, s:O, s:O?, s:s}", "title", title, "url", url,
                                             "description", json_is_string(what) ? what : NULL,
                                             "type", "search_result"));
}

static json_t *shape(const json_t *answer, const char *question, size_t n)
{
    const json_t *order = json_object_get(json_object_get(answer, "mixed"), "main");
    json_t *top = json_array(), *v;
    size_t i;

    if (!json_is_object(answer)) {
        json_decref(top);
        return NULL;
    }
    json_array_foreach((json_t *)(uintptr_t)order, i, v)
    {
        const char *type = json_string_value(json_object_get(v, "type"));
        const json_int_t at = json_integer_value(json_object_get(v, "index"));
        const bool all = json_is_true(json_object_get(v, "all"));

        for (size_t k = 0; type && at >= 0 && k < (all ? RESULTS : 1); k++)
            add(top, answer, type, all ? k : (size_t)at);
    }
    for (i = 0; !order && i < RESULTS; i++)
        add(top, answer, "web", i);
    return json_pack("{s:s%, s:o}", "query", question, n, "top_k", top);
}

static const struct service brave = {
    .name = "brave_search",
    .key_env = "BRAVE_SEARCH_API_KEY",
    .url_env = "BRAVE_SEARCH_URL",
    .url = "https://api.search.brave.com/res/v1/web/search",
    .key_field = "X-Subscription-Token",
    .ask = "q",
    .more = "&count=5",
    .shape = shape,
};

static int check(struct err *e)
{
    return service_check(&brave, e);
}

static int run(struct tool_session *s, const char *input, size_t n, struct tool_result *r,
               struct err *e)
{
    (void)s;
    return service_ask(&brave, input, n, r, e);
}

const struct tool tool_brave_search = {
    .name = "brave_search",
    .what = "web search with Brave",
    .arg = "query",
    .check = check,
    .run = run,
};
