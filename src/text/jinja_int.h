/* jinja_int.h - tree and values of templates. Private to src/text. */
#ifndef PUNA_TEXT_JINJA_INT_H
#define PUNA_TEXT_JINJA_INT_H

#include "text/jinja.h"

/* Limits, far above what any published template needs. */
enum { JINJA_DEPTH = 100, JINJA_STEPS = 4 << 20, JINJA_TEMPLATE_MAX = 1 << 20 };
#define JINJA_MEMORY ((size_t)256 << 20)

/* Memory that is freed as a whole. */
struct pool {
    struct chunk *last;
    size_t used; /* of all chunks; at most JINJA_MEMORY, then pool_get gives NULL */
};
void *pool_get(struct pool *p, size_t n); /* zeroed; NULL = limit */
void pool_release(struct pool *p);

enum jtype { J_UNDEF, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STR, J_LIST, J_DICT, J_MACRO, J_FUNC };

struct jv {
    enum jtype type;
    bool tuple;   /* J_LIST: printed with parentheses */
    bool mutable; /* J_DICT: a namespace */
    bool on;      /* J_BOOL */
    union {
        int64_t i;
        double f;
        struct {
            const char *p;
            const uint8_t *m; /* marks, one for each byte */
            size_t n;
        } s;
        struct jlist *list;
        struct jdict *dict;
        const struct jmacro *macro;
        const char *name; /* J_FUNC; J_UNDEF: what is undefined, or NULL */
    };
};
struct jlist {
    struct jv *v;
    size_t n, cap;
};
struct jdict {
    struct jv *k, *v;
    size_t n, cap;
};

enum ekind {
    E_LIT,
    E_NAME,
    E_ATTR,
    E_ITEM,
    E_SLICE,
    E_CALL,
    E_FILTER,
    E_TEST,
    E_NOT,
    E_NEG,
    E_POS,
    E_BIN,
    E_COMPARE,
    E_AND,
    E_OR,
    E_IF,
    E_LIST,
    E_TUPLE,
    E_DICT,
};
struct expr {
    enum ekind kind;
    int line;
    const char *name; /* names, attributes, filters, tests; operator of E_BIN and E_COMPARE */
    struct jv value;  /* E_LIT */
    struct expr *a, *b, *c, *d; /* operands; E_SLICE: a[b:c:d] */
    struct expr **args;         /* arguments, elements; E_DICT: key, value, ... */
    const char **keys;          /* of args: NULL = positional */
    size_t n;
};

enum skind { S_TEXT, S_PRINT, S_IF, S_FOR, S_SET, S_WITH, S_MACRO, S_BREAK, S_CONTINUE };
struct stmt {
    enum skind kind;
    int line;
    struct stmt *next;
    struct jv text;        /* S_TEXT */
    struct expr *e, *cond; /* value, condition, what is looped over; S_FOR: its `if` */
    struct stmt *body, *other;
    const char **names;     /* targets of for, set and with, parameters of a macro */
    struct expr **defaults; /* of parameters; values of with */
    size_t n;
    const char *attr; /* set names[0].attr */
    const char *name; /* of the macro */
};

struct jinja {
    struct pool pool;
    char *text;
    struct stmt *body;
};

struct scope {
    struct scope *up;
    struct jdict vars;
};
struct jmacro {
    const struct stmt *def;
    struct scope *scope;
};

struct run {
    struct pool pool;
    struct buf *out, *marks;
    struct scope *scope;
    size_t steps;
    int depth, line;
    time_t now;
    int flow; /* 1 = break, 2 = continue */
    struct err *e;
};

/* jinja_value.c */
int jfail(struct run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
int jstep(struct run *r); /* one unit of work; -1 = too much */
int jstr(struct run *r, struct jv *out, const char *p, const uint8_t *m, size_t n); /* copies */
int jlit(struct run *r, struct jv *out, const char *p, size_t n, uint8_t mark);
int jlist_add(struct run *r, struct jlist *l, struct jv v);
int jdict_set(struct run *r, struct jdict *d, struct jv k, struct jv v);
struct jv *jdict_get(const struct jdict *d, struct jv k);
struct jv *jdict_name(const struct jdict *d, const char *name);
int jlist_new(struct run *r, struct jv *out);
int jdict_new(struct run *r, struct jv *out);
int jfrom_json(struct run *r, struct jv *out, const json_t *j);
bool jtrue(struct jv v);
bool jequal(struct jv a, struct jv b);
int jcompare(struct run *r, struct jv a, struct jv b, int *c); /* order of numbers and strings */
/* A text that is built, bytes and marks side by side. */
struct jtext {
    struct run *r;
    struct buf p, m;
    int depth; /* of what is being printed */
};
struct jtext jtext(struct run *r);
void jtext_put(struct jtext *s, const char *p, size_t n, uint8_t mark);
void jtext_add(struct jtext *s, struct jv v); /* a J_STR */
/* The text as a value, unless rc is -1; releases s. */
int jtext_done(struct jtext *s, struct jv *out, int rc);
/* str(v), or repr(v) */
int jprint(struct run *r, struct jv *out, struct jv v, bool repr);
/* json.dumps(v, ensure_ascii=ascii, indent=indent (-1 = none), sort_keys) */
int jdump(struct run *r, struct jv *out, struct jv v, bool ascii, int indent, const char *item,
          const char *key, bool sort);
const char *jtype_name(struct jv v);

/* jinja_eval.c */
int jplus(struct run *r, struct jv *out, struct jv a, struct jv b);

/* jinja_more.c; 1 = there is none of this name */
int jfilter_more(struct run *r, struct jv *out, const char *name, struct jv v, struct jv *args,
                 const char **keys, size_t n);
int jstring_more(struct run *r, struct jv *out, struct jv v, const char *name, struct jv *args,
                 const char **keys, size_t n);
int jlist_method(struct run *r, struct jv *out, struct jv v, const char *name,
                 const struct jv *args, size_t n);
/* v % args */
int jformat(struct run *r, struct jv *out, struct jv v, const struct jv *args, size_t n);

/* jinja_lib.c */
int jfilter(struct run *r, struct jv *out, const char *name, struct jv v, struct jv *args,
            const char **keys, size_t n);
int jtest(struct run *r, bool *out, const char *name, struct jv v, struct jv *args, size_t n);
int jmethod(struct run *r, struct jv *out, struct jv self, const char *name, struct jv *args,
            const char **keys, size_t n);
int jfunction(struct run *r, struct jv *out, const char *name, struct jv *args, const char **keys,
              size_t n);
/* Elements to loop over. */
int jiterate(struct run *r, struct jv *out, struct jv v);
int jitem(struct run *r, struct jv *out, struct jv v, struct jv key);
int jattr(struct run *r, struct jv *out, struct jv v, const char *name);
int jslice(struct run *r, struct jv *out, struct jv v, struct jv from, struct jv to, struct jv by);
bool jfunction_known(const char *name);
int jcontains(struct run *r, bool *out, struct jv box, struct jv v);

#endif
