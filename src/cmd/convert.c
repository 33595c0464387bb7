/* convert.c - `puna convert`: the same model in another container or encoding, a tensor at a
 * time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "cmd/common.h"
#include "cmd/convert_int.h"
#include "cmd/opt.h"
#include "hub/models.h"

struct convert_cfg {
    const char *src, *dst, *outtype, *max_shard_size, *chat_template;
    bool instruct, json;
};

static const struct opt opts[] = {
    OPT(ARG, struct convert_cfg, src, NULL, "SRC", NULL, "folder, GGUF file or short name"),
    OPT(ARG, struct convert_cfg, dst, NULL, "DST", NULL, "NAME.gguf, or a folder to be made"),
    OPT(STR, struct convert_cfg, outtype, NULL, "auto|f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1",
        "auto", "encoding of the matrices; auto keeps what the source has"),
    OPT(STR, struct convert_cfg, max_shard_size, NULL, "SIZE", "5GB",
        "largest safetensors file of a folder: bytes, or a number with MB or GB"),
    OPT(STR, struct convert_cfg, chat_template, NULL, "FILE", NULL,
        "chat template to write, in place of the source's"),
    OPT(BOOL, struct convert_cfg, instruct, NULL, NULL, "false",
        "Meta's files: an Instruct model, whose answers end with <|eot_id|> or <|eom_id|> too"),
    OPT(BOOL, struct convert_cfg, json, NULL, NULL, "false", "one JSON object on stdout"),
    { .name = NULL },
};

enum { CHUNK = 4 << 20, MARK_EVERY = 64 << 20 }; /* bytes: written at once; between marks */

/* ---- rows ---- */

/* The source's row for a row of the output. Within a head, Hugging Face's row j*hd/2 + i is GGUF's
 * and Meta's 2i + j. */
static size_t source_row(enum row_order order, size_t row, size_t hd)
{
    const size_t head = row / hd * hd, o = row % hd;

    switch (order) {
    case ORDER_PAIRS:
        return head + o % 2 * (hd / 2) + o / 2;
    case ORDER_HALVES:
        return head + o % (hd / 2) * 2 + o / (hd / 2);
    case ORDER_SAME:
        break;
    }
    return row;
}

/* What an adapter makes of the rows of one matrix. */
struct merge {
    const struct lora *lora;
    const struct lora_pair *pair; /* NULL = none */
    bool embed, head;             /* the embedding; a head that was tied to it */
    float *a, *b;                 /* pair->a; scratch */
};

static int merge_open(struct merge *m, const struct conv *v, const struct conv_tensor *t,
                      struct err *e)
{
    const size_t cols = t->src.cols;
    void *p;

    *m = (struct merge){ .lora = v->lora };
    if (!v->lora)
        return 0;
    m->pair = lora_find(v->lora, t->name);
    m->embed = !strcmp(t->name, "model.embed_tokens.weight") &&
               (v->lora->embed.a.data || v->lora->n_token);
    m->head = t->unties && v->lora->n_token && !t->whole;

    const size_t rank = m->pair ? m->pair->a.rows : 0;

    if (mem_new(&p, rank * (cols + 1) + 2 * v->lora->max_rank + 1, sizeof(float), t->name, e))
        return -1;
    m->a = p;
    m->b = m->a + rank * cols;
    for (size_t k = 0; k < rank; k++)
        weight_decode_row(m->a + k * cols, &m->pair->a, k);
    return 0;
}

static bool merges(const struct merge *m)
{
    return m->pair || m->embed || m->head;
}

static void merge_row(const struct merge *m, size_t row, float *x)
{
    if (m->embed)
        lora_merge_embed_row(m->lora, m->b, row, x);
    if (m->head)
        lora_merge_token_row(m->lora, row, x);
    if (m->pair)
        lora_merge_row(m->pair, m->a, m->b, row, x);
}

