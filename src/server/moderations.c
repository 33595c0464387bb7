/* moderations.c - POST /v1/moderations: Llama Guard's verdict on each text, as a user's turn. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "server/field.h"
#include "server/judge.h"
#include "server/openai.h"

enum { MAX_INPUTS = 32, CODES = 14 };

/* OpenAI's categories, with the hazards of Llama Guard 3 that they cover; "" = it has none. */
static const struct {
    const char *name, *codes;
} categories[] = {
    { "harassment", "" },       { "harassment/threatening", "" }, { "hate", "S10" },
    { "hate/threatening", "" }, { "illicit", "S2 S9" },           { "illicit/violent", "S9" },
    { "self-harm", "S11" },     { "self-harm/instructions", "" }, { "self-harm/intent", "" },
    { "sexual", "S3 S12" },     { "sexual/minors", "S4" },        { "violence", "S1" },
    { "violence/graphic", "" },
};

struct verdict {
    struct finding found;
    struct guard_verdict said;
};

struct moderation {
    struct guards *guards;
    char *model;
    size_t n;
    json_t *text[MAX_INPUTS]; /* owned */
    struct verdict verdict[MAX_INPUTS];
    bool failed;
    struct err err;
};

static void moderation_free(void *p)
{
    struct moderation *m = p;

    for (size_t i = 0; i < m->n; i++)
        json_decref(m->text[i]);
    free(m->model);
    free(m);
}

static void work(void *arg)
{
    struct moderation *m = arg;

    for (size_t i = 0; i < m->n && !m->failed; i++) {
        json_t *talk = json_pack("[{s:s, s:O}]", "role", "user", "content", m->text[i]);
        struct verdict *v = &m->verdict[i];

        m->failed = guards_turn(m->guards, talk, NULL, 0, &v->found, &v->said, &m->err) != 0;
        json_decref(talk);
    }
}

/* Whether the list has the word: "S1,S10" and "S2 S9" are lists. */
static bool has(const char *list, const char *word)
{
    const size_t n = strlen(word);

    for (const char *p = list; n && (p = strstr(p, word)); p += n)
        if ((p == list || strchr(", ", p[-1])) && (!p[n] || strchr(", ", p[n])))
            return true;
    return false;
}

static json_t *result_of(const struct verdict *v)
{
    json_t *flags = json_object(), *scores = json_object(), *types = json_object();
    const char *codes = v->found.bad ? v->found.codes : "";
    char code[16];

    for (size_t i = 0; i < ARRAY_LEN(categories); i++) {
        bool hit = false;

        for (int k = 1; k <= CODES; k++) {
            snprintf(code, sizeof(code), "S%d", k);
            hit |= has(codes, code) && has(categories[i].codes, code);
        }
        json_object_set_new(flags, categories[i].name, json_boolean(hit));
        json_object_set_new(scores, categories[i].name, json_real(hit ? v->found.p : 0));
        json_object_set_new(types, categories[i].name, json_pack("[s]", "text"));
    }
    for (int k = 1; k <= CODES; k++) {
        snprintf(code, sizeof(code), "S%d", k);
        json_object_set_new(flags, code, json_boolean(has(codes, code)));
        json_object_set_new(scores, code, json_real(has(codes, code) ? v->found.p : 0));
        json_object_set_new(types, code, json_pack("[s]", "text"));
    }
    return json_pack("{s:b, s:o, s:o, s:o, s:f}", "flagged", (int)v->found.bad, "categories", flags,
                     "category_scores", scores, "category_applied_input_types", types,
                     "unsafe_probability", v->said.p);
}

static void done(struct call *c, void *arg)
{
    struct moderation *m = arg;
    json_t *results;

    if (!call_alive(c))
        return;
    if (m->failed) {
        reply_error(c, &m->err);
        return;
    }
    results = json_array();
    for (size_t i = 0; i < m->n; i++)
        json_array_append_new(results, result_of(&m->verdict[i]));
    reply_json(
        c, 200,
        json_pack("{s:s+, s:s, s:o}", "id", "modr-", c->id, "model", m->model, "results", results));
}

/* One input: a text, or a part {"type": "text", "text"}. */
static json_t *text_of(const json_t *v)
{
    if (json_is_object(v))
        v = json_object_get(v, "text");
    return json_is_string(v) ? json_incref((json_t *)(uintptr_t)v) : NULL;
}

static int start(struct call *c, struct moderation *m, struct err *e)
{
    const json_t *input = json_object_get(c->body, "input");
    const size_t n = json_is_array(input) ? json_array_size(input) : 1;
    const char *model = c->s->models->name;

    if (!guards_llama(m->guards))
        return err_set(e, ERR_USAGE, "this server has no Llama Guard: start it with --guard MODEL");
    if (json_get_str(c->body, "model", &model, NULL, "request", e) < 0)
        return -1;
    if (n == 0 || n > MAX_INPUTS)
        return err_set(e, ERR_USAGE, "request: input has %zu texts; 1 to %d are taken", n,
                       MAX_INPUTS);
    for (size_t i = 0; i < n; i++) {
        m->text[i] = text_of(json_is_array(input) ? json_array_get(input, i) : input);
        if (!m->text[i])
            return err_set(e, ERR_USAGE, "request: input[%zu] is no text", i);
        m->n++;
    }
    m->model = xstrdup(model);
    if (fields_check(c, c->body, IN_MODERATIONS, e) || call_admit(c, e))
        return -1;
    judge_ask(c, work, done, m);
    return 0;
}

void moderations(struct call *c)
{
    struct moderation *m = xcalloc(1, sizeof(*m));
    struct err e;

    m->guards = c->s->o.guards;
    c->state = m;
    c->state_free = moderation_free;
    if (start(c, m, &e))
        reply_refusal(c, &e);
}
