#include "format/peft.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <math.h>
#include <pcre2.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/pth.h"
#include "format/safetensors.h"

enum { CONFIG_MAX = 1 << 20, MAX_RANK = 1 << 16 };

struct peft {
    char *path, *base, *warning;
    struct st *st; /* one of these two */
    struct pth *pth;
    struct peft_module *module;
    size_t n;
    bool keeps_tied;
};

struct settings {
    int64_t rank;
    double alpha;
    bool rslora, dora, lora_bias;
    json_t *saved;  /* list of names; borrowed; NULL = none */
    json_t *tokens; /* list of ids, or names with such lists; borrowed; NULL = none */
    json_t *rank_pattern, *alpha_pattern; /* borrowed; NULL = none */
};

/* ---- adapter_config.json ---- */

/* Keys that do not change what a trained adapter computes. */
static const char *const harmless[] = {
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "kasa_config",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "monteclora_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
};

/* Keys that do, unless they are off. */
static const char *const refused[] = {
    "alora_invocation_tokens", "fan_in_fan_out", "layer_replication",
    "target_parameters",       "use_bdlora",     "use_qalora",
    "velora_config",
};

/* "bias" tells of the base's biases, which Llama does not have. */
static const char *const read_here[] = {
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
};

static bool listed(const char *const *list, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], key))
            return true;
    return false;
}