/* Row `row` of src in another encoding; x is scratch for its values. */
static int recode(uint8_t *to, enum enc enc, const struct weight *src, size_t row,
                  const struct merge *m, float *x, struct err *e)
{
    weight_decode_row(x, src, row);
    merge_row(m, row, x);
    for (size_t i = 0; enc == ENC_F16 && i < src->cols; i++)
        if (fabsf(x[i]) >= 65520 && isfinite(x[i]))
            return err_set(e, ERR_FORMAT,
                           "%s: row %zu, value %zu is %g, beyond the 65504 of f16: use --outtype "
                           "bf16 or f32",
                           src->name, row, i, (double)x[i]);
    enc_table[enc].encode(to, x, src->cols);
    return 0;
}

static int write_tensor(const struct conv *v, const struct conv_tensor *t, struct work *w,
                        struct err *e)
{
    const struct weight *src = &t->src;
    const size_t bytes = t->out.nbytes / src->rows;
    const size_t at_once = bytes < CHUNK ? CHUNK / bytes : 1;
    struct merge m = { .pair = NULL };
    void *buf = NULL, *x = NULL;
    int rc = -1;

    if (mem_new(&buf, (at_once < src->rows ? at_once : src->rows) * bytes, 1, t->name, e) ||
        mem_new(&x, src->cols, sizeof(float), t->name, e) || merge_open(&m, v, t, e))
        goto done;
    for (size_t r = 0; r < src->rows; r += at_once) {
        const size_t n = src->rows - r < at_once ? src->rows - r : at_once;

        for (size_t k = 0; k < n; k++) {
            const size_t row = source_row(t->order, r + k, (size_t)v->hp.head_dim);
            uint8_t *to = (uint8_t *)buf + k * bytes;

            if (src->enc == t->out.enc && !merges(&m))
                memcpy(to, (const uint8_t *)src->data + row * src->row_bytes, bytes);
            else if (recode(to, t->out.enc, src, row, &m, x, e))
                goto done;
        }
        if (work_write(w, buf, n * bytes, e))
            goto done;
        progress_show("convert: MB", w->at >> 20, w->total >> 20);
    }
    rc = 0;
done:
    free(buf);
    free(x);
    free(m.a);
    return rc;
}

static int write_joined(const struct conv *v, struct conv_tensor *t, struct work *w, struct err *e)
{
    int rc;

    if (t->values)
        return work_write(w, t->values, t->out.nbytes, e);
    if (t->out.ndim == 1 || t->whole)
        return write_tensor(v, t, w, e);
    if (checkpoint_join(v->c, t->hf, e) || checkpoint_weight(v->c, t->hf, &t->src, e))
        return -1;
    rc = write_tensor(v, t, w, e);
    checkpoint_unjoin(v->c, t->hf);
    return rc;
}

/* At most 64 times in all, or every 64 MB: each mark waits for the disk. */
static int mark(struct work *w, size_t *marked, struct err *e)
{
    const size_t step = w->total / 64 < MARK_EVERY ? w->total / 64 : MARK_EVERY;

    if (w->at - *marked < step)
        return 0;
    *marked = w->at;
    return work_mark(w, e);
}

/* Whatever an earlier run has not written yet. */
static int write_all(struct conv *v, struct work *w, struct err *e)
{
    static const char zeros[GGUF_ALIGN];
    size_t at = 0; /* where the next thing begins */
    size_t marked = w->at;

    for (size_t f = 0; f < v->n_files; f++) {
        if (w->at == at && work_write(w, v->head[f].p, v->head[f].len, e))
            return -1;
        at += v->head[f].len;
        for (size_t i = v->first[f]; i < v->first[f + 1]; at = v->t[i++].end)
            if (w->at == at && (work_write(w, zeros, v->t[i].pad, e) ||
                                write_joined(v, &v->t[i], w, e) || mark(w, &marked, e)))
                return -1;
    }
    return 0;
}

