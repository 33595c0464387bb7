#include "server/served.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/utf8.h"
#include "engine/memory.h"
#include "engine/request.h"
#include "hub/models.h"
#include "server/adapters.h"
#include "server/http_int.h"

/* ---- one model ---- */

static int choose_format(struct served *m, const struct served_opts *o, struct err *e)
{
    struct err why;

    if (o->tokenizer_config && tok_read_template(m->engine->tok, o->tokenizer_config, e))
        return -1;
    if (o->template) {
        m->format = chat_by_name(o->template);
        return m->format ? 0
                         : err_set(e, ERR_USAGE, "--template %s: not one of %s", o->template,
                                   chat_names());
    }
    if (chat_detect(&m->format, m->engine->tok, &why)) {
        m->format = NULL;
        if (!o->quiet)
            fprintf(stderr, "no chat: %s\n", why.msg);
    }
    return 0;
}

int served_open(struct served **out, const char *name, const char *path,
                const struct served_opts *o, struct err *e)
{
    struct served *m;

    if (check_name("a model", name, e))
        return -1;
    m = xcalloc(1, sizeof(*m));
    m->name = xstrdup(name);
    m->path = xstrdup(path);
    m->created = (int64_t)time(NULL);
    if (engine_open(&m->engine, path, &o->engine, e) || choose_format(m, o, e) ||
        adapters_open(&m->adapters, m->engine, name, o->adapters, o->n_adapters, e)) {
        served_free(m);
        return -1;
    }
    request_eos(&m->eos, m->engine, m->format);
    *out = m;
    return 0;
}

int served_start(struct served *m, const struct sched_opts *o, size_t promised, struct err *e)
{
    m->engine->promised = promised;
    return sched_new(&m->sched, m->engine, o, e);
}

void served_stop(struct served *m)
{
    if (!m)
        return;
    sched_free(m->sched);
    m->sched = NULL;
}

void served_free(struct served *m)
{
    if (!m)
        return;
    served_stop(m);
    adapters_free(m->adapters);
    engine_close(m->drafter);
    engine_close(m->engine);
    ids_release(&m->eos);
    free(m->name);
    free(m->path);
    free(m);
}

/* ---- all of them ---- */

void served_add(struct served **list, struct served *m)
{
    while (*list)
        list = &(*list)->next;
    m->next = NULL;
    *list = m;
}

size_t served_promised(const struct served *list)
{
    struct plan_use all, used;
    size_t sum = 0, tokens;

    for (const struct served *m = list; m; m = m->next) {
        sched_memory(m->sched, &all, &used, &tokens);
        sum += all.total > used.total ? all.total - used.total : 0;
    }
    return sum;
}

static void add_passes(struct sched_passes *to, const struct sched_passes *from)
{
    for (int k = 0; k <= SCHED_PASS_TIMES; k++)
        to->count[k] += from->count[k];
    to->total += from->total;
    to->sum_s += from->sum_s;
}

void served_stats(const struct served *list, struct sched_stats *out)
{
    *out = (struct sched_stats){ 0 };
    for (const struct served *m = list; m; m = m->next) {
        struct sched_stats st;

        sched_stats(m->sched, &st);
        out->active += st.active;
        out->waiting += st.waiting;
        out->kv_blocks += st.kv_blocks;
        out->kv_free += st.kv_free;
        out->kv_cached += st.kv_cached;
        out->submitted += st.submitted;
        out->finished += st.finished;
        out->cancelled += st.cancelled;
        out->failed += st.failed;
        out->preempted += st.preempted;
        out->prompt_tokens += st.prompt_tokens;
        out->cached_tokens += st.cached_tokens;
        out->computed_tokens += st.computed_tokens;
        out->answer_tokens += st.answer_tokens;
        out->guessed += st.guessed;
        out->guessed_right += st.guessed_right;
        out->draft_failures += st.draft_failures;
        out->steps += st.steps;
        out->busy_s += st.busy_s;
        out->wait_s = st.wait_s > out->wait_s ? st.wait_s : out->wait_s;
        out->last_step_s = st.last_step_s > out->last_step_s ? st.last_step_s : out->last_step_s;
        add_passes(&out->decodes, &st.decodes);
        add_passes(&out->prompts, &st.prompts);
    }
}

struct served *served_find(const struct served *list, const char *name)
{
    for (const struct served *m = list; m; m = m->next)
        if (!m->leaving && !strcmp(m->name, name))
            return (struct served *)(uintptr_t)m;
    for (const struct served *m = list; m; m = m->next)
        if (!m->leaving && adapters_find(m->adapters, name))
            return (struct served *)(uintptr_t)m;
    return NULL;
}

void served_choose(struct call *c)
{
    const char *name = json_string_value(json_object_get(c->body, "model"));
    struct served *m = name ? served_find(c->s->models, name) : NULL;

    c->m->users--;
    c->m = m ? m : c->s->models;
    c->m->users++;
}

/* ---- POST /models/load, /models/unload ---- */

/* A model that is being opened, on a thread of its own. */
struct loading {
    struct call *call;
    struct served_opts o;
    char *name, *path; /* owned */
    size_t promised;
    struct served *m;
    pthread_t thread;
    bool joined;
    int rc;
    struct err err;
};

static void done(struct call *c)
{
    reply_json(c, 200, json_pack("{s:b}", "success", true));
}

/* Takes a model that nobody uses off the list and answers who waited for that. */
static void remove_unused(struct server *s, struct served *m)
{
    struct served **at = &s->models;
    struct call *who = m->who;

    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    served_free(m);
    if (!who)
        return;
    done(who);
    call_gen_ended(who);
}

void served_leave(struct call *c)
{
    struct served *m = c->m;

    if (--m->users == 0 && m->leaving)
        remove_unused(c->s, m);
}

