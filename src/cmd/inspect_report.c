/* inspect_report.c - what was found, as members of the report. */
#include "cmd/inspect_int.h"

#include <string.h>

#include "base/utf8.h"

void report_put(json_t *j, const char *key, json_t *take_value)
{
    json_object_set_new(j, key, take_value);
}

void report_int(json_t *j, const char *key, int64_t v)
{
    report_put(j, key, json_integer((json_int_t)v));
}

/* Bytes from a file, made valid UTF-8. */
static json_t *text_of(const char *p, size_t n)
{
    struct buf b;
    json_t *s;

    buf_init(&b, 4 * n + 16);
    utf8_sanitize(&b, p, n);
    s = json_stringn(b.p, b.len);
    buf_release(&b);
    return s;
}

void report_text(json_t *j, const char *key, const char *p)
{
    report_put(j, key, text_of(p, strlen(p)));
}

static void put_eos(json_t *j, const int64_t *eos, int n)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer((json_int_t)eos[i]));
    report_put(j, "eos", list);
}

static void put_rope(json_t *j, const struct rope_params *r)
{
    static const char *const name[] = {
        [ROPE_PLAIN] = "default", [ROPE_LLAMA3] = "llama3", [ROPE_LINEAR] = "linear"
    };
    json_t *o = json_object();

    report_text(o, "type", name[r->type]);
    report_put(o, "theta", json_real(r->theta));
    if (r->type != ROPE_PLAIN)
        report_put(o, "factor", json_real(r->factor));
    if (r->type == ROPE_LLAMA3) {
        report_put(o, "low_freq_factor", json_real(r->low_freq_factor));
        report_put(o, "high_freq_factor", json_real(r->high_freq_factor));
        report_int(o, "original_context", r->original_ctx);
    }
    report_put(j, "rope", o);
}

void report_hparams(json_t *top, const struct hparams *h)
{
    json_t *j = json_object();

    report_text(j, "architecture", h->arch);
    report_int(j, "vocab", h->vocab);
    report_int(j, "hidden", h->dim);
    report_int(j, "intermediate", h->ffn);
    report_int(j, "layers", h->layers);
    report_int(j, "heads", h->heads);
    report_int(j, "kv_heads", h->kv_heads);
    report_int(j, "head_dim", h->head_dim);
    report_int(j, "context", h->ctx);
    report_put(j, "eps", json_real(h->eps));
    put_rope(j, &h->rope);
    report_put(j, "tied_head", json_boolean(h->tied));
    report_text(j, "dtype", enc_table[h->dtype].name);
    if (h->quant.method != QUANT_NONE)
        report_text(j, "quantization", quant_method_name(h->quant.method));
    if (h->bos >= 0)
        report_int(j, "bos", h->bos);
    put_eos(j, h->eos, h->n_eos);
    report_put(top, "hparams", j);
}

void report_generation(json_t *top, const struct gen_defaults *d)
{
    json_t *j = json_object();

    if (d->has_sample)
        report_put(j, "do_sample", json_boolean(d->sample));
    if (d->has_temperature)
        report_put(j, "temperature", json_real(d->temperature));
    if (d->has_top_p)
        report_put(j, "top_p", json_real(d->top_p));
    if (d->has_top_k)
        report_int(j, "top_k", d->top_k);
    if (d->has_min_p)
        report_put(j, "min_p", json_real(d->min_p));
    if (d->has_repetition)
        report_put(j, "repetition_penalty", json_real(d->repetition));
    if (d->max_new_tokens)
        report_int(j, "max_new_tokens", d->max_new_tokens);
    if (d->n_eos)
        put_eos(j, d->eos, d->n_eos);
    if (json_object_size(j))
        report_put(top, "generation", j);
    else
        json_decref(j);
}

void report_tensor(json_t *list, const struct tensor_view *t, struct totals *sum)
{
    json_t *j = json_object(), *shape = json_array();
    uint64_t values = 1;

    for (int i = 0; i < t->ndim; i++) {
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
        values *= t->shape[i]; /* checked when the file was opened */
    }
    report_text(j, "name", t->name);
    report_text(j, "encoding", enc_table[t->enc].name);
    report_put(j, "shape", shape);
    report_int(j, "bytes", (int64_t)t->nbytes);
    json_array_append_new(list, j);
    sum->values += values;
    sum->bytes += t->nbytes;
}

void report_tensors(json_t *top, json_t *take_list, const struct totals *sum)
{
    json_t *j = json_object();

    report_int(j, "tensors", (int64_t)json_array_size(take_list));
    report_int(j, "values", (int64_t)sum->values);
    report_int(j, "bytes", (int64_t)sum->bytes);
    report_put(top, "tensors", take_list);
    report_put(top, "totals", j);
}

/* The entry of `list` for w's kind of encoding. */
static json_t *encoding_entry(json_t *list, const char *name, const char *detail)
{
    size_t i;
    json_t *j;

    json_array_foreach(
        list, i, j) if (!strcmp(json_string_value(json_object_get(j, "encoding")), name) &&
                        !strcmp(json_string_value(json_object_get(j, "detail")), detail)) return j;
    j = json_object();
    report_text(j, "encoding", name);
    report_text(j, "detail", detail);
    report_int(j, "matrices", 0);
    report_int(j, "values", 0);
    report_int(j, "bytes", 0);
    json_array_append_new(list, j);
    return j;
}

static void add_to(json_t *j, const char *key, int64_t n)
{
    report_int(j, key, json_integer_value(json_object_get(j, key)) + n);
}

/* The matrices of a model by encoding, planes counted with their codes. */
void report_encodings(json_t *top, const struct checkpoint *c)
{
    json_t *list = json_array();
    uint64_t values = 0;

    for (size_t i = 0; i < checkpoint_tensors(c); i++) {
        const struct tensor_view *t = checkpoint_tensor(c, i);
        struct weight w;
        enum enc enc;
        char detail[96];
        const uint64_t n = checkpoint_values(c, t, &enc);

        values += n;
        if (!checkpoint_weight_of(c, t, &w))
            continue;
        quant_detail(detail, &w);
        json_t *j = encoding_entry(list, enc_table[w.enc].name, detail);

        add_to(j, "matrices", w.data == t->data);
        add_to(j, "values", (int64_t)n);
        add_to(j, "bytes", (int64_t)t->nbytes);
    }
    report_put(top, "encodings", list);
    report_int(json_object_get(top, "totals"), "values", (int64_t)values);
}

static void add_meta(void *arg, struct gguf_str key, uint32_t type, const char *value)
{
    json_t *j = arg;
    char *name = strndup(key.p, key.n);

    (void)type;
    if (name)
        report_text(j, name, value);
    free(name);
}

void report_gguf(json_t *top, const struct gguf *g)
{
    json_t *meta = json_object(), *list = json_array();
    struct totals sum = { 0 };

    gguf_each_meta(g, add_meta, meta);
    for (size_t i = 0; i < gguf_tensors(g); i++)
        report_tensor(list, gguf_tensor(g, i), &sum);
    report_text(top, "container", "gguf");
    report_int(top, "version", gguf_version(g));
    report_put(top, "metadata", meta);
    report_tensors(top, list, &sum);
}
