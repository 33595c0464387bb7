/* toolcall_answer.c - the events of one answer, collected. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/toolcall.h"

void tool_answer_init(struct tool_answer *a)
{
    *a = (struct tool_answer){ 0 };
    buf_init(&a->content, SIZE_MAX);
}

static void call_release(struct tool_call *c)
{
    free(c->name);
    buf_release(&c->args);
}

void tool_answer_release(struct tool_answer *a)
{
    buf_release(&a->content);
    for (size_t i = 0; i < a->n; i++)
        call_release(&a->calls[i]);
    free(a->calls);
    *a = (struct tool_answer){ 0 };
}

static void on_content(void *arg, const char *p, size_t n)
{
    struct tool_answer *a = arg;

    buf_add(&a->content, p, n);
    if (a->on_content)
        a->on_content(a->arg, p, n);
}

static void on_begin(void *arg, size_t index, const char *id, const char *name)
{
    struct tool_answer *a = arg;
    struct tool_call *c;

    BUG_ON(index != a->n);
    a->calls = xrealloc(a->calls, (a->n + 1) * sizeof(*a->calls));
    c = &a->calls[a->n++];
    BUG_ON(strlen(id) >= sizeof(c->id));
    memcpy(c->id, id, strlen(id) + 1);
    c->name = xstrdup(name);
    buf_init(&c->args, SIZE_MAX);
}

static void on_args(void *arg, size_t index, const char *p, size_t n)
{
    struct tool_answer *a = arg;

    BUG_ON(index + 1 != a->n);
    buf_add(&a->calls[index].args, p, n);
}

void tool_answer_drop(struct tool_answer *a)
{
    call_release(&a->calls[--a->n]);
}

static void on_cancel(void *arg, size_t index)
{
    struct tool_answer *a = arg;

    BUG_ON(index + 1 != a->n);
    tool_answer_drop(a);
}

static void on_end(void *arg, enum tool_stop stop)
{
    struct tool_answer *a = arg;

    a->stop = stop;
}

struct tool_events tool_answer_events(struct tool_answer *a)
{
    return (struct tool_events){
        .arg = a,
        .content = on_content,
        .call_begin = on_begin,
        .call_args = on_args,
        .call_cancel = on_cancel,
        .end = on_end,
    };
}

const char *tool_stop_name(enum tool_stop stop)
{
    return stop == TOOL_END_OF_TURN      ? "end_of_turn"
           : stop == TOOL_END_OF_MESSAGE ? "end_of_message"
                                         : "out_of_tokens";
}

const char *tool_finish_reason(enum tool_stop stop, size_t calls)
{
    return calls ? "tool_calls" : stop == TOOL_OUT_OF_TOKENS ? "length" : "stop";
}
