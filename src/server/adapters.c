/* adapters.c - the adapters of a server, and vLLM's routes that load and unload them. */
#include "server/adapters.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/utf8.h"
#include "server/http.h"

enum { MAX_ADAPTERS = 1024 };

struct adapter {
    struct adapter *next; /* by name */
    char *name, *path;
    struct lora *lora;
    size_t users;     /* generations that have not ended */
    bool leaving;     /* no longer found; goes with its last user */
    struct call *who; /* the call that unloads it */
};

/* A folder that is being read on a thread of its own. */
struct load {
    struct load *next;
    struct adapters *all;
    struct call *call;
    struct adapter *a;
    bool replace;
    pthread_t thread;
    bool joined;
    int rc;
    struct err err;
};

struct adapters {
    struct engine *g;
    char *base;
    struct adapter *first;
    struct load *loads;
};

static void adapter_free(struct adapter *x)
{
    if (!x)
        return;
    lora_close(x->lora);
    free(x->name);
    free(x->path);
    free(x);
}

static struct adapter *find(const struct adapters *a, const char *name)
{
    for (struct adapter *x = a->first; x; x = x->next)
        if (!x->leaving && !strcmp(x->name, name))
            return x;
    return NULL;
}

static void insert(struct adapters *a, struct adapter *x)
{
    struct adapter **at = &a->first;

    while (*at && strcmp((*at)->name, x->name) < 0)
        at = &(*at)->next;
    x->next = *at;
    *at = x;
}

int check_name(const char *what, const char *name, struct err *e)
{
    const size_t n = strlen(name);

    if (n == 0 || n > MAX_NAME || !utf8_valid(name, n))
        return err_set(e, ERR_USAGE, "%s's name has 1 to %d bytes of UTF-8", what, MAX_NAME);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, ERR_USAGE, "%s's name holds a control character", what);
    return 0;
}

static int check_adapter(const struct adapters *a, const char *name, struct err *e)
{
    if (check_name("an adapter", name, e))
        return -1;
    if (!strcmp(name, a->base))
        return err_set(e, ERR_USAGE, "the adapter's name '%s' is the model's own", name);
    return 0;
}

static struct adapter *adapter_new(const char *name, const char *path)
{
    struct adapter *x = xcalloc(1, sizeof(*x));

    x->name = xstrdup(name);
    x->path = xstrdup(path);
    return x;
}

/* ---- from the command line ---- */

static int add_one(struct adapters *a, char *spec, struct err *e)
{
    char *eq = strchr(spec, '=');
    const char *path = eq ? eq + 1 : spec;
    struct adapter *x;

    if (eq)
        *eq = 0;
    if (!*path)
        return err_set(e, ERR_USAGE, "--lora-adapters takes NAME=FOLDER, with commas between");
    if (check_adapter(a, spec, e))
        return -1;
    if (find(a, spec))
        return err_set(e, ERR_USAGE, "two adapters are called '%s'", spec);
    x = adapter_new(spec, path);
    if (lora_open(&x->lora, a->g->model, path, e)) {
        adapter_free(x);
        return -1;
    }
    insert(a, x);
    return 0;
}

int adapters_open(struct adapters **out, struct engine *g, const char *base,
                  const char *const *list, size_t n, struct err *e)
{
    struct adapters *a = xcalloc(1, sizeof(*a));
    int rc = 0;

    a->g = g;
    a->base = xstrdup(base);
    for (size_t i = 0; i < n && !rc; i++) {
        char *copy = xstrdup(list[i]), *rest = copy;

        for (char *spec; !rc && (spec = strsep(&rest, ","));)
            rc = *spec ? add_one(a, spec, e) : 0;
        free(copy);
    }
    if (rc)
        adapters_free(a);
    else
        *out = a;
    return rc;
}

void adapters_free(struct adapters *a)
{
    if (!a)
        return;
    adapters_settle(a);
    while (a->first) {
        struct adapter *x = a->first;

        a->first = x->next;
        adapter_free(x);
    }
    free(a->base);
    free(a);
}

void adapters_settle(struct adapters *a)
{
    for (struct load *l = a ? a->loads : NULL; l; l = l->next) {
        if (!l->joined)
            pthread_join(l->thread, NULL);
        l->joined = true;
    }
}

bool adapters_get(const struct adapters *a, size_t i, const char **name, const char **path)
{
    for (const struct adapter *x = a ? a->first : NULL; x; x = x->next) {
        if (x->leaving || i--)
            continue;
        *name = x->name;
        *path = x->path;
        return true;
    }
    return false;
}

/* ---- requests ---- */

const struct lora *adapters_find(const struct adapters *a, const char *name)
{
    const struct adapter *x = a ? find(a, name) : NULL;

    return x ? x->lora : NULL;
}

static struct adapter **of(struct adapters *a, const struct lora *l)
{
    struct adapter **at = &a->first;

    while (*at && (*at)->lora != l)
        at = &(*at)->next;
    BUG_ON(!*at);
    return at;
}

void adapters_use(struct adapters *a, const struct lora *l)
{
    if (l)
        (*of(a, l))->users++;
}

/* Takes an adapter that nobody uses off the list and answers who waited for that. */
static void remove_unused(struct adapter **at)
{
    struct adapter *x = *at;
    struct call *c = x->who;
    char text[MAX_NAME + 64];

    *at = x->next;
    if (c) {
        snprintf(text, sizeof(text), "Success: LoRA adapter '%s' removed successfully.", x->name);
        reply_text(c, 200, "text/plain; charset=utf-8", text, strlen(text));
    }
    adapter_free(x);
    if (c)
        call_gen_ended(c);
}

