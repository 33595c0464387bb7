/* chat.h - messages to prompt: exact bytes, and ids in which content can never
 * become a control token (template and content are tokenised apart). */
#ifndef PUNA_TEXT_CHAT_H
#define PUNA_TEXT_CHAT_H

#include <jansson.h>

#include "text/tokenizer.h"

struct prompt {
    struct buf text; /* what a template engine would have printed; valid UTF-8 */
    struct ids ids;  /* control tokens by id + content by tok_encode(TOK_PLAIN) */
};
void prompt_init(struct prompt *p);
void prompt_release(struct prompt *p);

/* A row of chat_format.def.
 *
 * A request is an object: {"messages": [...], "tools"?, "add_generation_prompt"? (default true),
 * "date_string"? ...}; docs/prompt.md lists the fields of each format, unknown ones are ignored.
 * "date_string" is any text, "today" or "none" (no date lines). Messages are as in OpenAI's API:
 * content is text, null or a list of text parts; arguments of tool calls are an object or its JSON
 * text. A tree from pyjson_read keeps numbers and lone surrogates that jansson refuses. */
struct chat_format {
    const char *name; /* "llama3.1", "meta", "chatml", ... : --template NAME */
    const char *what; /* one line for help */
    /* Recognises a model's own template text (and the special tokens it needs). NULL = chosen by
     * name only. */
    bool (*detect)(const struct tok *t, const char *chat_template);
    int (*render)(const struct tok *t, const json_t *request, struct prompt *out, struct err *e);
    bool no_tools; /* refuses tools and tool calls */
    bool builtins; /* reads builtin_tools: the release's own tools have a spelling of theirs */
    /* ids after which a turn is over, by token name, NULL-terminated; and those that only the
     * tokenizer's own template tells, appended (NULL = none) */
    const char *const *stop;
    void (*turn_ends)(const struct tok *t, struct ids *out);
};

/* The format whose template this tokenizer carries: a native one, else `jinja`, which runs it.
 * Refuses a template that does not parse by its line, and says that --template chooses; a
 * tokenizer without a template likewise. */
int chat_detect(const struct chat_format **out, const struct tok *t, struct err *e) MUST_USE;
/* NULL = no such format. */
const struct chat_format *chat_by_name(const char *name);
/* Appends the ids after which a turn is over in this format; an id may come twice. */
void chat_stops(const struct chat_format *f, const struct tok *t, struct ids *out);
/* Names, comma separated, for messages and help. */
const char *chat_names(void);
/* Checks an OpenAI-style request and appends its prompt. On failure *out is as before. */
int chat_render(const struct chat_format *f, const struct tok *t, const json_t *request,
                struct prompt *out, struct err *e) MUST_USE;

/* For a format with no_tools: rewrites the request so that its last user message describes the
 * tools and turns with calls or results are text. */
void chat_spell_tools(json_t *request);

/* A base model's prompt: BOS, where the tokenizer has one, and plain text. */
int chat_base(const struct tok *t, const char *text, size_t n, struct prompt *out,
              struct err *e) MUST_USE;
/* What a run of code says to the model: {"status": "success" or another, "stdout"?, "stderr"?} to
 * "completed" or "failed" with the streams in [stdout]...[/stdout] (Meta's ChatFormat). */
int chat_code_result(const json_t *result, struct buf *out, struct err *e) MUST_USE;
/* The name of one of Llama Guard 3's own hazards, by its code; NULL = none of them. */
const char *chat_guard_category(const char *code);

#endif
