/* convert_plan.c - which tensors go where: names, order, encodings, files. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/convert_int.h"
#include "format/sha256sums.h"
#include "format/st_write.h"

static const size_t HEAD_MAX = (size_t)1 << 30;

static bool is_float(enum enc enc)
{
    return enc == ENC_F32 || enc == ENC_F16 || enc == ENC_BF16;
}

/* True when every value of a vector survives a trip through `enc`. */
static bool vector_fits(const struct weight *w, enum enc enc)
{
    const struct enc_info *from = &enc_table[w->enc], *to = &enc_table[enc];

    for (size_t i = 0; i < w->cols; i++) {
        uint8_t bytes[4];
        float x, y;

        from->decode(&x, (const uint8_t *)w->data + i * from->bytes, 1);
        to->encode(bytes, &x, 1);
        to->decode(&y, bytes, 1);
        if (memcmp(&x, &y, sizeof(x)))
            return false;
    }
    return true;
}

/* Norms are f32 in GGUF, as llama.cpp wants them, and of the model's type in Hugging Face's files
 * as far as that loses nothing. */
static enum enc vector_enc(const struct conv *v, const struct weight *w)
{
    return v->to_gguf || !is_float(w->enc) || !vector_fits(w, v->hp.dtype) ? ENC_F32 : v->hp.dtype;
}

static int matrix_enc(const struct conv *v, const struct weight *w, enum enc *out, struct err *e)
{
    *out = v->outtype < 0 ? w->enc : (enum enc)v->outtype;
    if (enc_has_planes(*out) || (!v->to_gguf && !is_float(*out)))
        *out = v->hp.dtype;
    if (*out == w->enc)
        return 0;
    if (!is_float(w->enc) && !is_float(*out))
        return err_set(e, ERR_USAGE,
                       "%s: %s is %s already: quantised weights are not quantised again; convert "
                       "the original, or give --outtype f16, bf16 or f32",
                       v->src, w->name, enc_table[w->enc].name);
    if (w->cols % enc_table[*out].block)
        *out = ENC_F16;
    return 0;
}

static void set_size(struct conv_tensor *t)
{
    size_t n = 1;

    for (int i = 0; i < t->out.ndim; i++)
        n *= (size_t)t->out.shape[i]; /* checked when the source was opened */
    t->out.name = t->name;
    t->out.nbytes = n / enc_table[t->out.enc].block * enc_table[t->out.enc].bytes;
}

static int add_slot(struct conv *v, size_t i, struct err *e)
{
    struct conv_tensor *t = &v->t[v->n++];
    const char *hf = t->hf;
    const struct tensor_view *vector;

    checkpoint_slot(v->c, i, NAMES_HF, t->hf);
    checkpoint_slot(v->c, i, v->to_gguf ? NAMES_GGUF : NAMES_HF, t->name);
    if (strstr(hf, "norm.weight")) {
        vector = checkpoint_find(v->c, hf);
        BUG_ON(!vector); /* checkpoint_check found it */
        t->src = (struct weight){ .enc = vector->enc,
                                  .rows = 1,
                                  .cols = (size_t)vector->shape[0],
                                  .data = vector->data,
                                  .row_bytes = vector->nbytes,
                                  .name = vector->name };
        t->out = (struct tensor_view){ .ndim = 1, .shape = { t->src.cols } };
        t->out.enc = vector_enc(v, &t->src);
    } else {
        if (checkpoint_weight(v->c, hf, &t->src, e))
            return -1;
        t->out = (struct tensor_view){ .ndim = 2, .shape = { t->src.rows, t->src.cols } };
        if (matrix_enc(v, &t->src, &t->out.enc, e))
            return -1;
    }
    t->whole = v->lora && lora_whole(v->lora, hf, &t->src);
    if (t->out.ndim == 2)
        t->out.shape[0] = t->src.rows; /* an adapter's may have more tokens */
    set_size(t);
    if ((strstr(hf, ".q_proj.") || strstr(hf, ".k_proj.")) &&
        checkpoint_hparams(v->c)->rope.interleaved != v->to_gguf)
        t->order = v->to_gguf ? ORDER_PAIRS : ORDER_HALVES;
    return 0;
}

/* A tied model whose embedding and head an adapter changes apart gets a head of its own. */
static void untie(struct conv *v)
{
    struct conv_tensor *t = &v->t[v->n];

    for (size_t i = 0; i < v->n; i++)
        if (!strcmp(v->t[i].hf, "model.embed_tokens.weight"))
            *t = v->t[i];
    v->n++;
    snprintf(t->name, sizeof(t->name), "lm_head.weight");
    t->src = v->base->embed;
    t->whole = lora_whole(v->lora, t->name, &t->src);
    t->unties = true;
    set_size(t);
    v->hp.tied = false;
}

static int add_rope_freqs(struct conv *v, struct err *e)
{
    const size_t n = (size_t)v->hp.head_dim / 2;
    struct conv_tensor *t = &v->t[v->n];
    void *p;

    if (mem_new(&p, n, sizeof(float), "rope_freqs.weight", e))
        return -1;
    t->values = p;
    conv_rope_divisors(t->values, &v->hp);
    snprintf(t->name, sizeof(t->name), "rope_freqs.weight");
    t->out = (struct tensor_view){ .enc = ENC_F32, .ndim = 1, .shape = { n } };
    set_size(t);
    v->n++;
    return 0;
}

