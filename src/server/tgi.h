/* tgi.h - requests of text-generation-inference's own API, for the routes that share them. */
#ifndef PUNA_SERVER_TGI_H
#define PUNA_SERVER_TGI_H

#include "engine/request.h"
#include "server/gen.h"

/* One {"inputs", "parameters"}. */
struct tgi {
    bool stream, details, input_details, full_text,
        array; /* array: the whole answer is a list of one */
    bool has_seed, sample, seeded;
    size_t top, best_of, truncate;
    const char *inputs; /* borrowed from the body */
    size_t n_inputs;
    const struct lora *adapter; /* of adapter_id; NULL = the model itself */
    struct ids prompt;          /* owned */
    struct grammar *grammar;    /* NULL = any text; a reference */
    double checked_s;           /* seconds that reading and checking took */
    bool failed;
};

/* Reads body (borrowed, as mem is) into *r and *t, the ids of the prompt included. Errors are
 * TGI's, word for word where it has one. */
int tgi_read(struct tgi *t, struct gen_request *r, struct request_mem *mem, struct call *c,
             const json_t *body, struct err *e) MUST_USE;
void tgi_free(void *t);
/* Generates for c->body. */
void tgi_generate(struct call *c, bool stream, bool array);

#endif
