#include "hub/models.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"

/* Short names of files that the cache keeps under the name they were published with. */
static const struct {
    const char *file;
    const char *names[4]; /* the first one is shown */
} shorts[] = {
    { "SmolLM2-135M-Instruct.Q4_1.gguf",
      { HUB_DEFAULT, "smollm2", "smollm2-135m", "SmolLM2-135M-Instruct" } },
};

static int xdg_dir(char **out, const char *var, const char *below_home, struct err *e)
{
    const char *base = getenv(var), *home = getenv("HOME");

    if (base && base[0] == '/') /* the specification ignores relative paths */
        *out = path_join(base, "puna");
    else if (home && *home)
        *out = xasprintf("%s/%s/puna", home, below_home);
    else
        return err_set(e, ERR_FAIL, "neither %s nor HOME is set", var);
    return 0;
}

int hub_cache_dir(char **out, struct err *e)
{
    return xdg_dir(out, "XDG_CACHE_HOME", ".cache", e);
}

int hub_state_dir(char **out, struct err *e)
{
    return xdg_dir(out, "XDG_STATE_HOME", ".local/state", e);
}

/* ---- what is in the cache ---- */

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), m = strlen(tail);

    return n > m && !strcasecmp(s + n - m, tail);
}

/* Part of a split GGUF set, NAME-00002-of-00003.gguf, other than the first. */
static bool is_later_part(const char *file)
{
    const size_t tail = strlen("-00001-of-00003.gguf"), n = strlen(file);

    if (n <= tail)
        return false;
    const char *s = file + n - tail;

    return s[0] == '-' && !strncmp(s + 6, "-of-", 4) && strspn(s + 1, "0123456789") == 5 &&
           strncmp(s + 1, "00001", 5) != 0;
}

static size_t folder_bytes(const char *dir)
{
    DIR *d = opendir(dir);
    size_t sum = 0;

    for (struct dirent *de; d && (de = readdir(d));) {
        struct stat st;
        char *path;

        if (!ends_with(de->d_name, ".safetensors") && !ends_with(de->d_name, ".gguf") &&
            !ends_with(de->d_name, ".pth"))
            continue;
        path = path_join(dir, de->d_name);
        if (!stat(path, &st) && S_ISREG(st.st_mode))
            sum += (size_t)st.st_size;
        free(path);
    }
    if (d)
        closedir(d);
    return sum;
}

static bool is_model_dir(const char *dir)
{
    static const char *const marks[] = { "config.json", "params.json" };
    bool found = false;

    for (size_t i = 0; i < ARRAY_LEN(marks) && !found; i++) {
        char *path = path_join(dir, marks[i]);

        found = file_exists(path);
        free(path);
    }
    return found;
}

static void add_model(struct hub_models *m, char *name, const char *path, size_t bytes)
{
    m->p = xrealloc(m->p, (m->n + 1) * sizeof(*m->p));
    m->p[m->n++] = (struct hub_model){ .name = name, .path = xstrdup(path), .bytes = bytes };
}

/* Models in dir; `prefix` is "" or "org/". Folders that are no models are looked into once. */
static int scan(struct hub_models *m, const char *dir, const char *prefix, struct err *e)
{
    DIR *d = opendir(dir);

    if (!d) {
        if (errno == ENOENT || *prefix)
            return 0;
        return err_set(e, ERR_FAIL, "%s: %s", dir, strerror(errno));
    }
    for (struct dirent *de; (de = readdir(d));) {
        struct stat st;
        char *path;
        int rc = 0;

        if (de->d_name[0] == '.')
            continue;
        path = path_join(dir, de->d_name);
        if (stat(path, &st)) {
            free(path);
            continue;
        }
        if (S_ISREG(st.st_mode) && ends_with(de->d_name, ".gguf") && !is_later_part(de->d_name)) {
            const int n = (int)(strlen(de->d_name) - strlen(".gguf"));

            add_model(m, xasprintf("%s%.*s", prefix, n, de->d_name), path, (size_t)st.st_size);
        } else if (S_ISDIR(st.st_mode) && is_model_dir(path)) {
            add_model(m, xasprintf("%s%s", prefix, de->d_name), path, folder_bytes(path));
        } else if (S_ISDIR(st.st_mode) && !*prefix) {
            char *below = xasprintf("%s/", de->d_name);

            rc = scan(m, path, below, e);
            free(below);
        }
        free(path);
        if (rc) {
            closedir(d);
            return -1;
        }
    }
    closedir(d);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const struct hub_model *x = a, *y = b;
    const int c = strcasecmp(x->name, y->name);

    return c ? c : strcmp(x->name, y->name);
}

