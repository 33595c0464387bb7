/* kit.h - the tools that one chat may call: the release's own, the user's (a command or an HTTP
 * endpoint, declared in a file) and those of MCP servers. */
#ifndef PUNA_TOOLS_KIT_H
#define PUNA_TOOLS_KIT_H

#include <jansson.h>

#include "text/chat.h"
#include "tools/tool.h"

enum {
    KIT_TOOLS = 128,          /* at most */
    KIT_RESULT_MAX = 1 << 20, /* bytes that a tool may answer with */
};
#define KIT_TIMEOUT 30.0 /* seconds of a call whose tool names no limit */

struct kit_tool {
    json_t *decl;               /* {"type": "function", "function": {"name", "description",
                                   "parameters"}}; owned */
    const char *name;           /* in decl */
    const struct tool *builtin; /* NULL = the user's own */
    double timeout;             /* seconds of one call */
    /* The user's own: calls it with the object args, whose JSON is also text[0..n). What the tool
     * does wrong is a result that failed; -1 = the same, with the reason in *e alone. Any thread.
     */
    int (*call)(struct kit_tool *t, const json_t *args, const char *text, size_t n, double seconds,
                struct tool_result *r, struct err *e);
    void *own; /* call's; freed with own_free */
    void (*own_free)(void *own);
};

struct kit {
    struct kit_tool tool[KIT_TOOLS];
    size_t n;
    struct tool_session session; /* of the built-in ones; settings may be changed before a call */
    struct mcp **mcp;            /* servers; owned */
    size_t n_mcp;
};

/* spec: names of built-in tools and tool files, comma separated. A built-in one that cannot be used
 * here, two tools of a name and a server that does not answer are refused, with the reason. */
int kit_open(struct kit **out, const char *spec, struct err *e) MUST_USE;
void kit_close(struct kit *k); /* legal on NULL */
/* A tool file that is already parsed; `what` names it. */
int kit_add_file(struct kit *k, const json_t *file, const char *what, struct err *e) MUST_USE;
int kit_add_builtin(struct kit *k, const char *name, struct err *e) MUST_USE;
/* Makes room for a tool; takes decl. */
int kit_add(struct kit *k, json_t *decl, const char *what, struct kit_tool **out,
            struct err *e) MUST_USE;
struct kit_tool *kit_find(struct kit *k, const char *name);
/* Sets the request's tools, builtin_tools (where the format spells them) and parallel_tool_calls.
 */
void kit_declare(const struct kit *k, const struct chat_format *f, json_t *request);
/* Calls a tool for at most `seconds`; built-in ones in session, NULL = the kit's own. Whatever goes
 * wrong is said in r->text to the model: `failed` is set. */
void kit_call(struct kit *k, struct tool_session *session, const char *name, const char *args,
              size_t n, double seconds, struct tool_result *r);
/* NULL, or what is wrong with the arguments by the tool's schema: a name that is not declared, a
 * field that is missing, of another type or none of its enum. The caller frees it. */
char *kit_complaint(const struct kit *k, const char *name, const char *args, size_t n);

#endif
