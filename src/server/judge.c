#include "server/judge.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/thread.h"
#include "base/utf8.h"
#include "server/field.h"
#include "server/gen.h"
#include "server/http_int.h"

enum { ASKERS = 16 }; /* as many wait for a verdict at a time; the guard judges them together */

struct inquiry {
    struct inquiry *next;
    struct call *c;
    void (*work)(void *arg);
    void (*done)(struct call *c, void *arg);
    void *arg;
};

struct judge {
    struct server *s;
    pthread_t thread[ASKERS];
    size_t n_threads;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct inquiry *first, **last;
    bool quit;
};

/* ---- the threads ---- */

static void answered(void *arg)
{
    struct inquiry *q = arg;
    struct call *c = q->c;

    q->done(c, q->arg);
    free(q);
    call_gen_ended(c);
}

static void *run(void *arg)
{
    struct judge *j = arg;

    pthread_mutex_lock(&j->lock);
    while (!j->quit) {
        struct inquiry *q = j->first;

        if (!q) {
            pthread_cond_wait(&j->wake, &j->lock);
            continue;
        }
        j->first = q->next;
        if (!j->first)
            j->last = &j->first;
        pthread_mutex_unlock(&j->lock);
        q->work(q->arg);
        server_post(j->s, answered, q);
        pthread_mutex_lock(&j->lock);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

struct judge *judge_new(struct server *s)
{
    struct judge *j = xcalloc(1, sizeof(*j));

    j->s = s;
    j->last = &j->first;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    while (j->n_threads < ASKERS && thread_start(&j->thread[j->n_threads], run, j) == 0)
        j->n_threads++;
    if (!j->n_threads)
        BUG("no thread for the guards");
    return j;
}

void judge_free(struct judge *j)
{
    if (!j)
        return;
    pthread_mutex_lock(&j->lock);
    j->quit = true;
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
    while (j->n_threads)
        pthread_join(j->thread[--j->n_threads], NULL);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->wake);
    free(j);
}

void judge_ask(struct call *c, void (*work)(void *arg), void (*done)(struct call *c, void *arg),
               void *arg)
{
    struct judge *j = c->s->http->judge;
    struct inquiry *q = xcalloc(1, sizeof(*q));

    *q = (struct inquiry){ .c = c, .work = work, .done = done, .arg = arg };
    c->n_running++;
    pthread_mutex_lock(&j->lock);
    *j->last = q;
    j->last = &q->next;
    pthread_cond_signal(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

/* ---- inputs ---- */

static void add_ids(const struct call *c, const json_t *list, struct buf *out)
{
    struct ids ids = { 0 };

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_int_t id = json_integer_value(json_array_get(list, i));

        if (id >= 0 && id < tok_size(c->m->engine->tok))
            ids_add(&ids, (int32_t)id);
    }
    tok_decode(c->m->engine->tok, ids.p, ids.n, true, out);
    ids_release(&ids);
}

/* A prompt in any of the APIs' forms: a text, ids, or a list of these. */
static void add_prompt(const struct call *c, const json_t *v, struct buf *out)
{
    if (out->len && (json_is_string(v) || json_is_array(v)))
        buf_adds(out, "\n\n");
    if (json_is_string(v))
        buf_add(out, json_string_value(v), json_string_length(v));
    else if (json_is_integer(json_array_get(v, 0)))
        add_ids(c, v, out);
    else
        for (size_t i = 0; i < json_array_size(v); i++)
            add_prompt(c, json_array_get(v, i), out);
}

static void add_messages(const json_t *messages, struct buf *out)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        buf_adds(out, out->len ? "\n\n" : "");
        guards_content(out, json_object_get(json_array_get(messages, i), "content"));
    }
}

