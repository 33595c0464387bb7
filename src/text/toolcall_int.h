/* toolcall_int.h - the parts that the tool-call parser is built from. Private to src/text. */
#ifndef PUNA_TEXT_TOOLCALL_INT_H
#define PUNA_TEXT_TOOLCALL_INT_H

#include <jansson.h>

#include "base/buf.h"
#include "text/toolcall.h"

/* ---- toolcall_json.c: one JSON value, byte by byte, as models write it ---- */

enum jpipe_where {
    JPIPE_VALUE, /* a value must come */
    JPIPE_FIRST, /* a first element, or the end of the list */
    JPIPE_KEY,   /* a key, or the end of the object */
    JPIPE_COLON,
    JPIPE_MORE, /* a comma, or the end */
    JPIPE_STRING,
    JPIPE_SCALAR,
    JPIPE_DONE,
    JPIPE_ERROR,
};

enum { JPIPE_DEPTH = 256, JPIPE_KEYS = 4, JPIPE_SCALAR_MAX = 1024 };

/* Reads leniently (pyjson.h, PYJSON_LENIENT) and writes canonically: ", " and ": ", double
 * quotes, the shortest escapes, no trailing comma. Every appended byte is final, except what a
 * `value_end` hook rewrites. */
struct jpipe {
    struct buf out;
    enum jpipe_where where;
    char stack[JPIPE_DEPTH];   /* the closing bracket of each open level */
    size_t start[JPIPE_DEPTH]; /* where in out each open level starts */
    size_t depth;
    struct {
        size_t at, n;
    } key[JPIPE_KEYS]; /* of each of the first levels: where in out, without its quotes */
    size_t value_at;   /* where in out the string or number that is being read starts */
    char scalar[JPIPE_SCALAR_MAX];
    size_t n_scalar;
    char quote;         /* the string's */
    bool is_key, comma; /* the string is a key; a comma must precede the next element */
    bool escape;        /* behind a backslash */
    int hex_left;       /* digits of \u or \x still to come */
    int32_t hex, high;  /* their value so far; the first half of a surrogate pair, 0 = none */
    /* Called at the first byte of a value and behind its last, with its depth (0 = the whole). For
     * the value of a key, key[depth - 1] names it. NULL = not called. */
    void (*value_start)(void *arg, size_t depth, char first);
    void (*value_end)(void *arg, size_t depth, size_t from);
    void *arg;
};
void jpipe_init(struct jpipe *j, size_t max);
void jpipe_release(struct jpipe *j);
/* Back to the start; hooks stay. */
void jpipe_reset(struct jpipe *j);
/* One byte of valid UTF-8. JPIPE_DONE as soon as a value that has brackets or quotes is
 * complete; JPIPE_ERROR means that this byte cannot follow. */
void jpipe_byte(struct jpipe *j, char c);
bool jpipe_in_string(const struct jpipe *j);

/* ---- toolcall_python.c: calls with Python's keyword arguments ---- */

/* `[f(a=1), g()]`: appends {"name", "arguments"} objects to calls. False = not such a list. */
bool python_list_read(json_t *calls, const char *p, size_t n);
/* `f.call(query="x"); g.call("y")`, apart by `;` or white space; a lone string argument is
 * `query`, and its text may hold bare quotes when it is the only call. */
bool python_calls_read(json_t *calls, const char *p, size_t n);
/* Bytes of the identifier that p[0..n) starts with. */
size_t python_name(const char *p, size_t n);

/* ---- toolcall_coerce.c: values as the tool's JSON schema wants them ---- */

/* Whether a value of this schema that starts with byte `first` may have to be rewritten. */
bool coerce_wanted(const json_t *schema, char first);
/* The value as the schema's type, or NULL when it is fine or cannot be. The caller owns it. */
json_t *coerce_value(const json_t *schema, const json_t *v);
/* The properties of an object, each by its own schema; returns how many changed. */
size_t coerce_object(const json_t *parameters, json_t *object);

/* ---- toolcall.c: the state machine, and what its parts share ---- */

enum state {
    START,     /* only white space so far */
    TEXT,      /* plain text */
    LEAD,      /* raw[lead..] may start a call */
    OBJECT,    /* inside a JSON object that may be a call */
    TAG,       /* behind <function=NAME> */
    WHOLE,     /* a Python list or calls of built-in tools: read at the end */
    SKIP,      /* the rest of a JSON object that is no call: text */
    AFTER,     /* behind a call: separators wait in raw */
    CODE_LEAD, /* behind <|python_tag|>: a code fence may come */
    CODE,
    LATE,   /* behind a <|python_tag|> that follows text: code only if a tool is awaited */
    HEADER, /* inside an echoed header */
    STOPPED,
};

