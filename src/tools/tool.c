/* tool.c - the table of tools. */
#include "tools/tool.h"

#include <string.h>

#define TOOL(name) extern const struct tool tool_##name;
#include "tools/tool.def"
#undef TOOL

static const struct tool *const tools[] = {
#define TOOL(name) &tool_##name,
#include "tools/tool.def"
#undef TOOL
};

const struct tool *const *tool_all(size_t *n)
{
    *n = ARRAY_LEN(tools);
    return tools;
}

const struct tool *tool_by_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(tools); i++)
        if (strcmp(tools[i]->name, name) == 0)
            return tools[i];
    return NULL;
}

void tool_result_init(struct tool_result *r)
{
    *r = (struct tool_result){ 0 };
    buf_init(&r->text, 1 << 20);
    buf_init(&r->images, 1 << 16);
}

void tool_result_release(struct tool_result *r)
{
    buf_release(&r->text);
    buf_release(&r->images);
}

void tool_session_init(struct tool_session *s)
{
    *s = (struct tool_session){ .code_limits = code_limits_default };
    pthread_mutex_init(&s->lock, NULL);
}

void tool_session_release(struct tool_session *s)
{
    code_free(s->code);
    s->code = NULL;
    pthread_mutex_destroy(&s->lock);
}
