/* chat_int.h - what the chat formats share. */
#ifndef PUNA_TEXT_CHAT_INT_H
#define PUNA_TEXT_CHAT_INT_H

#include "text/chat.h"

/* ---- writing ---- */

/* Writes a prompt; after the first failure it does nothing more. */
struct pen {
    struct prompt *p;
    const struct tok *t;
    struct err *e;
    bool failed;
};
/* One control token by name. */
void pen_control(struct pen *w, const char *name);
/* Plain text, in which nothing is a control token. What is given in one call is tokenised
 * together. */
void pen_text(struct pen *w, const char *text, size_t n);
void pen_str(struct pen *w, const char *text);
/* <|start_header_id|>role<|end_header_id|> LF LF */
void pen_header(struct pen *w, const char *role);
int pen_done(const struct pen *w) MUST_USE; /* 0 or -1 */

/* ---- reading ---- */

/* A request's messages: a list of objects, not empty. */
int chat_messages(const json_t *request, json_t **out, struct err *e) MUST_USE;
enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL };
/* Message i, its role, and role names: "ipython" is what "tool" is in a Llama prompt. */
int chat_role(const json_t *message, size_t i, enum role *out, struct err *e) MUST_USE;
/* Appends the content: text, the text parts of a list, nothing for null. Anything else is refused
 * by its type. */
int chat_content(const json_t *message, size_t i, struct buf *out, struct err *e) MUST_USE;
/* Python's str.strip() */
void chat_trim(const char **p, size_t *n);

struct call {
    const char *name; /* borrowed from the message */
    size_t name_len;
    json_t *args; /* an object, owned */
};
/* Call k of message i: {"function": {"name", "arguments"}} or {"name", "arguments"}. */
int chat_call(const json_t *call, size_t i, size_t k, struct call *out, struct err *e) MUST_USE;
void chat_call_release(struct call *c);

/* "23 Jul 2024", or with the month's full name: English whatever the locale. */
void chat_today(char out[32], bool full);
/* Turns a date of the form 2024-07-23 into "23 July 2024". */
int chat_iso_date(const char *iso, char out[32], struct err *e) MUST_USE;

/* ---- recognising ---- */

/* -1 = the template t carries cannot be read, or fails on one user's message: what it would do
 * beyond the subset (attributes of Python's objects, endless loops) is refused before it is used */
int chat_jinja_check(const struct tok *t, struct err *e) MUST_USE;

/* A template without what does not matter: comments, white space and dashes of tags, kinds of
 * quotes (which become backquotes). malloc'd. *prints = there is text outside of tags. */
char *template_canon(const char *text, bool *prints);
/* True when the parts stand in the canonical text in this order, and they are all that it prints
 * and sets: there are as many "{{" and "{%set" as parts that start with them. */
bool template_has(const char *canon, const char *const *parts, size_t n);

#endif
