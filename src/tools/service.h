/* service.h - what the built-in tools behind somebody else's API share: the user's key from the
 * environment, and one question. */
#ifndef PUNA_TOOLS_SERVICE_H
#define PUNA_TOOLS_SERVICE_H

#include <jansson.h>

#include "tools/tool.h"

struct service {
    const char *name;      /* of the tool */
    const char *key_env;   /* holds the user's key */
    const char *url_env;   /* may hold another address, as of a proxy or a stand-in */
    const char *url;       /* else this one, https alone */
    const char *key_field; /* the key goes into this header, or */
    const char *key_query; /* this parameter of the query; NULL = not there */
    const char *ask;       /* the query's parameter for the question */
    const char *more;      /* the rest of the query: "&count=5" */
    /* The service's answer (an object, borrowed) as what the model is told; NULL = it is none. */
    json_t *(*shape)(const json_t *answer, const char *question, size_t n);
};

int service_check(const struct service *s, struct err *e) MUST_USE;
int service_ask(const struct service *s, const char *question, size_t n, struct tool_result *r,
                struct err *e) MUST_USE;

#endif