int hub_list(struct hub_models *out, struct err *e)
{
    struct hub_models m = { 0 };
    char *cache, *dir;
    int rc;

    if (hub_cache_dir(&cache, e))
        return -1;
    dir = path_join(cache, "models");
    free(cache);
    rc = scan(&m, dir, "", e);
    if (rc) {
        hub_models_release(&m);
        free(dir);
        return -1;
    }
    for (size_t i = 0; i < m.n; i++)
        for (size_t k = 0; k < ARRAY_LEN(shorts); k++) {
            char *path = path_join(dir, shorts[k].file);

            if (!strcmp(m.p[i].path, path)) {
                free(m.p[i].name);
                m.p[i].name = xstrdup(shorts[k].names[0]);
                m.p[i].is_default = !strcmp(shorts[k].names[0], HUB_DEFAULT);
            }
            free(path);
        }
    if (m.n)
        qsort(m.p, m.n, sizeof(*m.p), by_name);
    free(dir);
    *out = m;
    return 0;
}

void hub_models_release(struct hub_models *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->p[i].name);
        free(m->p[i].path);
    }
    free(m->p);
    *m = (struct hub_models){ 0 };
}

/* ---- references ---- */

static const char *short_file(const char *ref)
{
    for (size_t i = 0; i < ARRAY_LEN(shorts); i++)
        for (size_t k = 0; k < ARRAY_LEN(shorts[i].names) && shorts[i].names[k]; k++)
            if (!strcasecmp(ref, shorts[i].names[k]))
                return shorts[i].file;
    return NULL;
}

/* How well ref names a model: 2 = its whole name, 1 = all but the quantisation (".Q4_1",
 * "-Q4_K_M"), 0 = not. */
static int name_match(const char *ref, const struct hub_model *m)
{
    const char *file = strrchr(m->path, '/') + 1;
    const size_t n = strlen(ref);

    if (!strcasecmp(ref, m->name) || !strcasecmp(ref, file))
        return 2;
    if (ends_with(file, ".gguf") && !strncasecmp(ref, file, n) && !strcasecmp(file + n, ".gguf"))
        return 2;
    if (!strncasecmp(ref, m->name, n) && (m->name[n] == '.' || m->name[n] == '-') &&
        strchr("qQfFbB", m->name[n + 1]) && strpbrk(m->name + n + 1, "0123456789"))
        return 1;
    return 0;
}

static int find_in_cache(const char *ref, char **path, struct err *e)
{
    struct hub_models m;
    size_t hits = 0, at = 0;
    int best = 0;

    if (hub_list(&m, e))
        return -1;
    for (size_t i = 0; i < m.n; i++) {
        const int q = name_match(ref, &m.p[i]);

        if (q > best) {
            best = q;
            hits = 0;
        }
        if (q && q == best) {
            at = i;
            hits++;
        }
    }
    if (hits == 1)
        *path = xstrdup(m.p[at].path);
    else if (hits > 1)
        err_set(e, ERR_USAGE,
                "model '%.200s' is ambiguous: %zu files fit; puna list shows their full names", ref,
                hits);
    else
        err_set(e, ERR_NOT_FOUND,
                "no model '%.200s': no such file or folder, and not among those puna list shows",
                ref);
    hub_models_release(&m);
    return hits == 1 ? 0 : -1;
}

static int find_short(const char *ref, const char *file, char **path, struct err *e)
{
    char *cache, *full;

    if (hub_cache_dir(&cache, e))
        return -1;
    full = xasprintf("%s/models/%s", cache, file);
    free(cache);
    if (!file_exists(full)) {
        err_set(e, ERR_NOT_FOUND, "%s is not on this machine (%s); run script/setup to fetch it",
                ref, full);
        free(full);
        return -1;
    }
    *path = full;
    return 0;
}

int hub_resolve(const char *ref, char **path, struct err *e)
{
    struct stat st;
    const char *file;

    if (!ref)
        return find_short("the default model " HUB_DEFAULT, shorts[0].file, path, e);
    if (!*ref)
        return err_set(e, ERR_USAGE, "the model's name is empty");
    if (!stat(ref, &st)) {
        *path = xstrdup(ref);
        return 0;
    }
    if (errno != ENOENT && errno != ENOTDIR)
        return err_set(e, ERR_FAIL, "%.500s: %s", ref, strerror(errno));
    file = short_file(ref);
    if (file)
        return find_short(ref, file, path, e);
    if (ref[0] == '/' || ref[0] == '.')
        return err_set(e, ERR_NOT_FOUND, "%.500s: %s", ref, strerror(errno));
    return find_in_cache(ref, path, e);
}

bool hub_known(const char *ref)
{
    char *path;

    if (short_file(ref))
        return true; /* even when it still has to be fetched */
    if (hub_resolve(ref, &path, NULL))
        return false;
    free(path);
    return true;
}