/* ---- the whole ---- */

int conv_parse_size(size_t *out, const char *text, struct err *e)
{
    char *end;
    const double n = strtod(text, &end);
    const double unit = !strcmp(end, "GB") ? 1e9 : !strcmp(end, "MB") ? 1e6 : *end ? 0 : 1;

    if (end == text || !(n * unit >= 1 && n * unit <= 1e18))
        return err_set(e, ERR_USAGE, "--max-shard-size %s: want bytes, or a number with MB or GB",
                       text);
    *out = (size_t)(n * unit);
    return 0;
}

static int id_cmp(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* params.json says nothing about the ids that begin and end a text; the tokenizer does. */
static int meta_ids(struct conv *v, bool instruct, struct err *e)
{
    static const char *const ends[] = { "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>" };
    const struct gen_defaults *g = checkpoint_gen_defaults(v->c);
    struct hparams *h = &v->hp;

    h->bos = tok_bos(v->tok);
    h->n_eos = 0;
    for (size_t i = 0; instruct && i < ARRAY_LEN(ends); i++) {
        h->eos[h->n_eos++] = tok_id(v->tok, ends[i]);
        if (h->eos[i] < 0)
            return err_set(e, ERR_FORMAT, "%s: the tokenizer has no %s: not an Instruct model",
                           v->src, ends[i]);
    }
    for (int i = 0; !instruct && i < g->n_eos; i++)
        h->eos[h->n_eos++] = g->eos[i];
    if (h->n_eos == 0 && tok_eos(v->tok) >= 0)
        h->eos[h->n_eos++] = tok_eos(v->tok);
    return 0;
}

static int read_template(struct conv *v, const char *path, struct err *e)
{
    char *text;
    size_t n;

    if (file_read(&text, &n, path, 1 << 20, e))
        return -1;
    tok_set_chat_template(v->tok, text);
    v->new_template = true;
    free(text);
    return 0;
}

static int open_source(struct conv *v, struct err *e)
{
    const struct tensor_view *freqs;

    if (v->adapter &&
        (model_open(&v->base, v->src, e) || lora_open_longer(&v->lora, v->base, v->adapter, e)))
        return -1;
    if (v->lora && lora_unmergeable(v->lora))
        return err_set(e, ERR_FORMAT, "%s: cannot be merged: %s; apply it with --adapter",
                       v->adapter, lora_unmergeable(v->lora));
    if (checkpoint_open(&v->c, v->src, e) || checkpoint_check(v->c, e) ||
        tok_open(&v->tok, v->src, e))
        return -1;
    if (checkpoint_warning(v->c))
        fprintf(stderr, "warning: %s\n", checkpoint_warning(v->c));
    v->hp = *checkpoint_hparams(v->c);
    if (v->lora)
        v->hp.vocab = (int64_t)v->lora->vocab;
    if (!strcmp(checkpoint_container(v->c), "consolidated")) {
        if (meta_ids(v, v->instruct, e))
            return -1;
    } else if (v->instruct) {
        return err_set(e, ERR_USAGE, "--instruct is for Meta's own files: %s says it itself",
                       v->src);
    }
    if (v->chat_template && read_template(v, v->chat_template, e))
        return -1;
    if (checkpoint_gguf(v->c)) /* where the order says nothing */
        qsort(v->hp.eos, (size_t)v->hp.n_eos, sizeof(*v->hp.eos), id_cmp);
    freqs = checkpoint_find(v->c, "rope_freqs.weight");
    if (freqs && conv_rope_from_divisors(&v->hp, freqs, e))
        return err_wrap(e, "%s", v->src);
    if (!v->to_gguf && v->outtype >= 0) {
        if (v->outtype != ENC_F32 && v->outtype != ENC_F16 && v->outtype != ENC_BF16)
            return err_set(e, ERR_USAGE,
                           "--outtype %s is for GGUF files: a folder holds f32, f16 or bf16; name "
                           "the destination NAME.gguf",
                           enc_table[v->outtype].name);
        v->hp.dtype = (enum enc)v->outtype;
    }
    return 0;
}

void conv_print_json(const struct conv *v)
{
    json_t *files = json_array(), *j;
    size_t bytes = 0;
    char *text;

    for (size_t f = 0; f < v->n_files; f++) {
        bytes += v->file[f].bytes;
        json_array_append_new(files, json_pack("{s:s,s:I}", "name", v->file[f].name, "bytes",
                                               (json_int_t)v->file[f].bytes));
    }
    j = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:o}", "source", v->src, "destination", v->dst,
                  "container", v->to_gguf ? "gguf" : "safetensors", "tensors", (json_int_t)v->n,
                  "bytes", (json_int_t)bytes, "resumed_bytes", (json_int_t)v->resumed, "files",
                  files);
    text = json_dumps(j, JSON_COMPACT);
    printf("%s\n", text ? text : "{}");
    free(text);
    json_decref(j);
}