/* A call that waits longer than this for its name is text (512 bytes cover every layout that
 * models write). */
enum { UNDECIDED_MAX = 512, NAME_MAX_BYTES = 128, RAW_MAX = 256 << 20 };

struct tool_parser {
    struct tool_options o;
    struct tool_events ev;
    enum state state;
    enum tool_stop stop;
    bool stopped;             /* a control token said why */
    bool offered;             /* some tool may be called */
    bool python;              /* behind <|python_tag|>, nothing read yet */
    bool spoken;              /* text other than white space was sent */
    bool list, fence, tagged; /* a closing ] or ``` or </function> may follow the call */
    bool spare;               /* one closing brace too many was seen */
    struct buf text;          /* content that waits for the end of this feed */
    struct buf raw;           /* held back; lead = where the candidate starts in it */
    size_t lead;
    char tail[4]; /* an unfinished character */
    size_t n_tail;
    char mark[32]; /* tool_parser_markup: an unfinished control name */
    size_t n_mark;

    /* the candidate */
    struct jpipe j;
    bool nested; /* inside {"function": {...}} */
    char name[NAME_MAX_BYTES];
    bool has_name, begun, done, whole; /* whole: arguments are sent at once, at their end */
    bool has_args, in_args, args_done;
    size_t args_depth, sent, hold; /* j.out: sent so far; not final from here (SIZE_MAX = all is) */
    struct buf args;               /* of a call that is sent whole */
    bool fenced;       /* CODE: a fence was opened, and what may close it waits in raw */
    struct buf code;   /* CODE: not sent yet */
    int skip_newlines; /* behind an echoed header */

    size_t calls, ids, coerced;
    const struct tok *tok; /* whose control tokens these are */
    int32_t control[8];
};

/* ---- toolcall_call.c: what is sent; the JSON object that may be a call ---- */

/* The declared function of this name, or NULL. */
const json_t *tp_tool(const struct tool_parser *p, const char *name);
/* Whether a tool of this name may be called. */
bool tp_declared(const struct tool_parser *p, const char *name);
/* Content: kept until the end of a feed, and sent. */
void tp_say(struct tool_parser *p, const char *s, size_t n);
void tp_flush_text(struct tool_parser *p);
/* The events of one call; its arguments come as JSON text in pieces. */
void tp_call_begin(struct tool_parser *p, const char *name);
void tp_call_args(struct tool_parser *p, const char *s, size_t n);
void tp_call_end(struct tool_parser *p);
/* A whole call: its arguments are given their types, and for a built-in tool without a schema made
 * into its one `query`. args stays the caller's, and may be changed. */
void tp_call_whole(struct tool_parser *p, const char *name, json_t *args);
/* Nothing is known of the next candidate; its object is read by p->j, whose hooks fill it in. */
void tp_reset(struct tool_parser *p);
/* The value that starts now, at this depth of p->j, is the call's arguments. */
void tp_args_begin(struct tool_parser *p, size_t depth);
/* Sends of the candidate what is certain; and of its arguments what is final. */
void tp_send(struct tool_parser *p);
void tp_args_flush(struct tool_parser *p);

/* ---- toolcall_judge.c: how a call may start ---- */

enum verdict { NO, MORE, IS_OBJECT, IS_TAG, IS_WHOLE, IS_CLOSE };

/* What p->raw from p->lead on is, so far; `first`: nothing came before it. Sets the candidate's
 * name for IS_TAG, and what has to be closed behind the call. */
enum verdict tp_judge(struct tool_parser *p, bool first);
/* Whether the object at p->raw's lead, whose name is known, may be a call: of a declared tool, and
 * with `exact` in the exact form. */
bool tp_object_counts(const struct tool_parser *p);
bool tp_name_declared(const struct tool_parser *p, const char *s, size_t n);
bool tp_is_prefix(const char *s, size_t n, const char *of);
/* The first place from i on that is not white space. */
size_t tp_skip_blanks(const char *s, size_t i, size_t n);

#define TOOL_TAG_OPEN  "<function="
#define TOOL_TAG_CLOSE "</function>"

#endif