static bool is_off(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) ||
           (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

static int check_keys(struct peft *p, json_t *j, const char *what, struct err *e)
{
    const char *key;
    json_t *v;

    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        if (!is_off(json_object_get(j, refused[i])))
            return err_set(e, ERR_FORMAT, "%s: \"%s\" is set, which is not supported", what,
                           refused[i]);
    json_object_foreach(j, key, v)
    {
        if (is_off(v) || listed(harmless, ARRAY_LEN(harmless), key) ||
            listed(read_here, ARRAY_LEN(read_here), key))
            continue;
        char *old = p->warning;

        p->warning = old ? xasprintf("%s, %.64s", old, key)
                         : xasprintf("%s: unknown keys are ignored: %.64s", what, key);
        free(old);
    }
    return 0;
}

static int read_config(struct peft *p, struct settings *s, json_t *j, const char *what,
                       struct err *e)
{
    const char *type = "", *bias = "none", *base = "";

    if (!json_is_object(j))
        return err_set(e, ERR_FORMAT, "%s: not a JSON object", what);
    if (json_get_str(j, "peft_type", &type, NULL, what, e) < 0 ||
        json_get_str(j, "bias", &bias, NULL, what, e) < 0 ||
        json_get_str(j, "base_model_name_or_path", &base, NULL, what, e) < 0)
        return -1;
    if (strcmp(type, "LORA"))
        return err_set(e, ERR_FORMAT, "%s: peft_type \"%.64s\" is not supported (LORA is)", what,
                       type);
    if (strcmp(bias, "none") && strcmp(bias, "all") && strcmp(bias, "lora_only"))
        return err_set(e, ERR_FORMAT, "%s: bias \"%.64s\" is none of none, all, lora_only", what,
                       bias);
    s->alpha = 8; /* PEFT's default */
    if (json_get_int(j, "r", 1, MAX_RANK, &s->rank, what, e) < 0 ||
        json_get_num(j, "lora_alpha", -1e6, 1e6, &s->alpha, what, e) < 0 ||
        json_get_bool(j, "use_rslora", &s->rslora, what, e) < 0 ||
        json_get_bool(j, "use_dora", &s->dora, what, e) < 0 ||
        json_get_bool(j, "lora_bias", &s->lora_bias, what, e) < 0 ||
        json_get_bool(j, "ensure_weight_tying", &p->keeps_tied, what, e) < 0 ||
        json_get_arr(j, "modules_to_save", &s->saved, what, e) < 0 ||
        json_get_obj(j, "rank_pattern", &s->rank_pattern, what, e) < 0 ||
        json_get_obj(j, "alpha_pattern", &s->alpha_pattern, what, e) < 0)
        return -1;
    if (s->rank == 0)
        return err_set(e, ERR_FORMAT, "%s: \"r\" is missing", what);
    s->tokens = json_object_get(j, "trainable_token_indices");
    p->base = xstrdup(base);
    return check_keys(p, j, what, e);
}

/* Whether the pattern, a regular expression, is the end of the module's name, as PEFT matches. */
static int matches(const char *pattern, const char *name, const char *what, struct err *e)
{
    char *re = pattern[0] == '^' ? xstrdup(pattern) : xasprintf("(?:.*\\.)?(?:%s)$", pattern);
    PCRE2_SIZE at;
    int code, rc = -1;
    pcre2_code *c =
        pcre2_compile((PCRE2_SPTR)re, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED, &code, &at, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    pcre2_match_data *m = c ? pcre2_match_data_create_from_pattern(c, NULL) : NULL;

    if (!c) {
        err_set(e, ERR_FORMAT, "%s: pattern \"%.100s\" is no regular expression", what, pattern);
    } else if (!limits || !m) {
        err_set(e, ERR_MEMORY, "%s: no memory for a pattern", what);
    } else {
        pcre2_set_match_limit(limits, 100000);
        code = pcre2_match(c, (PCRE2_SPTR)name, strlen(name), 0, 0, m, limits);
        if (code >= 0 || code == PCRE2_ERROR_NOMATCH)
            rc = code >= 0;
        else
            err_set(e, ERR_FORMAT, "%s: pattern \"%.100s\" takes too long to match", what, pattern);
    }
    pcre2_match_data_free(m);
    pcre2_match_context_free(limits);
    pcre2_code_free(c);
    free(re);
    return rc;
}

/* The first pattern of `list` that matches: 1 and *out, 0 = none. */
static int lookup(json_t *list, const char *name, double min, double *out, const char *what,
                  struct err *e)
{
    const char *key;
    json_t *v;

    json_object_foreach(list, key, v)
    {
        const int rc = matches(key, name, what, e);

        if (rc < 0)
            return -1;
        if (rc)
            return json_get_num(list, key, min, 1e6, out, what, e);
    }
    return 0;
}

static int module_scale(struct peft_module *m, const struct settings *s, const char *what,
                        struct err *e)
{
    double rank = (double)s->rank, alpha = s->alpha;

    if (!m->a)
        return 0;
    const double have = (double)m->a->shape[0];

    if (lookup(s->rank_pattern, m->name, 1, &rank, what, e) < 0 ||
        lookup(s->alpha_pattern, m->name, -1e6, &alpha, what, e) < 0)
        return -1;
    if (rank != have)
        return err_set(e, ERR_FORMAT, "%s: %s has rank %g in the configuration, %g in its tensors",
                       what, m->name, rank, have);
    m->scale = (float)(alpha / (s->rslora ? sqrt(rank) : rank));
    return 0;
}

/* Whether module `name` ends in `tail`, as PEFT looks for modules_to_save. */
static bool ends_in(const char *name, const char *tail)
{
    const size_t n = strlen(name), t = strlen(tail);

    return t && n >= t && !strcmp(name + n - t, tail);
}

/* The ids of a module whose rows are replaced: a list for the embedding, or lists by name. */
static int read_tokens(struct peft_module *m, const struct settings *s, const char *what,
                       struct err *e)
{
    const json_t *list =
        json_is_array(s->tokens) && ends_in(m->name, "embed_tokens") ? s->tokens : NULL;
    const char *key;
    json_t *v;
    int32_t *ids;
    void *p;

    json_object_foreach(json_is_object(s->tokens) ? s->tokens : NULL, key,
                        v) if (ends_in(m->name, key)) list = v;
    const size_t n = json_array_size(list);

    if (n == 0 || n != m->tokens->shape[0])
        return err_set(e, ERR_FORMAT,
                       "%s: trainable_token_indices has %zu ids for %s, the file %llu rows", what,
                       n, m->name, (unsigned long long)m->tokens->shape[0]);
    if (mem_new(&p, n, sizeof(*ids), what, e))
        return -1;
    m->token = ids = p;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) > INT32_MAX)
            return err_set(e, ERR_FORMAT, "%s: trainable_token_indices[%zu] is no token id", what,
                           i);
        ids[i] = (int32_t)json_integer_value(id);
    }
    return 0;
}

/* ---- adapter_model.safetensors ---- */

static bool strip(const char *name, const char *head, const char *tail, size_t *from, size_t *len)
{
    const size_t n = strlen(name), h = strlen(head), t = strlen(tail);

    if (n <= h + t || strncmp(name, head, h) || strcmp(name + n - t, tail))
        return false;
    *from = h;
    *len = n - h - t;
    return true;
}

static int name_cmp(const void *a, const void *b)
{
    return strverscmp(((const struct peft_module *)a)->name, ((const struct peft_module *)b)->name);
}

