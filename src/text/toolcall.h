/* toolcall.h - a model's raw answer read into text, tool calls and a stop reason, while it
 * comes.
 *
 * One state machine serves streams and whole answers, so both agree whatever the cuts. It
 * reads JSON calls, `<function=NAME>{...}</function>`, built-in calls `NAME.call(query="...")`,
 * Python lists `[f(a=1)]` and, behind <|python_tag|>, code. Reading never fails: what is no call
 * is text. Control tokens come by id; their names in ordinary text mean nothing. */
#ifndef PUNA_TEXT_TOOLCALL_H
#define PUNA_TEXT_TOOLCALL_H

#include <jansson.h>

#include "text/tokenizer.h"

struct tool_parser;

enum tool_stop {
    TOOL_END_OF_TURN,    /* <|eot_id|>, <|end_of_text|>, or the end of the text */
    TOOL_END_OF_MESSAGE, /* <|eom_id|>: a tool is awaited */
    TOOL_OUT_OF_TOKENS,  /* cut by a length limit */
};
const char *tool_stop_name(enum tool_stop stop); /* "end_of_turn", ... */

/* What is read, in order. All text is valid UTF-8 in whole characters. NULL = not wanted. */
struct tool_events {
    void *arg;
    void (*content)(void *arg, const char *p, size_t n);
    /* Calls are numbered from 0. The name is known, and arguments follow. */
    void (*call_begin)(void *arg, size_t index, const char *id, const char *name);
    /* A further part of the arguments, which together are one JSON object. */
    void (*call_args)(void *arg, size_t index, const char *p, size_t n);
    void (*call_end)(void *arg, size_t index);
    /* The call that was begun last turned out to be none: it was cut off by the length limit or
     * its arguments are not JSON. Its text follows as content, and its index is used again. */
    void (*call_cancel)(void *arg, size_t index);
    void (*end)(void *arg, enum tool_stop stop);
};

struct tool_options {
    /* Declared tools: a list of {"type": "function", "function": {"name", "parameters"?}} or of
     * {"name", "parameters"?}; NULL = none. Borrowed. */
    const json_t *tools;
    const json_t *builtin_tools; /* names of built-in tools that are on; NULL = none. Borrowed. */
    bool code; /* `Environment: ipython` was on: code behind <|python_tag|> is a call */
    bool any;  /* every name counts as declared */
    /* Functions are called only in the form that a grammar binds (grammar/read.h, read_tools with
     * free): {"name": "NAME" or {"type": "function", "name": "NAME" at the start of an object. */
    bool exact;
    bool coerce;   /* top-level arguments take the type that the tool's schema declares */
    uint64_t seed; /* of the call ids */
};

struct tool_parser *tool_parser_new(const struct tool_options *o, const struct tool_events *ev);
void tool_parser_free(struct tool_parser *p);

enum tool_control {
    TOOL_PYTHON_TAG,
    TOOL_EOM,
    TOOL_EOT, /* or any other token that ends the turn */
    TOOL_HEADER_START,
    TOOL_HEADER_END,
};
/* Bytes of plain text, cut anywhere. After the first stopping token everything is ignored. */
void tool_parser_text(struct tool_parser *p, const char *text, size_t n);
void tool_parser_control(struct tool_parser *p, enum tool_control kind);
/* A token: one of the control tokens by its id (ids that end a turn included), or its bytes.
 * Other special tokens give nothing. */
void tool_parser_token(struct tool_parser *p, const struct tok *t, int32_t id);
/* Text in which control tokens are spelt out, as a log shows them; inside a string of a
 * JSON call they are ordinary text. */
void tool_parser_markup(struct tool_parser *p, const char *text, size_t n);
/* The end of the answer; `stop` is why it ended unless a control token already said so. To be
 * called once. */
void tool_parser_end(struct tool_parser *p, enum tool_stop stop);

/* Whether what was read so far breaks off inside code or a call that is not closed. */
bool tool_parser_open(const struct tool_parser *p);
size_t tool_parser_calls(const struct tool_parser *p);   /* begun and not cancelled */
size_t tool_parser_coerced(const struct tool_parser *p); /* arguments that were given a new type */

/* A whole answer. */
struct tool_call {
    char id[32];
    char *name;      /* owned */
    struct buf args; /* a JSON object */
};
struct tool_answer {
    struct buf content;
    struct tool_call *calls; /* owned */
    size_t n;
    enum tool_stop stop;
    /* hears content, too, as it comes; NULL = nobody */
    void (*on_content)(void *arg, const char *p, size_t n);
    void *arg;
};
void tool_answer_init(struct tool_answer *a);
void tool_answer_release(struct tool_answer *a);
/* Forgets the last call. */
void tool_answer_drop(struct tool_answer *a);
/* Events that fill a. */
struct tool_events tool_answer_events(struct tool_answer *a);
/* OpenAI's finish_reason: "tool_calls", "length" or "stop". */
const char *tool_finish_reason(enum tool_stop stop, size_t calls);

#endif