int conv_run(struct conv *v, struct err *e)
{
    struct work w = { 0 };
    char key[65];
    int rc = -1;

    if (open_source(v, e) || conv_plan(v, e) || conv_key(v, key, e) ||
        work_open(&w, v->dst, !v->to_gguf, key, v->file, v->n_files, e))
        return -1;
    v->resumed = w.at;
    if (w.at)
        fprintf(stderr, "going on after %zu of %zu bytes\n", w.at, w.total);
    if (write_all(v, &w, e) == 0 && (v->to_gguf || conv_hf_files(v, &w, e) == 0))
        rc = work_finish(&w, e);
    progress_end();
    work_stop(&w);
    return rc;
}

void conv_release(struct conv *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->t[i].values);
    for (size_t f = 0; f < v->n_files; f++) {
        free((char *)(uintptr_t)v->file[f].name);
        buf_release(&v->head[f]);
    }
    free(v->t);
    free(v->file);
    free(v->head);
    free(v->first);
    tok_free(v->tok);
    lora_close(v->lora);
    model_close(v->base);
    checkpoint_close(v->c);
}

static int run(const void *cfg, struct err *e)
{
    const struct convert_cfg *c = cfg;
    const size_t n = strlen(c->dst);
    struct conv v = { .dst = c->dst, .outtype = enc_from_name(c->outtype) };
    char *src;
    int rc;

    v.to_gguf = n > 5 && !strcmp(c->dst + n - 5, ".gguf");
    if (conv_parse_size(&v.max_shard, c->max_shard_size, e) || hub_resolve(c->src, &src, e))
        return -1;
    v.src = src;
    v.instruct = c->instruct;
    v.chat_template = c->chat_template;
    rc = conv_run(&v, e);
    if (rc == 0 && c->json)
        conv_print_json(&v);
    conv_release(&v);
    free(src);
    return rc;
}

const struct cmd cmd_convert = {
    .name = "convert",
    .summary = "the same model in another kind of file",
    .usage = "SRC DST",
    .help =
        "Writes a model as a GGUF file (DST ends in .gguf) or as a Hugging Face folder (any other "
        "DST),\n"
        "with its tokenizer and chat template. Weights in f32, f16 and bf16 stay bit-identical "
        "unless\n"
        "--outtype asks for another encoding.\n"
        "\n"
        "DST appears only when it is complete. Until then it grows in DST.partial; the same "
        "command\n"
        "goes on from there after an interruption, and gives the same bytes.\n"
        "\n"
        "EXAMPLES\n"
        "    puna convert Llama-3.1-8B-Instruct/ llama.gguf --outtype q8_0\n"
        "    puna convert model.gguf model/ --outtype bf16\n",
    .opts = opts,
    .cfg_size = sizeof(struct convert_cfg),
    .run = run,
};
