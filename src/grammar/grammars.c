#include "grammar/grammars.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "grammar/read.h"

enum { KEPT = 16 };

struct grammars {
    pthread_mutex_t lock;
    const struct tok *tok;
    size_t vocab;
    bool ready; /* tokens was made */
    struct tokens tokens;
    struct kept {
        enum grammar_kind kind;
        char *text; /* owned; NULL = free */
        size_t n;
        struct grammar *g;
        uint64_t used; /* when, as a count */
    } kept[KEPT];
    uint64_t now;
};

struct grammars *grammars_new(const struct tok *tok, size_t vocab)
{
    struct grammars *gs = xcalloc(1, sizeof(*gs));

    gs->tok = tok;
    gs->vocab = vocab;
    pthread_mutex_init(&gs->lock, NULL);
    return gs;
}

void grammars_free(struct grammars *gs)
{
    if (!gs)
        return;
    for (size_t i = 0; i < KEPT; i++) {
        grammar_unref(gs->kept[i].g);
        free(gs->kept[i].text);
    }
    tokens_release(&gs->tokens);
    pthread_mutex_destroy(&gs->lock);
    free(gs);
}

static int read_value(struct exprs *x, const char *text, size_t n,
                      int (*read)(struct exprs *x, const json_t *v, struct err *e), struct err *e)
{
    json_t *v;
    int rc;

    if (json_parse(&v, text, n, "grammar", e))
        return -1;
    rc = read(x, v, e);
    json_decref(v);
    return rc;
}

static int compile(struct grammars *gs, enum grammar_kind kind, const char *text, size_t n,
                   struct grammar **out, struct err *e)
{
    static const char *const names[] = { "JSON",    "regular expression",
                                         "choices", "JSON schema",
                                         "rules",   "tools" };
    struct exprs x;
    int rc = 0;

    exprs_init(&x);
    switch (kind) {
    case GRAMMAR_JSON:
        read_json(&x);
        break;
    case GRAMMAR_REGEX:
        rc = read_regex(&x, text, n, e);
        break;
    case GRAMMAR_CHOICE:
        rc = read_value(&x, text, n, read_choice, e);
        break;
    case GRAMMAR_SCHEMA:
        rc = read_value(&x, text, n, read_schema, e);
        break;
    case GRAMMAR_GBNF:
        rc = read_gbnf(&x, text, n, e);
        break;
    case GRAMMAR_TOOLS:
        rc = read_value(&x, text, n, read_tools, e);
        break;
    }
    if (rc == 0)
        rc = grammar_new(out, &x, &gs->tokens, names[kind], e);
    exprs_release(&x);
    return rc;
}

static struct kept *find(struct grammars *gs, enum grammar_kind kind, const char *text, size_t n)
{
    for (size_t i = 0; i < KEPT; i++) {
        struct kept *k = &gs->kept[i];

        if (k->text && k->kind == kind && k->n == n && memcmp(k->text, text, n) == 0)
            return k;
    }
    return NULL;
}

static struct kept *oldest(struct grammars *gs)
{
    struct kept *k = gs->kept;

    for (size_t i = 1; i < KEPT; i++)
        if (gs->kept[i].used < k->used)
            k = &gs->kept[i];
    return k;
}

int grammars_get(struct grammars *gs, enum grammar_kind kind, const char *text, size_t n,
                 struct grammar **out, struct err *e)
{
    struct kept *k;
    int rc = 0;

    if (n > GRAMMAR_TEXT_MAX)
        return err_set(e, ERR_USAGE, "a grammar of %zu bytes; at most %d", n, GRAMMAR_TEXT_MAX);
    pthread_mutex_lock(&gs->lock);
    if (!gs->ready) {
        tokens_init(&gs->tokens, gs->tok, gs->vocab);
        gs->ready = true;
    }
    k = find(gs, kind, text, n);
    if (!k) {
        struct grammar *g;

        rc = compile(gs, kind, text, n, &g, e);
        if (rc == 0) {
            k = oldest(gs);
            grammar_unref(k->g);
            free(k->text);
            *k = (struct kept){ .kind = kind, .text = xmemdup0(text, n), .n = n, .g = g };
        }
    }
    if (k) {
        k->used = ++gs->now;
        *out = grammar_ref(k->g);
    }
    pthread_mutex_unlock(&gs->lock);
    return rc;
}

int grammars_get_json(struct grammars *gs, enum grammar_kind kind, const json_t *v,
                      struct grammar **out, struct err *e)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    int rc;

    if (!text)
        return err_set(e, ERR_USAGE, "a grammar that is nested too deeply");
    rc = grammars_get(gs, kind, text, strlen(text), out, e);
    free(text);
    return rc;
}