/* Greedy, in order: a file takes tensors until the next would pass the limit. */
static size_t cut_files(struct conv *v)
{
    size_t files = 0, bytes = 0;

    for (size_t i = 0; i < v->n; i++) {
        if (i == 0 || (!v->to_gguf && bytes + v->t[i].out.nbytes > v->max_shard)) {
            v->first[files++] = i;
            bytes = 0;
        }
        bytes += v->t[i].out.nbytes;
    }
    v->first[files] = v->n;
    return files;
}

static int head_of(struct conv *v, size_t f, size_t *data, struct err *e)
{
    const size_t n = v->first[f + 1] - v->first[f];
    struct tensor_view *view;
    struct gguf_meta m = { 0 };
    void *p;
    int rc = -1;

    if (mem_new(&p, n, sizeof(*view), "list of tensors", e))
        return -1;
    view = p;
    for (size_t i = 0; i < n; i++)
        view[i] = v->t[v->first[f] + i].out;
    if (v->to_gguf) {
        gguf_meta_init(&m);
        *data = 0;
        for (size_t i = 0; i < n; i++) {
            v->t[v->first[f] + i].pad = gguf_align(*data) - *data;
            *data = gguf_align(*data) + view[i].nbytes;
        }
        rc = conv_gguf_meta(v, &m, e) || gguf_write_head(&v->head[f], &m, view, n, e) ? -1 : 0;
    } else {
        rc = st_write_head(&v->head[f], data, view, n, "pt", e);
    }
    gguf_meta_release(&m);
    free(view);
    return rc;
}

static int plan_files(struct conv *v, struct err *e)
{
    size_t at = 0;

    v->first = xcalloc(v->n + 1, sizeof(*v->first));
    v->n_files = cut_files(v);
    v->file = xcalloc(v->n_files, sizeof(*v->file));
    v->head = xcalloc(v->n_files, sizeof(*v->head));
    for (size_t f = 0; f < v->n_files; f++) {
        size_t data;

        buf_init(&v->head[f], HEAD_MAX);
        if (head_of(v, f, &data, e))
            return -1;
        v->file[f].bytes = v->head[f].len + data;
        v->file[f].name = v->to_gguf ? xstrdup("model.gguf")
                          : v->n_files == 1
                              ? xstrdup("model.safetensors")
                              : xasprintf("model-%05zu-of-%05zu.safetensors", f + 1, v->n_files);
        at += v->head[f].len;
        for (size_t i = v->first[f]; i < v->first[f + 1]; i++) {
            at += v->t[i].pad + v->t[i].out.nbytes;
            v->t[i].end = at;
        }
    }
    return 0;
}

int conv_plan(struct conv *v, struct err *e)
{
    const size_t slots = checkpoint_slots(v->c);
    void *p;

    if (mem_new(&p, slots + 1, sizeof(*v->t), "list of tensors", e))
        return -1;
    v->t = p;
    for (size_t i = 0; i < slots; i++)
        if (add_slot(v, i, e))
            return -1;
    if (v->lora && v->hp.tied && lora_unties(v->lora))
        untie(v);
    if (v->to_gguf && v->hp.rope.type == ROPE_LLAMA3 && add_rope_freqs(v, e))
        return -1;
    return plan_files(v, e);
}

/* ---- the key ---- */

static int str_ptr_cmp(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_stat(struct buf *b, const char *name, const struct stat *st)
{
    buf_addf(b, "%s %lld %lld.%09ld\n", name, (long long)st->st_size, (long long)st->st_mtim.tv_sec,
             st->st_mtim.tv_nsec);
}

/* Names, sizes and times of the source's files. */
static int add_source(struct buf *b, const char *src, struct err *e)
{
    struct stat st;
    struct dirent **list;

    if (stat(src, &st))
        return err_set(e, ERR_NOT_FOUND, "%s: %s", src, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        add_stat(b, src, &st);
        return 0;
    }
    const int n = scandir(src, &list, NULL, NULL);

    if (n < 0)
        return err_set(e, ERR_FAIL, "%s: %s", src, strerror(errno));
    char **line = xcalloc((size_t)n + 1, sizeof(*line));

    for (int i = 0; i < n; i++) {
        char *path = path_join(src, list[i]->d_name);
        struct buf one;

        buf_init(&one, 4096);
        if (!stat(path, &st) && S_ISREG(st.st_mode))
            add_stat(&one, list[i]->d_name, &st);
        line[i] = buf_take(&one);
        buf_release(&one);
        free(path);
        free(list[i]);
    }
    qsort(line, (size_t)n, sizeof(*line), str_ptr_cmp);
    for (int i = 0; i < n; i++) {
        buf_adds(b, line[i]);
        free(line[i]);
    }
    free(line);
    free(list);
    return 0;
}

int conv_key(const struct conv *v, char key[65], struct err *e)
{
    struct buf b;
    int rc = -1;

    buf_init(&b, HEAD_MAX * 2);
    buf_addf(&b, "%s\n%s\n", PUNA_VERSION, v->src);
    if (add_source(&b, v->src, e) || (v->adapter && add_source(&b, v->adapter, e)))
        goto done;
    for (size_t f = 0; f < v->n_files; f++)
        buf_add(&b, v->head[f].p, v->head[f].len);
    rc = buf_check(&b, "key", e) || sha256_hex(key, b.p, b.len, e) ? -1 : 0;
done:
    buf_release(&b);
    return rc;
}
