#include "format/checkpoint_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "format/join.h"
#include "format/meta.h"
#include "format/safetensors.h"
#include "format/sha256sums.h"

enum { CONFIG_MAX = 1 << 20, INDEX_MAX = 64 << 20 };

/* ---- opening ---- */

static int read_json(json_t **out, const char *dir, const char *name, size_t max, struct err *e)
{
    char *path = path_join(dir, name);
    const int rc = json_parse_file(out, path, max, e);

    free(path);
    return rc;
}

static bool have(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    const bool yes = file_exists(path);

    free(path);
    return yes;
}

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = strlen(s), t = strlen(tail);

    return n > t && !strcmp(s + n - t, tail);
}

/* Adds to the one line of warnings. */
static void warn(struct checkpoint *c, const char *what)
{
    char *old = c->warning;

    c->warning = old ? xasprintf("%s; %s", old, what) : xasprintf("%s: %s", c->path, what);
    free(old);
}

static void warn_code(struct checkpoint *c, const char *what)
{
    char *s = xasprintf("%s came with the model and is ignored: no code from a model is run", what);

    warn(c, s);
    free(s);
}

/* The base and the context of Llama 3.1 without its scaling: early conversions dropped it. */
static void warn_rope(struct checkpoint *c)
{
    const struct rope_params *r = &c->hp.rope;

    if (r->type == ROPE_PLAIN && r->theta == 500000 && c->hp.ctx == 131072 &&
        !checkpoint_find(c, "rope_freqs.weight"))
        warn(c,
             "131072 tokens of context without rope scaling: if this is a copy of Llama 3.1, the "
             "scaling was lost, and prompts beyond 8192 tokens will go wrong");
}

/* Where the first tools for AWQ and GPTQ kept what config.json says now. */
static int side_config(struct checkpoint *c, struct err *e)
{
    static const char *const name[] = { "quantize_config.json", "quant_config.json" };
    int rc = 0;

    for (size_t i = 0; !rc && i < ARRAY_LEN(name) && c->hp.quant.method == QUANT_NONE; i++) {
        json_t *j = NULL;

        if (!have(c->path, name[i]))
            continue;
        char *what = path_join(c->path, name[i]);

        rc = read_json(&j, c->path, name[i], CONFIG_MAX, e) || quant_read(&c->hp.quant, j, what, e);
        json_decref(j);
        free(what);
    }
    return rc ? -1 : 0;
}

/* generation_config.json, where there is one. */
static int open_generation(struct checkpoint *c, struct err *e)
{
    static const char name[] = "generation_config.json";
    char *what = path_join(c->path, name);
    json_t *j = NULL;
    int rc = -1;

    if (!have(c->path, name)) {
        rc = 0;
        goto done;
    }
    if (read_json(&j, c->path, name, CONFIG_MAX, e) || gen_defaults_read(&c->gen, j, what, e))
        goto done;
    for (int i = 0; i < c->gen.n_eos; i++) {
        if (c->gen.eos[i] >= c->hp.vocab) {
            err_set(e, ERR_FORMAT, "%s: eos_token_id %lld is outside the vocabulary of %lld", what,
                    (long long)c->gen.eos[i], (long long)c->hp.vocab);
            goto done;
        }
    }
    rc = 0;
done:
    json_decref(j);
    free(what);
    return rc;
}

static int open_config(struct checkpoint *c, struct err *e)
{
    char *what = path_join(c->path, "config.json");
    json_t *j = NULL;
    int rc = -1;

    if (read_json(&j, c->path, "config.json", CONFIG_MAX, e) ||
        hparams_from_config(&c->hp, j, what, e) || side_config(c, e))
        goto done;
    if (json_object_get(j, "auto_map"))
        warn_code(c, "auto_map in config.json");
    rc = open_generation(c, e);
done:
    json_decref(j);
    free(what);
    return rc;
}

static int add_shard(struct checkpoint *c, const char *name, struct err *e)
{
    char *path = path_join(c->path, name);
    const int rc = st_open(&c->shard[c->n_shards], path, e);

    free(path);
    if (!rc)
        c->n_shards++;
    return rc;
}

/* Layer 2 before layer 10, as people list them; 0 for equal names only. */
static int placed_cmp(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    return strverscmp(x->view->name, y->view->name);
}