/* The chat that a body asks to be answered; what is no chat is a user's turn. */
static json_t *talk_of(const struct call *c)
{
    const json_t *messages = json_object_get(c->body, "messages"),
                 *instances = json_object_get(c->body, "instances");
    struct buf text, clean;
    json_t *talk;

    if (json_is_array(messages))
        return json_deep_copy(messages);
    buf_init(&text, SIZE_MAX);
    buf_init(&clean, SIZE_MAX);
    add_prompt(c, json_object_get(c->body, "prompt"), &text);
    add_prompt(c, json_object_get(c->body, "inputs"), &text);
    for (size_t i = 0; i < json_array_size(instances); i++) {
        const json_t *one = json_array_get(instances, i);

        add_prompt(c, json_object_get(one, "inputs"), &text);
        add_messages(json_object_get(one, "messages"), &text);
    }
    utf8_sanitize(&clean, text.p, text.len);
    talk = json_pack("[{s:s, s:s%}]", "role", "user", "content", clean.p, clean.len);
    buf_release(&text);
    buf_release(&clean);
    return talk;
}

struct question {
    struct guards *guards;
    json_t *talk;
    struct finding found;
    bool failed;
    struct err err;
};

/* All that users wrote and tools brought: a client may send any past, and what was read before is
 * known. The last first. */
static int judge_texts(struct question *q)
{
    size_t i = json_array_size(q->talk);
    struct buf text;
    int rc = 0;

    buf_init(&text, SIZE_MAX);
    while (rc == 0 && !q->found.bad && i-- > 0) {
        const json_t *m = json_array_get(q->talk, i);
        const char *role = json_string_value(json_object_get(m, "role"));
        const bool tool = role && (strcmp(role, "tool") == 0 || strcmp(role, "ipython") == 0);

        if (!role || (!tool && strcmp(role, "user") != 0))
            continue;
        buf_clear(&text);
        guards_content(&text, json_object_get(m, "content"));
        rc = guards_text(q->guards, text.p, text.len, tool, &q->found, &q->err);
    }
    buf_release(&text);
    return rc;
}

static void work(void *arg)
{
    struct question *q = arg;
    const json_t *last = json_array_get(q->talk, json_array_size(q->talk) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));

    if (judge_texts(q))
        q->failed = true;
    else if (!q->found.bad && guards_judge_turns(q->guards) && role && strcmp(role, "user") == 0 &&
             guards_turn(q->guards, q->talk, NULL, 0, &q->found, NULL, &q->err))
        q->failed = true;
}

static void done(struct call *c, void *arg)
{
    struct question *q = arg;

    if (!call_alive(c)) {
        ;
    } else if (q->failed) {
        reply_error(c, &q->err);
    } else {
        c->refusal = q->found;
        c->route->fn(c);
    }
    json_decref(q->talk);
    free(q);
}

bool judge_input(struct call *c)
{
    struct guards *g = c->s->o.guards;
    struct question *q;

    if (!g || !c->body || (c->route->fields & IN_TOKENIZE) ||
        !(c->route->fields & (IN_CHAT | IN_COMPLETIONS | IN_TGI | IN_VERTEX)))
        return false;
    c->talk = talk_of(c);
    if (!guards_judge_input(g))
        return false;
    q = xcalloc(1, sizeof(*q));
    q->guards = g;
    q->talk = json_incref(c->talk);
    judge_ask(c, work, done, q);
    return true;
}

/* ---- what was cut ---- */

void judge_note(const struct gen *g, json_t *choice)
{
    const struct finding *f = &g->found;
    json_t *codes;

    if (!f->bad)
        return;
    codes = json_array();
    for (const char *p = f->codes; *p;) {
        const size_t n = strcspn(p, ",");

        json_array_append_new(codes, json_stringn(p, n));
        p += n + (p[n] == ',');
    }
    json_object_set_new(choice, "content_filter_results",
                        json_pack("{s:{s:b, s:s, s:o, s:f}}",
                                  strcmp(f->by, "Prompt Guard") ? "llama_guard" : "prompt_guard",
                                  "filtered", true, "stage",
                                  g->call->refusal.bad ? "input" : "output", "categories", codes,
                                  "probability", f->p));
}

bool judge_error(const struct gen *g, struct err *e)
{
    struct buf b;

    if (!g->found.bad)
        return false;
    buf_init(&b, 512);
    finding_say(&g->found, &b);
    err_set(e, ERR_USAGE, "the %s was blocked by %s", g->call->refusal.bad ? "prompt" : "answer",
            b.p);
    buf_release(&b);
    return true;
}
