/* schema_int.h - what the files of the JSON schema reader share. */
#ifndef PUNA_GRAMMAR_SCHEMA_INT_H
#define PUNA_GRAMMAR_SCHEMA_INT_H

#include "grammar/read.h"

struct schema {
    struct exprs *x;
    struct json_rules j;
    const json_t *root; /* what $ref points into */
    struct schema_ref {
        const json_t *to;
        uint32_t rule;
    } * ref; /* owned */
    size_t n_refs, cap_refs;
    json_t *made;    /* schemas that merging made, which live as long as this; owned */
    struct buf path; /* of the schema at hand, for messages */
    int depth;
    struct err *e;
};

/* "at PATH: ..."; returns -1. */
int schema_fail(struct schema *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A schema's expression. key (NULL = none) and the number i (-1 = none) are what leads to it. */
int schema_expr(struct schema *c, const char *key, int i, const json_t *v, uint32_t *out) MUST_USE;
/* The schema that holds where both hold; it lives as long as c. */
int schema_merge(struct schema *c, const json_t *a, const json_t *b, const json_t **out) MUST_USE;
/* What "#/..." points to. */
int schema_find(struct schema *c, const char *ref, const json_t **out) MUST_USE;

/* By type. */
int schema_string(struct schema *c, const json_t *v, uint32_t *out) MUST_USE;
int schema_number(struct schema *c, const json_t *v, bool integer, uint32_t *out) MUST_USE;
int schema_object(struct schema *c, const json_t *v, uint32_t *out) MUST_USE;
int schema_array(struct schema *c, const json_t *v, uint32_t *out) MUST_USE;
/* A count such as maxItems; *out is left alone when it is absent. At most 100,000. */
int schema_count(struct schema *c, const json_t *v, const char *key, int32_t *out) MUST_USE;

#endif