static int sort_tensors(struct checkpoint *c, struct err *e)
{
    qsort(c->tensor, c->n, sizeof(*c->tensor), placed_cmp);
    for (size_t i = 1; i < c->n; i++)
        if (!placed_cmp(&c->tensor[i - 1], &c->tensor[i]))
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s is in two files", c->path,
                           c->tensor[i].view->name);
    return 0;
}

/* All shards' tensors into one sorted list. */
static int index_tensors(struct checkpoint *c, struct err *e)
{
    size_t n = 0;
    void *p;

    for (size_t i = 0; i < c->n_shards; i++)
        n += st_tensors(c->shard[i]);
    if (mem_new(&p, n, sizeof(*c->tensor), c->path, e))
        return -1;
    c->tensor = p;
    for (size_t i = 0; i < c->n_shards; i++)
        for (size_t k = 0; k < st_tensors(c->shard[i]); k++)
            c->tensor[c->n++] =
                (struct placed){ st_tensor(c->shard[i], k), st_path(c->shard[i]), NULL };
    return sort_tensors(c, e);
}

static int open_single(struct checkpoint *c, const char *name, struct err *e)
{
    c->shard = xcalloc(1, sizeof(*c->shard));
    return add_shard(c, name, e) || index_tensors(c, e) ? -1 : 0;
}

/* A value of weight_map: the name of a file of this folder and of no other. */
static int shard_name(const json_t *v, const char **out, const char *what, struct err *e)
{
    const char *s = json_string_value(v);

    if (!s || strlen(s) != json_string_length(v) || strpbrk(s, "/\\") || s[0] == '.' ||
        !ends_with(s, ".safetensors"))
        return err_set(e, ERR_FORMAT,
                       "%s: weight_map: \"%.200s\" is not the name of a safetensors file "
                       "in this folder",
                       what, s ? s : "(no string)");
    *out = s;
    return 0;
}