static struct peft_module *module_of(struct peft *p, const char *name, size_t len)
{
    for (size_t i = 0; i < p->n; i++)
        if (strlen(p->module[i].name) == len && !strncmp(p->module[i].name, name, len))
            return &p->module[i];
    p->module[p->n].name = xmemdup0(name, len);
    return &p->module[p->n++];
}

/* What a tensor of a module is, by the end of its name. Names of an adapter ("default") and of
 * PEFT's wrappers are in files of older versions. */
static const struct tensor_kind {
    const char *tail;
    size_t at; /* in struct peft_module */
    int ndim;
    bool embedding;
} kinds[] = {
#define KIND(tail, field, ndim, embedding)                                                         \
    {                                                                                              \
        tail, offsetof(struct peft_module, field), ndim, embedding                                 \
    }
    KIND(".lora_A.weight", a, 2, false),
    KIND(".lora_A.default.weight", a, 2, false),
    KIND(".lora_B.weight", b, 2, false),
    KIND(".lora_B.default.weight", b, 2, false),
    KIND(".lora_B.bias", bias, 1, false),
    KIND(".lora_embedding_A", a, 2, true),
    KIND(".lora_embedding_B", b, 2, true),
    KIND(".lora_magnitude_vector", magnitude, 1, false),
    KIND(".lora_magnitude_vector.weight", magnitude, 1, false),
    KIND(".token_adapter.trainable_tokens_delta", tokens, 2, false),
    KIND(".base_layer.weight", weight, 0, false),
    KIND(".modules_to_save.weight", weight, 0, false),
    KIND(".modules_to_save.default.weight", weight, 0, false),
    KIND(".weight", weight, 0, false), /* the last: it is the end of others */
#undef KIND
};

static int add_tensor(struct peft *p, const struct tensor_view *t, struct err *e)
{
    static const char head[] = "base_model.model.";

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct tensor_kind *k = &kinds[i];
        size_t from, len;

        if (!strip(t->name, head, k->tail, &from, &len))
            continue;
        struct peft_module *m = module_of(p, t->name + from, len);
        const struct tensor_view **at = (const struct tensor_view **)(void *)((char *)m + k->at);

        if (*at)
            return err_set(e, ERR_FORMAT, "%s: %s and %s say the same", p->path, (*at)->name,
                           t->name);
        if ((k->ndim ? t->ndim != k->ndim : t->ndim != 1 && t->ndim != 2) ||
            !enc_table[t->enc].decode || enc_table[t->enc].block != 1)
            return err_set(e, ERR_FORMAT, "%s: tensor %s is no %s of floats", p->path, t->name,
                           k->ndim == 1 ? "vector" : "matrix");
        *at = t;
        m->embedding |= k->embedding;
        return 0;
    }
    return err_set(e, ERR_FORMAT, "%s: tensor %.200s is not supported", p->path, t->name);
}

static int check_vector(const struct peft *p, const struct peft_module *m,
                        const struct tensor_view *t, bool wanted, const char *key, struct err *e)
{
    if (wanted && m->a && !m->embedding && !t)
        return err_set(e, ERR_FORMAT, "%s: \"%s\" is set, and %s has no such vector", p->path, key,
                       m->name);
    if (!t)
        return 0;
    if (!wanted || !m->a || m->embedding)
        return err_set(e, ERR_FORMAT, "%s: tensor %s belongs to %s, which is not set there",
                       p->path, t->name, key);
    if (t->shape[0] != m->b->shape[0])
        return err_set(e, ERR_FORMAT, "%s: %s has %llu values, lora_B %llu rows", p->path, t->name,
                       (unsigned long long)t->shape[0], (unsigned long long)m->b->shape[0]);
    return 0;
}

static int check_module(const struct peft *p, struct peft_module *m, const struct settings *s,
                        struct err *e)
{
    if (m->tokens && read_tokens(m, s, p->path, e))
        return -1;
    if (!m->a != !m->b)
        return err_set(e, ERR_FORMAT, "%s: %s has no lora_%c", p->path, m->name, m->a ? 'B' : 'A');
    if (!m->a && !m->weight && !m->tokens)
        return err_set(e, ERR_FORMAT, "%s: %s has no lora_A and lora_B", p->path, m->name);
    if (m->embedding && s->dora)
        return err_set(e, ERR_FORMAT, "%s: DoRA of an embedding (%s) is not supported", p->path,
                       m->name);
    if (m->a &&
        (m->a->shape[0] != m->b->shape[1] || m->a->shape[0] == 0 || m->a->shape[0] > MAX_RANK)) {
        char a[64], b[64];

        tensor_shape_text(a, 2, m->a->shape);
        tensor_shape_text(b, 2, m->b->shape);
        return err_set(e, ERR_FORMAT, "%s: %s: lora_A is %s and lora_B %s", p->path, m->name, a, b);
    }
    if (check_vector(p, m, m->magnitude, s->dora, "use_dora", e) ||
        check_vector(p, m, m->bias, s->lora_bias, "lora_bias", e))
        return -1;
    return module_scale(m, s, p->path, e);
}

