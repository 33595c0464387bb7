/* field.h - the fields that bodies of requests may have: field.def as a table. */
#ifndef PUNA_SERVER_FIELD_H
#define PUNA_SERVER_FIELD_H

#include "server/http.h"

enum {
    IN_CHAT = 1,
    IN_COMPLETIONS = 2,
    IN_EMBEDDINGS = 4,
    IN_TGI = 8,
    IN_PARAMETERS = 16, /* of IN_TGI's `parameters` */
    IN_VERTEX = 32,
    IN_ADAPTER = 64,
    IGNORED = 128,
    IN_TOKENIZE = 256, /* vLLM's form of /tokenize, and /detokenize */
    IN_MODERATIONS = 512,
    IN_MODELS = 1024, /* /models/load and /models/unload */
};

struct field {
    const char *name;
    const char *types; /* JSON types between blanks; "!...": the field must be there */
    unsigned where;
    const char *help;
};

/* All of them; ends with a name of NULL. */
extern const struct field server_fields[];

/* Names fields of body that are not used in x-puna-ignored. In strict mode an unknown one is an
 * error, as it is for OpenAI. */
/* Whether a field of this name is one of the sets `where`. */
bool field_known(const char *name, unsigned where);
int fields_check(struct call *c, const json_t *body, unsigned where, struct err *e) MUST_USE;

#endif