static int str_ptr_cmp(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Opens each file that weight_map names, once. */
static int open_shards(struct checkpoint *c, json_t *map, const char *what, struct err *e)
{
    const size_t n = json_object_size(map);
    const char **name, *key;
    json_t *value;
    void *p;
    size_t i = 0;
    int rc = -1;

    if (mem_new(&p, n, sizeof(*name), what, e))
        return -1;
    name = p;
    json_object_foreach(map, key, value) if (shard_name(value, &name[i++], what, e)) goto done;
    qsort(name, n, sizeof(*name), str_ptr_cmp);
    if (mem_new(&p, n, sizeof(*c->shard), what, e))
        goto done;
    c->shard = p;
    for (i = 0; i < n; i++)
        if ((i == 0 || strcmp(name[i - 1], name[i])) && add_shard(c, name[i], e))
            goto done;
    rc = index_tensors(c, e);
done:
    free(name);
    return rc;
}

const struct placed *checkpoint_placed(const struct checkpoint *c, const char *name)
{
    const struct tensor_view view = { .name = name };
    const struct placed key = { &view, NULL, NULL };

    return c->n ? bsearch(&key, c->tensor, c->n, sizeof(*c->tensor), placed_cmp) : NULL;
}

static const struct tensor_view *find_exact(const struct checkpoint *c, const char *name)
{
    const struct placed *t = checkpoint_placed(c, name);

    return t ? t->view : NULL;
}

/* A tensor must lie in the file that the index says. */
static int check_index(const struct checkpoint *c, json_t *map, const char *what, struct err *e)
{
    const char *key;
    json_t *value;

    json_object_foreach(map, key, value)
    {
        const struct placed *t = checkpoint_placed(c, key);
        const char *file = json_string_value(value);

        if (!t || strcmp(strrchr(t->file, '/') + 1, file)) /* path_join put the slash */
            return err_set(e, ERR_FORMAT, "%s: tensor %.200s is not in %.200s", what, key, file);
    }
    return 0;
}

static int open_index(struct checkpoint *c, const char *name, struct err *e)
{
    char *what = path_join(c->path, name);
    json_t *j = NULL, *map = NULL;
    int rc = -1;

    if (read_json(&j, c->path, name, INDEX_MAX, e))
        goto done;
    if (!json_is_object(j) || json_get_obj(j, "weight_map", &map, what, e) <= 0 ||
        json_object_size(map) == 0) {
        err_set(e, ERR_FORMAT, "%s: \"weight_map\" is missing or empty", what);
        goto done;
    }
    if (open_shards(c, map, what, e) || check_index(c, map, what, e))
        goto done;
    rc = 0;
done:
    json_decref(j);
    free(what);
    return rc;
}

/* What a folder holds beside the files with fixed names. */
struct listing {
    char *gguf; /* the one GGUF file, or the first of the one set; NULL = none */
    int n_gguf;
    bool python;
    bool pickle; /* weights that only torch reads */
};

static int list_dir(struct listing *l, const char *path, struct err *e)
{
    DIR *d = opendir(path);
    const struct dirent *f;

    if (!d)
        return err_set(e, ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
    while ((f = readdir(d))) {
        size_t stem;
        unsigned no, count;

        if (ends_with(f->d_name, ".gguf") &&
            !(gguf_split_name(f->d_name, &stem, &no, &count) && no > 1)) {
            free(l->gguf);
            l->gguf = xstrdup(f->d_name);
            l->n_gguf++;
        }
        l->python |= ends_with(f->d_name, ".py");
        l->pickle |= ends_with(f->d_name, ".pth") || ends_with(f->d_name, ".bin");
    }
    closedir(d);
    return 0;
}

static int open_gguf(struct checkpoint *c, const char *path, struct err *e)
{
    return gguf_open(&c->gguf, path, e) || hparams_from_gguf(&c->hp, c->gguf, e) ? -1 : 0;
}

static void warn_copies(struct checkpoint *c, size_t times)
{
    char *s = xasprintf("the files hold each of the %lld key and value heads %zu times; the copies "
                        "are left out",
                        (long long)c->hp.kv_heads, times);

    warn(c, s);
    free(s);
}

/* DIR/params.json and DIR/consolidated.NN.pth. */
static int open_meta(struct checkpoint *c, const char *dir, struct err *e)
{
    char *what = path_join(dir, "params.json");
    json_t *j = NULL;
    void *p;
    int rc = -1;

    if (read_json(&j, dir, "params.json", CONFIG_MAX, e) ||
        hparams_from_params(&c->hp, j, what, e) || meta_open(&c->meta, dir, &c->hp, e) ||
        open_generation(c, e) ||
        mem_new(&p, meta_tensors(c->meta) + 1, sizeof(*c->tensor), c->path, e))
        goto done;
    c->tensor = p;
    for (size_t i = 0; i < meta_tensors(c->meta); i++) {
        const struct tensor_view *t = meta_tensor(c->meta, i);

        c->tensor[c->n++] = (struct placed){ t, meta_file(c->meta), meta_joined(c->meta, t) };
    }
    if (sort_tensors(c, e))
        goto done;
    const struct tensor_view *q = find_exact(c, "layers.0.attention.wq.weight");

    if (q && (q->enc == ENC_F16 || q->enc == ENC_F32))
        c->hp.dtype = q->enc;
    c->hp.tied = !find_exact(c, "output.weight");
    if (meta_copies(c->meta) > 1)
        warn_copies(c, meta_copies(c->meta));
    rc = 0;
done:
    json_decref(j);
    free(what);
    return rc;
}

/* The folder of Meta's files in or under path, malloc'd; NULL = none. */
static char *meta_dir(const char *path)
{
    static const char *const sub[] = { ".", "original" };

    for (size_t i = 0; i < ARRAY_LEN(sub); i++) {
        char *dir = i ? path_join(path, sub[i]) : xstrdup(path);

        if (have(dir, "params.json") && have(dir, "consolidated.00.pth"))
            return dir;
        free(dir);
    }
    return NULL;
}

/* The first upload of the 405B held each key and value head twice, next to each other, because it
 * came from files for 16 ranks; so do copies of it. Where that is so to the last bit, in every
 * layer, the second is left out: the result is the same and the cache half as large. */
static bool kv_twice(const struct checkpoint *c)
{
    const size_t hd = (size_t)c->hp.head_dim;

    for (int64_t l = 0; l < c->hp.layers; l++) {
        for (int v = 0; v < 2; v++) {
            const struct tensor_view *t;
            char name[CHECKPOINT_NAME];

            snprintf(name, sizeof(name), "model.layers.%lld.self_attn.%c_proj.weight", (long long)l,
                     "kv"[v]);
            t = find_exact(c, name);
            if (!t || t->ndim != 2 || t->shape[0] != (uint64_t)c->hp.kv_heads * hd)
                return false;
            const size_t head = t->nbytes / (size_t)c->hp.kv_heads;

            for (int64_t h = 0; h < c->hp.kv_heads; h += 2)
                if (memcmp(t->data + (size_t)h * head, t->data + (size_t)(h + 1) * head, head))
                    return false;
        }
    }
    return true;
}

static int drop_kv_copies(struct checkpoint *c, struct err *e)
{
    const size_t hd = (size_t)c->hp.head_dim, heads = (size_t)c->hp.kv_heads;
    struct tensor_view *piece;
    void *p;

    if (heads % 2 || c->hp.quant.method != QUANT_NONE || !kv_twice(c))
        return 0;
    if (mem_new(&p, (size_t)c->hp.layers * 2, sizeof(*c->halved), c->path, e))
        return -1;
    c->halved = p;
    piece = xcalloc(heads / 2, sizeof(*piece));
    c->hp.kv_heads /= 2;
    for (size_t i = 0; i < c->n; i++) {
        const struct tensor_view *t = c->tensor[i].view;
        int64_t layer;
        const struct slot *s = slot_find(t->name, NAMES_HF, &layer);

        if (!s || s->rows != AX_KV || layer >= c->hp.layers)
            continue;
        for (size_t h = 0; h < heads / 2; h++)
            piece[h] = tensor_rows(t, 2 * h * hd, hd);
        if (join_init(&c->halved[c->n_halved], t->name, piece, heads / 2, 0, 0, e)) {
            free(piece);
            return -1;
        }
        c->tensor[i].joined = &c->halved[c->n_halved];
        c->tensor[i].view = &c->halved[c->n_halved++].view;
    }
    free(piece);
    warn_copies(c, 2);
    return 0;
}

static int open_dir(struct checkpoint *c, struct err *e)
{
    static const char single[] = "model.safetensors", index[] = "model.safetensors.index.json";
    struct listing l = { 0 };
    char *meta = meta_dir(c->path);
    int rc = -1;

    if (list_dir(&l, c->path, e) || sha256sums_check(c->path, e))
        goto done;
    if (l.python)
        warn_code(c, "Python code");
    if (have(c->path, single) || have(c->path, index)) {
        if (open_config(c, e) == 0 &&
            (have(c->path, single) ? open_single(c, single, e) : open_index(c, index, e)) == 0)
            rc = drop_kv_copies(c, e);
    } else if (l.n_gguf == 1) {
        char *path = path_join(c->path, l.gguf);

        rc = open_gguf(c, path, e);
        free(path);
    } else if (l.n_gguf > 1) {
        err_set(e, ERR_NOT_FOUND, "%s: %d GGUF models are in this folder: name one of them",
                c->path, l.n_gguf);
    } else if (meta) {
        rc = open_meta(c, meta, e);
    } else {
        err_set(e, ERR_NOT_FOUND,
                "%s: no model.safetensors, no %s, no GGUF file and no params.json with "
                "consolidated.00.pth in this folder%s",
                c->path, index, l.pickle ? " (its other .pth or .bin files are not read)" : "");
    }
done:
    free(meta);
    free(l.gguf);
    return rc;
}

int checkpoint_open(struct checkpoint **out, const char *path, struct err *e)
{
    struct checkpoint *c = xcalloc(1, sizeof(*c));

    c->path = xstrdup(path);
    if (file_is_dir(path) ? open_dir(c, e) : open_gguf(c, path, e)) {
        checkpoint_close(c);
        return -1;
    }
    warn_rope(c);
    *out = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_shards; i++)
        st_close(c->shard[i]);
    free(c->shard);
    free(c->tensor);
    for (size_t i = 0; i < c->n_halved; i++)
        join_release(&c->halved[i]);
    free(c->halved);
    meta_close(c->meta);
    gguf_close(c->gguf);
    free(c->warning);
    free(c->path);
    free(c);
}

/* ---- asking ---- */

const char *checkpoint_path(const struct checkpoint *c)
{
    return c->path;
}

const char *checkpoint_warning(const struct checkpoint *c)
{
    return c->warning;
}

const struct hparams *checkpoint_hparams(const struct checkpoint *c)
{
    return &c->hp;
}

const struct gen_defaults *checkpoint_gen_defaults(const struct checkpoint *c)
{
    return &c->gen;
}

const struct gguf *checkpoint_gguf(const struct checkpoint *c)
{
    return c->gguf;
}

size_t checkpoint_tensors(const struct checkpoint *c)
{
    return c->gguf ? gguf_tensors(c->gguf) : c->n;
}

const struct tensor_view *checkpoint_tensor(const struct checkpoint *c, size_t i)
{
    return c->gguf ? gguf_tensor(c->gguf, i) : c->tensor[i].view;
}

const struct tensor_view *checkpoint_find_own(const void *c, const char *name)
{
    const struct checkpoint *k = c;

    return k->gguf ? gguf_find(k->gguf, name) : find_exact(k, name);
}

/* A Hugging Face name in this checkpoint's words, in buf or as it is. */
static const char *own_name(const struct checkpoint *c, const char *hf_name,
                            char buf[CHECKPOINT_NAME])
{
    int64_t layer;
    const struct slot *s =
        checkpoint_names(c) == NAMES_HF ? NULL : slot_find(hf_name, NAMES_HF, &layer);

    if (!s)
        return hf_name;
    slot_name(buf, CHECKPOINT_NAME, s, layer, checkpoint_names(c));
    return buf;
}

const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *hf_name)
{
    char name[CHECKPOINT_NAME];

    return checkpoint_find_own(c, own_name(c, hf_name, name));
}

