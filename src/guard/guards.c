#include "guard/guards.h"

#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "base/mem.h"
#include "ops/backend.h"
#include "text/chat.h"

enum { KNOWN = 1024 };

/* What Prompt Guard thought of a text: chats come again with every turn. */
struct known {
    uint8_t hash[SHA256_DIGEST_LENGTH];
    struct prompt_scores scores;
};

struct guards {
    struct guards_opts o;
    struct engine *engine;
    struct llama_guard *llama;   /* NULL = none */
    struct ctx *own;             /* Prompt Guard's, where the chat's model is not on the CPU */
    pthread_mutex_t lock;        /* of what follows */
    struct prompt_guard *prompt; /* NULL = none */
    struct known known[KNOWN];
    size_t n_known; /* ever */
};

static int open_llama(struct guards *g, const struct guards_opts *o, struct err *e)
{
    const struct engine_opts eo = { .beside = o->beside };

    if (!o->guard)
        return 0;
    if (prompt_guard_is(o->guard))
        return err_set(e, ERR_USAGE, "--guard: %.300s is a Prompt Guard: --prompt-guard takes it",
                       o->guard);
    if (engine_open(&g->engine, o->guard, &eo, e) ||
        llama_guard_open(&g->llama, g->engine, o->ctx, o->threshold, e))
        return err_wrap(e, "--guard");
    return 0;
}

static int open_prompt(struct guards *g, const struct guards_opts *o, struct err *e)
{
    const bool shared = ctx_on_host(o->beside->ctx);

    if (!o->prompt_guard)
        return 0;
    if ((!shared && cpu_ctx_new(&g->own, 0, o->beside->isa, COMPUTE_AUTO, e)) ||
        prompt_guard_open(&g->prompt, shared ? o->beside->ctx : g->own,
                          shared ? o->beside->turn : NULL, o->prompt_guard, e))
        return err_wrap(e, "--prompt-guard");
    return 0;
}

int guards_open(struct guards **out, const struct guards_opts *o, struct err *e)
{
    struct guards *g = xcalloc(1, sizeof(*g));

    g->o = *o;
    g->o.guard = g->o.prompt_guard = NULL; /* borrowed */
    pthread_mutex_init(&g->lock, NULL);
    if (open_llama(g, o, e) || open_prompt(g, o, e)) {
        guards_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

void guards_close(struct guards *g)
{
    if (!g)
        return;
    llama_guard_close(g->llama);
    if (g->engine)
        engine_close(g->engine);
    prompt_guard_close(g->prompt);
    cpu_ctx_free(g->own);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

bool guards_judge_input(const struct guards *g)
{
    return g && ((g->llama && g->o.input) || g->prompt);
}

bool guards_judge_turns(const struct guards *g)
{
    return g && g->llama && g->o.input;
}

bool guards_judge_output(const struct guards *g)
{
    return g && g->llama && g->o.output;
}

bool guards_llama(const struct guards *g)
{
    return g && g->llama;
}

/* ---- a chat as Llama Guard's turns ---- */

void guards_content(struct buf *out, const json_t *content)
{
    size_t i;
    json_t *part;

    if (json_is_string(content))
        buf_add(out, json_string_value(content), json_string_length(content));
    json_array_foreach((json_t *)(uintptr_t)content, i, part)
    {
        const json_t *text = json_object_get(part, "text");

        if (json_is_string(text))
            buf_add(out, json_string_value(text), json_string_length(text));
    }
}

static void add_calls(struct buf *b, const json_t *calls)
{
    size_t i;
    json_t *call;

    json_array_foreach((json_t *)(uintptr_t)calls, i, call)
    {
        const json_t *f = json_object_get(call, "function"),
                     *args = json_object_get(f, "arguments");
        const char *name = json_string_value(json_object_get(f, "name"));
        char *text = json_is_string(args) ? xstrdup(json_string_value(args))
                                          : json_dumps(args, JSON_ENCODE_ANY);

        buf_addf(b, "%s%s(%s)", b->len ? "\n" : "", name ? name : "", text ? text : "");
        free(text);
    }
}

/* Adds to the last turn when it is of the same role. */
static void add_turn(json_t *turns, const char *role, const struct buf *text)
{
    json_t *last = json_array_get(turns, json_array_size(turns) - 1);
    const char *had = json_string_value(json_object_get(last, "role"));
    const json_t *content = json_object_get(last, "content");

    if (json_array_size(turns) == 0 && strcmp(role, "user") != 0)
        return; /* the guard's first turn is a user's */
    if (json_array_size(turns) && had && strcmp(had, role) == 0) {
        struct buf both;

        buf_init(&both, SIZE_MAX);
        guards_content(&both, content);
        buf_addf(&both, "\n\n%s", text->p);
        json_object_set_new(last, "content", json_stringn(both.p, both.len));
        buf_release(&both);
    } else {
        json_array_append_new(
            turns, json_pack("{s:s, s:s%}", "role", role, "content", text->p, text->len));
    }
}

static json_t *turns_of(const json_t *messages, const char *answer, size_t n)
{
    json_t *turns = json_array(), *m;
    struct buf text;
    size_t i;

    buf_init(&text, SIZE_MAX);
    json_array_foreach((json_t *)(uintptr_t)messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));

        if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0))
            continue;
        buf_clear(&text);
        guards_content(&text, json_object_get(m, "content"));
        add_calls(&text, json_object_get(m, "tool_calls"));
        add_turn(turns, role, &text);
    }
    if (answer) {
        buf_clear(&text);
        buf_add(&text, answer, n);
        add_turn(turns, "assistant", &text);
    }
    buf_release(&text);
    return turns;
}

