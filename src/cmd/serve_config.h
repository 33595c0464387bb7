/* serve_config.h - options of `puna serve` that come from a file or under other names. */
#ifndef PUNA_CMD_SERVE_CONFIG_H
#define PUNA_CMD_SERVE_CONFIG_H

#include "base/buf.h"
#include "base/err.h"

/* Fills options of cfg that neither the command line nor PUNA_... has given: from variables of
 * text-generation-inference, SageMaker and Vertex AI, then from `file` (NULL = none). *model is the
 * positional, empty or NULL when it was not given. *text holds the file's strings as long as cfg is
 * used. */
int serve_config(void *cfg, const char *model, const char *file, struct buf *text,
                 struct err *e) MUST_USE;
/* The lines of a file of API keys, added to the option api_key; *text holds them. */
int serve_keys(void *cfg, const char *file, struct buf *text, struct err *e) MUST_USE;

#endif