const char *checkpoint_container(const struct checkpoint *c)
{
    return c->gguf ? "gguf" : c->meta ? "consolidated" : "safetensors";
}

int checkpoint_join(struct checkpoint *c, const char *hf_name, struct err *e)
{
    char name[CHECKPOINT_NAME];
    const struct placed *p = c->gguf ? NULL : checkpoint_placed(c, own_name(c, hf_name, name));

    return p && p->joined ? join_fill(p->joined, e) : 0;
}

void checkpoint_unjoin(struct checkpoint *c, const char *hf_name)
{
    char name[CHECKPOINT_NAME];
    const struct placed *p = c->gguf ? NULL : checkpoint_placed(c, own_name(c, hf_name, name));

    if (p && p->joined)
        join_drop(p->joined);
}

int checkpoint_join_all(struct checkpoint *c, struct err *e)
{
    const size_t free_now = mem_available();
    size_t need = 0;

    for (size_t i = 0; i < c->n; i++)
        if (c->tensor[i].joined && !c->tensor[i].view->data)
            need += c->tensor[i].view->nbytes;
    if (need > free_now && free_now)
        return err_set(e, ERR_MEMORY,
                       "%s: its tensors lie in pieces and %zu bytes of them have to be joined in "
                       "memory, where %zu are free: `puna convert` writes files that are mapped as "
                       "they are",
                       c->path, need, free_now);
    for (size_t i = 0; i < c->n; i++)
        if (c->tensor[i].joined && join_fill(c->tensor[i].joined, e))
            return -1;
    return 0;
}

size_t checkpoint_slots(const struct checkpoint *c)
{
    return (size_t)c->hp.layers * SLOTS_LAYER + SLOTS_GLOBAL - c->hp.tied;
}

void checkpoint_slot(const struct checkpoint *c, size_t i, enum tensor_names names,
                     char out[CHECKPOINT_NAME])
{
    const size_t in_layers = (size_t)c->hp.layers * SLOTS_LAYER;
    const size_t per = SLOTS_LAYER;

    BUG_ON(i >= checkpoint_slots(c));
    if (i == 0)
        slot_name(out, CHECKPOINT_NAME, &slots_global[0], -1, names);
    else if (i <= in_layers)
        slot_name(out, CHECKPOINT_NAME, &slots_layer[(i - 1) % per], (int64_t)((i - 1) / per),
                  names);
    else
        slot_name(out, CHECKPOINT_NAME, &slots_global[i - in_layers], -1, names);
}

size_t checkpoint_bytes(const struct checkpoint *c)
{
    size_t n = 0;

    for (size_t i = 0; i < checkpoint_tensors(c); i++)
        n += checkpoint_tensor(c, i)->nbytes;
    return n;
}