/* ---- verdicts ---- */

int guards_turn(struct guards *g, const json_t *messages, const char *answer, size_t n,
                struct finding *f, struct guard_verdict *verdict, struct err *e)
{
    struct guard_verdict v = { 0 };
    json_t *request, *turns;
    int rc = 0;

    *f = (struct finding){ 0 };
    if (!g->llama)
        return 0;
    turns = turns_of(messages, answer, n);
    request = json_pack("{s:O}", "messages", turns);
    if (json_array_size(turns))
        rc = llama_guard_judge(g->llama, request, &v, e);
    json_decref(turns);
    json_decref(request);
    if (rc)
        return err_wrap(e, "Llama Guard");
    *f = (struct finding){ .bad = v.unsafe, .by = "Llama Guard", .p = v.p };
    memcpy(f->codes, v.codes, sizeof(f->codes));
    if (verdict)
        *verdict = v;
    return 0;
}

/* Under the lock. */
static int score(struct guards *g, const char *text, size_t n, struct prompt_scores *out,
                 struct err *e)
{
    const size_t known = g->n_known < KNOWN ? g->n_known : KNOWN;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    struct known *k;

    SHA256((const uint8_t *)text, n, hash);
    for (size_t i = 0; i < known; i++)
        if (memcmp(g->known[i].hash, hash, sizeof(hash)) == 0) {
            *out = g->known[i].scores;
            return 0;
        }
    if (prompt_guard_score(g->prompt, text, n, 1, out, e))
        return -1;
    k = &g->known[g->n_known++ % KNOWN];
    memcpy(k->hash, hash, sizeof(hash));
    k->scores = *out;
    return 0;
}

int guards_text(struct guards *g, const char *text, size_t n, bool third_party, struct finding *f,
                struct err *e)
{
    struct prompt_scores s;
    int rc;

    *f = (struct finding){ 0 };
    if (!g->prompt)
        return 0;
    pthread_mutex_lock(&g->lock);
    rc = score(g, text, n, &s, e);
    pthread_mutex_unlock(&g->lock);
    if (rc)
        return err_wrap(e, "Prompt Guard");
    f->by = "Prompt Guard";
    f->p = third_party ? s.injection : s.jailbreak;
    f->bad = f->p >= g->o.attack;
    return 0;
}

int guards_user(struct guards *g, const json_t *messages, struct finding *f, struct err *e)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    struct buf text;
    int rc;

    buf_init(&text, SIZE_MAX);
    guards_content(&text, json_object_get(last, "content"));
    rc = guards_text(g, text.p, text.len, false, f, e);
    buf_release(&text);
    if (rc || f->bad || !g->o.input)
        return rc;
    return guards_turn(g, messages, NULL, 0, f, NULL, e);
}

void finding_say(const struct finding *f, struct buf *out)
{
    buf_addf(out, "%s: ", f->by);
    for (const char *p = f->codes; *p;) {
        const size_t n = strcspn(p, ",");
        char code[16];

        snprintf(code, sizeof(code), "%.*s", (int)(n < 15 ? n : 15), p);
        const char *name = chat_guard_category(code);

        buf_addf(out, "%s%s%s%s", p == f->codes ? "" : ", ", code, name ? " " : "",
                 name ? name : "");
        p += n + (p[n] == ',');
    }
    buf_addf(out, "%s(probability %.2f)", *f->codes ? " " : "unsafe ", f->p);
}