void adapters_leave(struct adapters *a, const struct lora *l)
{
    struct adapter **at = l ? of(a, l) : NULL;

    if (at && --(*at)->users == 0 && (*at)->leaving)
        remove_unused(at);
}

/* ---- /v1/load_lora_adapter, /v1/unload_lora_adapter ---- */

/* False: the call was answered. */
static bool allowed(struct call *c)
{
    const bool host = ctx_on_host(c->m->engine->ctx);

    if (c->s->o.runtime_adapters && host)
        return true;
    if (!host) { /* one thread drives a device, and it is busy */
        reply_status(c, 403, "invalid_request_error", "not_allowed",
                     "adapters cannot be changed while a device computes: give them with "
                     "--lora-adapters");
        return false;
    }
    reply_status(c, 403, "invalid_request_error", "not_allowed",
                 "adapters cannot be changed while this server runs: start it with "
                 "--allow-runtime-lora-updating");
    return false;
}

static const char *text_of(const struct call *c, const char *key)
{
    const json_t *v = json_object_get(c->body, key);
    const char *s = json_string_value(v);

    return s && *s && strlen(s) == json_string_length(v) ? s : NULL;
}

static void not_both(struct call *c, const char *why)
{
    reply_status(c, 400, "InvalidUserInput", NULL, why);
}

/* On the server's thread, when the folder was read. */
static void loaded(void *arg)
{
    struct load *l = arg, **at = &l->all->loads;
    struct call *c = l->call;
    struct adapter *old = find(l->all, l->a->name);
    char text[MAX_NAME + 64];

    if (!l->joined)
        pthread_join(l->thread, NULL);
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    if (!l->rc && old && !l->replace)
        l->rc = err_set(&l->err, ERR_USAGE, "The lora adapter '%s' has already been loaded.",
                        l->a->name);
    if (l->rc) {
        reply_refusal(c, &l->err);
        adapter_free(l->a);
    } else {
        if (old) {
            old->leaving = true;
            if (old->users == 0)
                remove_unused(of(l->all, old->lora));
        }
        insert(l->all, l->a);
        snprintf(text, sizeof(text), "Success: LoRA adapter '%s' added successfully.", l->a->name);
        reply_text(c, 200, "text/plain; charset=utf-8", text, strlen(text));
    }
    free(l);
    call_gen_ended(c);
}

static void *read_folder(void *arg)
{
    struct load *l = arg;

    l->rc = lora_open(&l->a->lora, l->all->g->model, l->a->path, &l->err);
    server_post(l->call->s, loaded, l);
    return NULL;
}

static bool may_load(struct call *c, const char *name, bool replace, struct err *e)
{
    struct adapters *a = c->m->adapters;
    size_t n = 0;

    for (const struct adapter *x = a->first; x; x = x->next)
        n++;
    for (const struct load *l = a->loads; l; l = l->next, n++) {
        if (strcmp(l->a->name, name))
            continue;
        err_set(e, ERR_USAGE, "The lora adapter '%s' is being loaded.", name);
        return false;
    }
    if (check_adapter(a, name, e))
        return false;
    if (find(a, name) && !replace) {
        err_set(e, ERR_USAGE,
                "The lora adapter '%s' has already been loaded. If you want to load the adapter in "
                "place, set 'load_inplace' to True.",
                name);
        return false;
    }
    if (n >= MAX_ADAPTERS)
        err_set(e, ERR_USAGE, "%zu adapters are loaded, which is the most", n);
    return n < MAX_ADAPTERS;
}

void load_lora_adapter(struct call *c)
{
    const char *name = text_of(c, "lora_name"), *path = text_of(c, "lora_path");
    struct adapters *a = c->m->adapters;
    bool replace = false;
    struct load *l;
    struct err e;

    if (!allowed(c))
        return;
    if (!name || !path) {
        not_both(c, "Both 'lora_name' and 'lora_path' must be provided.");
        return;
    }
    if (json_get_bool(c->body, "load_inplace", &replace, "request", &e) < 0 ||
        !may_load(c, name, replace, &e)) {
        reply_refusal(c, &e);
        return;
    }
    l = xcalloc(1, sizeof(*l));
    l->all = a;
    l->call = c;
    l->replace = replace;
    l->a = adapter_new(name, path);
    if (thread_start(&l->thread, read_folder, l)) {
        err_set(&e, ERR_MEMORY, "cannot start a thread to read %s", path);
        adapter_free(l->a);
        free(l);
        reply_error(c, &e);
        return;
    }
    /* `loaded` runs on this thread: it cannot come before the list knows */
    l->next = a->loads;
    a->loads = l;
    c->n_running++;
}

void unload_lora_adapter(struct call *c)
{
    const char *name = text_of(c, "lora_name");
    struct adapters *a = c->m->adapters;
    struct adapter *x;
    char why[MAX_NAME + 64];

    if (!allowed(c))
        return;
    if (!name) {
        not_both(c, "'lora_name' needs to be provided to unload a LoRA adapter.");
        return;
    }
    x = find(a, name);
    if (!x) {
        snprintf(why, sizeof(why), "The lora adapter '%.256s' cannot be found.", name);
        reply_status(c, 404, "NotFoundError", "not_found", why);
        return;
    }
    x->leaving = true;
    x->who = c;
    c->n_running++;
    if (x->users == 0)
        remove_unused(of(a, x->lora));
}