/* False: the call was answered. */
static bool allowed(struct call *c)
{
    const bool host = ctx_on_host(c->s->models->engine->ctx);

    if (c->s->o.runtime_models && host && !server_draining(c->s))
        return true;
    reply_status(c, 403, "invalid_request_error", "not_allowed",
                 !c->s->o.runtime_models
                     ? "models cannot be changed while this server runs: start it with "
                       "--allow-runtime-model-loading"
                 : host ? "the server is shutting down"
                        : "models cannot be changed while a device computes: give them at the "
                          "start");
    return false;
}

/* The model's name in the body; NULL: the call was answered. */
static const char *name_of(struct call *c)
{
    const json_t *v = json_object_get(c->body, "model");
    const char *name = json_string_value(v);
    struct err e;

    if (!name || strlen(name) != json_string_length(v))
        err_set(&e, ERR_USAGE, "request: model, a name, is missing");
    else if (check_name("a model", name, &e) == 0)
        return name;
    reply_refusal(c, &e);
    return NULL;
}

/* Where a model of this name is: one of the command line's, or of the cache's. A name is never a
 * path. */
static char *path_of(const struct server *s, const char *name, struct err *e)
{
    struct hub_models cache = { 0 };
    char *path = NULL;

    for (size_t i = 0; i < s->o.n_known; i++)
        if (!strcmp(s->o.known[i].name, name))
            return xstrdup(s->o.known[i].path);
    if (hub_list(&cache, e))
        return NULL;
    for (size_t i = 0; i < cache.n && !path; i++)
        if (!strcmp(cache.p[i].name, name))
            path = xstrdup(cache.p[i].path);
    hub_models_release(&cache);
    if (!path)
        err_set(e, ERR_NOT_FOUND,
                "no model '%.200s': it is neither one of the command line nor one that puna list "
                "shows on the server's machine",
                name);
    return path;
}

/* On the server's thread, when the model was opened. */
static void loaded(void *arg)
{
    struct loading *l = arg;
    struct call *c = l->call;
    struct server *s = c->s;

    if (!l->joined)
        pthread_join(l->thread, NULL);
    s->http->loading = NULL;
    if (l->rc) {
        reply_error(c, &l->err);
    } else {
        served_add(&s->models, l->m);
        done(c);
    }
    free(l->name);
    free(l->path);
    free(l);
    call_gen_ended(c);
}

static void *open_model(void *arg)
{
    struct loading *l = arg;

    l->rc = served_open(&l->m, l->name, l->path, &l->o, &l->err) ||
            served_start(l->m, &l->o.sched, l->promised, &l->err);
    if (l->rc) {
        served_free(l->m);
        l->m = NULL;
    }
    server_post(l->call->s, loaded, l);
    return NULL;
}

static struct loading *may_load(struct call *c, const char *name, struct err *e)
{
    const struct server *s = c->s;
    const struct served *same = served_find(s->models, name);
    struct loading *l;
    char *path;
    size_t n = 0;

    for (const struct served *m = s->models; m; m = m->next)
        n++;
    if (s->http->loading)
        err_set(e, ERR_USAGE, "another model, '%.200s', is being loaded", s->http->loading->name);
    else if (same)
        err_set(e, ERR_USAGE, "'%.200s' is loaded already", name);
    else if (n >= s->o.max_models)
        err_set(e, ERR_USAGE, "%zu models are loaded, and --models-max is %zu: unload one", n,
                s->o.max_models);
    if (s->http->loading || same || n >= s->o.max_models || !(path = path_of(s, name, e)))
        return NULL;
    l = xcalloc(1, sizeof(*l));
    l->call = c;
    l->o = *s->o.opening;
    l->o.engine.beside = s->models->engine;
    l->o.n_adapters = 0;
    l->name = xstrdup(name);
    l->path = path;
    l->promised = served_promised(s->models);
    return l;
}

void load_model(struct call *c)
{
    const char *name = allowed(c) ? name_of(c) : NULL;
    struct loading *l;
    struct err e;

    if (!name)
        return;
    l = may_load(c, name, &e);
    if (!l) {
        reply_error(c, &e);
        return;
    }
    if (thread_start(&l->thread, open_model, l)) {
        err_set(&e, ERR_MEMORY, "cannot start a thread to open %s", l->path);
        free(l->name);
        free(l->path);
        free(l);
        reply_error(c, &e);
        return;
    }
    /* `loaded` runs on this thread: it cannot come before this is known */
    c->s->http->loading = l;
    c->n_running++;
}

void unload_model(struct call *c)
{
    const char *name = allowed(c) ? name_of(c) : NULL;
    struct server *s = c->s;
    struct err e;

    if (!name)
        return;
    /* the call itself uses the model that it names: it lets go first */
    c->m->users--;
    c->m = s->models;
    c->m->users++;
    for (struct served *m = s->models; m; m = m->next) {
        if (m->leaving || strcmp(m->name, name) != 0)
            continue;
        if (m == s->models) {
            err_set(&e, ERR_USAGE,
                    "'%.200s' is the first model, in which the others compute: it stays", name);
            reply_error(c, &e);
            return;
        }
        m->leaving = true;
        m->who = c;
        c->n_running++;
        if (m->users == 0)
            remove_unused(s, m);
        return;
    }
    err_set(&e, ERR_NOT_FOUND, "no model '%.200s' is loaded", name);
    reply_error(c, &e);
}

void served_settle(struct server *s)
{
    struct loading *l = s->http->loading;

    for (const struct served *m = s->models; m; m = m->next)
        adapters_settle(m->adapters);
    if (l && !l->joined) {
        pthread_join(l->thread, NULL);
        l->joined = true;
    }
}