/* Every name that the configuration says was saved whole must be there. */
static int check_saved(const struct peft *p, const struct settings *s, struct err *e)
{
    for (size_t i = 0; i < json_array_size(s->saved); i++) {
        const char *name = json_string_value(json_array_get(s->saved, i));
        bool found = false;

        for (size_t k = 0; k < p->n && name; k++)
            found |= p->module[k].weight && ends_in(p->module[k].name, name);
        if (!found)
            return err_set(e, ERR_FORMAT, "%s: modules_to_save has \"%.100s\", the file does not",
                           p->path, name ? name : "(no name)");
    }
    return 0;
}

/* p->st or p->pth is open. */
static int read_tensors(struct peft *p, const struct settings *s, struct err *e)
{
    const size_t n = p->st ? st_tensors(p->st) : pth_tensors(p->pth);
    void *mem;

    if (n == 0)
        return err_set(e, ERR_FORMAT, "%s: no tensors", p->st ? st_path(p->st) : pth_path(p->pth));
    if (mem_new(&mem, n, sizeof(*p->module), p->path, e))
        return -1;
    p->module = mem;
    for (size_t i = 0; i < n; i++)
        if (add_tensor(p, p->st ? st_tensor(p->st, i) : pth_tensor(p->pth, i), e))
            return -1;
    for (size_t i = 0; i < p->n; i++)
        if (check_module(p, &p->module[i], s, e))
            return -1;
    if (check_saved(p, s, e))
        return -1;
    qsort(p->module, p->n, sizeof(*p->module), name_cmp);
    return 0;
}

static int open_tensors(struct peft *p, struct err *e)
{
    char *file = path_join(p->path, "adapter_model.safetensors");
    char *bin = path_join(p->path, "adapter_model.bin");
    const bool old = !file_exists(file) && file_exists(bin);
    const int rc = old ? pth_open(&p->pth, bin, e) : st_open(&p->st, file, e);

    free(file);
    free(bin);
    return rc;
}

int peft_open(struct peft **out, const char *dir, struct err *e)
{
    struct peft *p = xcalloc(1, sizeof(*p));
    char *what = path_join(dir, "adapter_config.json");
    struct settings s = { 0 };
    json_t *j = NULL;
    int rc = -1;

    p->path = xstrdup(dir);
    if (!json_parse_file(&j, what, CONFIG_MAX, e) && !read_config(p, &s, j, what, e) &&
        !open_tensors(p, e) && !read_tensors(p, &s, e))
        rc = 0;
    json_decref(j);
    free(what);
    if (rc)
        peft_close(p);
    else
        *out = p;
    return rc;
}

int peft_open_mem(struct peft **out, const void *config, size_t n_config, const void *tensors,
                  size_t n_tensors, const char *what, struct err *e)
{
    struct peft *p = xcalloc(1, sizeof(*p));
    struct settings s = { 0 };
    json_t *j = NULL;
    int rc = -1;

    p->path = xstrdup(what);
    if (!json_parse(&j, config, n_config, what, e) && !read_config(p, &s, j, what, e) &&
        !st_open_mem(&p->st, tensors, n_tensors, what, e) && !read_tensors(p, &s, e))
        rc = 0;
    json_decref(j);
    if (rc)
        peft_close(p);
    else
        *out = p;
    return rc;
}

void peft_close(struct peft *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n; i++) {
        free(p->module[i].name);
        free((void *)(uintptr_t)p->module[i].token);
    }
    free(p->module);
    st_close(p->st);
    pth_close(p->pth);
    free(p->path);
    free(p->base);
    free(p->warning);
    free(p);
}

const char *peft_path(const struct peft *p)
{
    return p->path;
}

const char *peft_base(const struct peft *p)
{
    return p->base;
}

const char *peft_warning(const struct peft *p)
{
    return p->warning;
}

size_t peft_modules(const struct peft *p)
{
    return p->n;
}

const struct peft_module *peft_module(const struct peft *p, size_t i)
{
    return &p->module[i];
}

bool peft_keeps_tied(const struct peft *p)
{
    return p->keeps_tied;
}
