/* custom.h - tools of the user's own: a function's JSON schema with a command line or an HTTP
 * endpoint that runs it (docs/tools.md). */
#ifndef PUNA_TOOLS_CUSTOM_H
#define PUNA_TOOLS_CUSTOM_H

#include "tools/kit.h"

/* decl: an OpenAI function, bare or in {"type", "function"}, with "command" (a list of texts, or
 * one for the shell) or "url", and "timeout", "env", "method", "headers", "private". */
int custom_add(struct kit *k, const json_t *decl, struct err *e) MUST_USE;

#endif
